"""What the picture backbones that halve by strides share: their layers as numbers, and what those cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kdexport.backbones import InputShape
from kdexport.nouns.graph import GraphCost

SMALLEST_SIDE = 2  # of the last stage's picture, in the search space
STEM_STRIDES = (1, 2, 4)
WIDTHS = (8, 16, 32, 48, 64, 96, 128, 160, 192, 256)  # of the first stage: whole tiles of 8 or 16 lanes


class Convolution(NamedTuple):
    """One convolution with its normalisation. inputs: channels that one filter reads (1 where depthwise)."""

    inputs: int
    outputs: int
    kernel_size: int
    downsampling: int  # side of the picture over side of the output, rounded up: strides multiply


def sizes(
    shape: InputShape, max_channels: int, layer_counts: Sequence[int], stem_strides: Sequence[int] = STEM_STRIDES
) -> Iterator[tuple[int, int, int, int]]:
    """(width, stages, layers in a stage, stride of the stem) where the last stage has at most max_channels and still
    sees more than a point of the smallest side."""
    side = min(shape.height, shape.width)
    for width in WIDTHS:
        for num_stages in range(1, 6):
            if width << (num_stages - 1) > max_channels:
                break
            for layers in layer_counts:
                for stem_stride in stem_strides:
                    if side >> (num_stages - 1) >= SMALLEST_SIDE * stem_stride:
                        yield width, num_stages, layers, stem_stride


def cost_of(convolutions: Sequence[Convolution], num_classes: int, shape: InputShape) -> GraphCost:
    """Of the convolutions, the mean over positions and the classifier.

    At run time a normalisation becomes part of its convolution (one bias a channel), and ReLU and shortcut are done
    by the convolution that writes their input; besides these, ONNX Runtime reorders its blocked layout once."""
    flops = outputs = weights = channels = 0
    for layer in convolutions:
        positions = -(-shape.height // layer.downsampling) * -(-shape.width // layer.downsampling)
        filters = layer.kernel_size**2 * layer.inputs * layer.outputs
        flops += 2 * filters * positions
        outputs += layer.outputs * positions
        weights += filters
        channels += layer.outputs
    features = convolutions[-1].outputs
    classifier = features * num_classes + num_classes
    return GraphCost(
        flops=float(shape.batch * (flops + 2 * features * num_classes + features)),
        weight_bytes=4.0 * (weights + channels + classifier),
        activation_bytes=4.0 * shape.batch * (outputs + features + num_classes),
        num_operators=len(convolutions) + 3,
        num_params=weights + 4 * channels + classifier,  # normalisation: weight, bias, running mean and variance
        tokens=shape.batch,
    )
