"""Images: basic residual blocks of two 3x3 convolutions, with a 1x1 projection where the picture is halved (ResNet, He
et al. 2016): what a deep student needs to train. The runtime adds the shortcut inside the second convolution."""

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
SIZE_FIELDS = ("channels", "width", "num_stages", "blocks_per_stage")
MAX_CHANNELS = 512


class Spec(StudentSpec):
    backbone: Literal["residual_convolution"] = "residual_convolution"
    channels: int = Field(ge=1, description="of the input: 1 grey, 3 colour")
    width: int = Field(ge=1, description="channels of the first stage; each later stage doubles them")
    num_stages: int = Field(default=2, ge=1, le=5)
    blocks_per_stage: int = Field(default=1, ge=1, description="of two convolutions each")
    stem_stride: int = Field(default=1, ge=1, le=4, description="of the first convolution: more for large pictures")


def _blocks(spec: Spec) -> list[tuple[int, int, int]]:
    """(channels in, channels out, stride) of each block."""
    blocks, channels = [], spec.width
    for stage in range(spec.num_stages):
        for block in range(spec.blocks_per_stage):
            blocks.append((channels, spec.width << stage, 2 if stage > 0 and block == 0 else 1))
            channels = spec.width << stage
    return blocks


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: float32 pixels (B, channels, H, W), normalised -> float32 logits (B, C)."""
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = convolution(inputs, outputs, 3, stride)
            self.second = convolution(outputs, outputs, 3)
            self.shortcut = nn.Identity() if stride == 1 else convolution(inputs, outputs, 1, stride)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(torch.relu(self.first(hidden))) + self.shortcut(hidden))

    class ResidualConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = [convolution(spec.channels, spec.width, 3, spec.stem_stride), nn.ReLU()]
            self.features = nn.Sequential(*stem, *(Block(*block) for block in _blocks(spec)))
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(_blocks(spec)[-1][1], num_classes)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.dropout(self.features(pixels).mean((2, 3))))
            return logits

    return ResidualConvolution()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    downsampling = spec.stem_stride
    convolutions = [Convolution(spec.channels, spec.width, 3, downsampling)]
    for inputs, outputs, stride in _blocks(spec):
        downsampling *= stride
        convolutions += [Convolution(inputs, outputs, 1, downsampling)] if stride > 1 else []
        convolutions += [Convolution(inputs, outputs, 3, downsampling), Convolution(outputs, outputs, 3, downsampling)]
    return cost_of(convolutions, num_classes, shape)


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for width, num_stages, blocks, stem_stride in sizes(shape, MAX_CHANNELS, (1, 2, 3, 4)):
        yield Spec(
            channels=shape.channels,
            width=width,
            num_stages=num_stages,
            blocks_per_stage=blocks,
            stem_stride=stem_stride,
        )


initialise = no_embedding
