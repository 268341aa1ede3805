"""Images: plain 3x3 convolutions with batch normalisation in stages, halving the picture and widening (Simonyan and
Zisserman 2015), then the mean over positions. Convolution and normalisation become one operator at run time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.backbones import InputShape
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

input_kind: Literal["text", "image"] = "image"
SMALLEST_SIDE = 4  # no further halving below this


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
    height, width, flops, activations, params = shape.height, shape.width, 0.0, 0.0, 0
    for channels_in, channels_out, halve in _layers(spec):
        if halve:
            height, width = height // 2, width // 2
        weights = 9 * channels_in * channels_out
        flops += 2.0 * weights * height * width
        activations += channels_out * height * width
        params += weights + 4 * channels_out  # batch normalisation: weight, bias, running mean and variance
    classifier = _layers(spec)[-1][1] * num_classes + num_classes
    return GraphCost(
        flops=shape.batch * (flops + 2.0 * classifier),
        weight_bytes=4.0 * (params + classifier),
        activation_bytes=4.0 * shape.batch * activations,
        num_operators=len(_layers(spec)) + spec.num_stages + 2,
        num_params=params + classifier,
        tokens=shape.batch,
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    side = min(shape.height, shape.width)
    for width in (4, 6, 8, 12, 16, 24, 32, 48, 64):
        for num_stages in (1, 2, 3, 4):
            for layers_per_stage in (1, 2, 3):
                if side >> (num_stages - 1) >= SMALLEST_SIDE // 2:
                    yield Spec(
                        channels=shape.channels, width=width, num_stages=num_stages, layers_per_stage=layers_per_stage
                    )


def initialise(module: torch.nn.Module, embedding: np.ndarray) -> None:
    """An image has no token embedding: nothing to take over."""
