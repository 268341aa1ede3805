"""Images: plain 3x3 convolutions with batch normalisation in stages, halving the picture and widening (Simonyan and
Zisserman 2015), then the mean over positions. Convolution and normalisation become one operator at run time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.backbones import InputShape, no_embedding
from kdexport.backbones._strided import sizes
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "image"
SIZE_FIELDS = ("channels", "width", "num_stages", "layers_per_stage")
MAX_CHANNELS = 512  # of the last stage, in the search space


class Spec(StudentSpec):
    backbone: Literal["image_convolution"] = "image_convolution"
    channels: int = Field(ge=1, description="of the input: 1 grey, 3 colour")
    width: int = Field(ge=1, description="channels of the first stage; each later stage doubles them")
    num_stages: int = Field(default=2, ge=1, le=5)
    layers_per_stage: int = Field(default=1, ge=1)


def _layers(spec: Spec) -> list[tuple[int, int, bool]]:
    """(channels in, channels out, halve the picture first) of each convolution."""
    layers: list[tuple[int, int, bool]] = []
    channels = spec.channels
    for stage in range(spec.num_stages):
        for layer in range(spec.layers_per_stage):
            layers.append((channels, spec.width << stage, stage > 0 and layer == 0))
            channels = spec.width << stage
    return layers


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: float32 pixels (B, channels, H, W), normalised -> float32 logits (B, C)."""
    from torch import nn

    class ImageConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks: list[nn.Module] = []
            for channels_in, channels_out, halve in _layers(spec):
                blocks += [nn.MaxPool2d(2)] if halve else []
                blocks += [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)]
                blocks += [nn.BatchNorm2d(channels_out), nn.ReLU()]
            self.features = nn.Sequential(*blocks)
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(_layers(spec)[-1][1], num_classes)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.dropout(self.features(pixels).mean((2, 3))))
            return logits

    return ImageConvolution()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    height, width = shape.height, shape.width
    flops = outputs = weights = channels = 0
    for channels_in, channels_out, halve in _layers(spec):
        if halve:
            height, width = height // 2, width // 2
            flops += channels_in * height * width
        filters = 9 * channels_in * channels_out
        flops += 2 * filters * height * width
        outputs += channels_out * height * width
        weights += filters
        channels += channels_out
    features = _layers(spec)[-1][1]
    classifier = features * num_classes + num_classes
    return GraphCost(
        flops=float(shape.batch * (flops + features + 2 * features * num_classes)),
        weight_bytes=4.0 * (weights + channels + classifier),  # the normalisation leaves one bias a channel
        activation_bytes=4.0 * shape.batch * outputs,
        num_operators=len(_layers(spec)) + spec.num_stages + 2,
        num_params=weights + 4 * channels + classifier,  # normalisation: weight, bias, running mean and variance
        tokens=shape.batch,
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for width, num_stages, layers_per_stage, _ in sizes(shape, MAX_CHANNELS, (1, 2, 3, 4, 5, 6), stem_strides=(1,)):
        yield Spec(channels=shape.channels, width=width, num_stages=num_stages, layers_per_stage=layers_per_stage)


initialise = no_embedding
