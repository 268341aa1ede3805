"""Text: embedding -> width-3 convolutions -> attention pooling and max pooling -> classifier (Kim 2014, and
Lin et al. 2017 for the pooling). On short text it beats a small transformer at a fraction of its latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.backbones import InputShape, initialise_embedding
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "text"
PAD_ID = 0
KERNEL_SIZE = 3
MASKED = -1e4  # finite, so that a row of padding alone gives no NaN; exact in fp16


class Spec(StudentSpec):
    backbone: Literal["convolution"] = "convolution"
    vocab_size: int = Field(ge=2)
    embedding_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    num_hidden_layers: int = Field(default=1, ge=1)


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: int64 ids (B, T), padded with 0 -> float32 logits (B, C)."""
    import torch
    from torch import nn

    class TextConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=PAD_ID)
            widths = [spec.embedding_size] + [spec.hidden_size] * spec.num_hidden_layers
            self.layers = nn.ModuleList(
                nn.Conv1d(a, b, KERNEL_SIZE, padding=KERNEL_SIZE // 2) for a, b in pairwise(widths)
            )
            self.attention = nn.Linear(spec.hidden_size, 1)
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(2 * spec.hidden_size, num_classes)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            padding = (input_ids == PAD_ID).unsqueeze(-1)  # (B, T, 1)
            hidden = self.embedding(input_ids).transpose(1, 2)  # (B, E, T); the row of the padding is zero
            for layer in self.layers:
                hidden = torch.relu(layer(hidden)).masked_fill(padding.transpose(1, 2), 0.0)
            hidden = hidden.transpose(1, 2)  # (B, T, D); zero where padded, and never negative: max needs no mask
            weights = self.attention(hidden).masked_fill(padding, MASKED).softmax(1)
            pooled = torch.cat([(hidden * weights).sum(1), hidden.amax(1)], -1)
            logits: torch.Tensor = self.classifier(self.dropout(pooled))
            return logits

    return TextConvolution()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    tokens = shape.batch * shape.tokens
    widths = [spec.embedding_size] + [spec.hidden_size] * spec.num_hidden_layers
    convolutions = sum(KERNEL_SIZE * a * b + b for a, b in pairwise(widths))
    classifier = 2 * spec.hidden_size * num_classes + num_classes
    params = spec.vocab_size * spec.embedding_size + convolutions + spec.hidden_size + 1 + classifier
    flops = 2.0 * (tokens * (convolutions + 3 * spec.hidden_size) + shape.batch * classifier)
    return GraphCost(
        flops=flops,
        weight_bytes=4.0 * (tokens * spec.embedding_size + convolutions + classifier),
        activation_bytes=4.0 * tokens * (2 * spec.embedding_size + spec.hidden_size * (2 * spec.num_hidden_layers + 3)),
        num_operators=14 + 2 * spec.num_hidden_layers,
        num_params=params,
        tokens=max(tokens, 1),
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for vocab_size in vocab_sizes:
        for embedding_size in (16, 32, 48, 64, 80, 96, 128, 192):
            for hidden_size in (64, 96, 128, 160, 192, 256, 384):
                for depth in (1, 2):
                    if embedding_size <= hidden_size:
                        yield Spec(
                            vocab_size=vocab_size,
                            embedding_size=embedding_size,
                            hidden_size=hidden_size,
                            num_hidden_layers=depth,
                        )


initialise = initialise_embedding
