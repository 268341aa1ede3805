"""Images: depthwise 3x3 and pointwise 1x1 convolutions in place of plain 3x3 ones (MobileNet, Howard et al. 2017), in
stages that halve the picture and widen: about an eighth of the arithmetic at the same width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.backbones import InputShape, no_embedding
from kdexport.backbones._strided import Convolution, cost_of, sizes
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "image"
SIZE_FIELDS = ("channels", "width", "num_stages", "layers_per_stage")
MAX_CHANNELS = 1024


class Spec(StudentSpec):
    backbone: Literal["depthwise_convolution"] = "depthwise_convolution"
    channels: int = Field(ge=1, description="of the input: 1 grey, 3 colour")
    width: int = Field(ge=1, description="channels of the first stage; each later stage doubles them")
    num_stages: int = Field(default=2, ge=1, le=5)
    layers_per_stage: int = Field(default=1, ge=1, description="depthwise-pointwise pairs")
    stem_stride: int = Field(default=1, ge=1, le=4, description="of the first convolution: more for large pictures")


def _pairs(spec: Spec) -> list[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each depthwise-pointwise pair."""
    pairs, channels = [], spec.width
    for stage in range(spec.num_stages):
        for layer in range(spec.layers_per_stage):
            pairs.append((channels, spec.width << stage, 2 if stage > 0 and layer == 0 else 1))
            channels = spec.width << stage
    return pairs


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: float32 pixels (B, channels, H, W), normalised -> float32 logits (B, C)."""
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        padding = kernel_size // 2
        layer = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    class DepthwiseConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks = convolution(spec.channels, spec.width, 3, spec.stem_stride)
            for inputs, outputs, stride in _pairs(spec):
                blocks += convolution(inputs, inputs, 3, stride, groups=inputs)
                blocks += convolution(inputs, outputs, 1)
            self.features = nn.Sequential(*blocks)
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(_pairs(spec)[-1][1], num_classes)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.dropout(self.features(pixels).mean((2, 3))))
            return logits

    return DepthwiseConvolution()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    downsampling = spec.stem_stride
    convolutions = [Convolution(spec.channels, spec.width, 3, downsampling)]
    for inputs, outputs, stride in _pairs(spec):
        downsampling *= stride
        convolutions += [Convolution(1, inputs, 3, downsampling), Convolution(inputs, outputs, 1, downsampling)]
    return cost_of(convolutions, num_classes, shape)


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for width, num_stages, layers, stem_stride in sizes(shape, MAX_CHANNELS, (1, 2, 3, 4, 5, 6)):
        yield Spec(
            channels=shape.channels,
            width=width,
            num_stages=num_stages,
            layers_per_stage=layers,
            stem_stride=stem_stride,
        )


initialise = no_embedding
