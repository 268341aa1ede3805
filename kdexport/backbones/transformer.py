"""Text: a post-norm BERT encoder (Devlin et al. 2019) with mean pooling; the small cousin of most text teachers.
Without layers it is a bag of normalised embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from kdexport.backbones import InputShape, initialise_embedding
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "text"
SIZE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_length",
)
HEAD_SIZES = (32, 64)
PAD_ID = 0
MASKED = -1e4
OPERATORS_WITHOUT_LAYERS = 20  # the mask of the attention is not computed


class Spec(StudentSpec):
    backbone: Literal["transformer"] = "transformer"
    vocab_size: int = Field(ge=2)
    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=0)
    num_attention_heads: int = Field(ge=1)
    intermediate_size: int = Field(ge=8)
    max_length: int = Field(default=128, ge=4, description="position embeddings; longer input is truncated")

    @model_validator(mode="after")
    def _heads_divide(self) -> Spec:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        return self


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: int64 ids (B, T), padded with 0 -> float32 logits (B, C); tokens past max_length are not read."""
    import torch
    from torch import nn

    head_size = spec.hidden_size // spec.num_attention_heads

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(spec.hidden_size, 3 * spec.hidden_size)
            self.output = nn.Linear(spec.hidden_size, spec.hidden_size)
            self.up = nn.Linear(spec.hidden_size, spec.intermediate_size)
            self.down = nn.Linear(spec.intermediate_size, spec.hidden_size)
            self.norm_attention = nn.LayerNorm(spec.hidden_size)
            self.norm_output = nn.LayerNorm(spec.hidden_size)
            self.dropout = nn.Dropout(dropout)

        def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            batch, tokens, _ = hidden.shape
            parts = self.qkv(hidden).view(batch, tokens, 3, spec.num_attention_heads, head_size)
            query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
            scores = query @ key.transpose(-1, -2) * head_size**-0.5 + mask
            context = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, tokens, spec.hidden_size)
            hidden = self.norm_attention(hidden + self.dropout(self.output(context)))
            expanded = nn.functional.gelu(self.up(hidden))
            result: torch.Tensor = self.norm_output(hidden + self.dropout(self.down(expanded)))
            return result

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(spec.vocab_size, spec.hidden_size)
            self.position = nn.Embedding(spec.max_length, spec.hidden_size)
            self.norm = nn.LayerNorm(spec.hidden_size)
            self.layers = nn.ModuleList(Layer() for _ in range(spec.num_hidden_layers))
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(spec.hidden_size, num_classes)
            nn.init.normal_(self.position.weight, std=0.02)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            input_ids = input_ids[:, : spec.max_length]
            keep = (input_ids != PAD_ID).to(torch.float32)  # (B, T)
            mask = ((1.0 - keep) * MASKED)[:, None, None, :]
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
            hidden = self.norm(self.embedding(input_ids) + self.position(positions))
            for layer in self.layers:
                hidden = layer(self.dropout(hidden), mask)
            pooled = (hidden * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1.0)
            logits: torch.Tensor = self.classifier(self.dropout(pooled))
            return logits

    return Transformer()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    length = min(shape.tokens, spec.max_length)
    batch, tokens = shape.batch, shape.batch * length
    width, inner, depth = spec.hidden_size, spec.intermediate_size, spec.num_hidden_layers
    products = 4 * width * width + 2 * width * inner
    vectors = 9 * width + inner  # biases, and two normalisations
    scores = batch * spec.num_attention_heads * length**2
    attention = 2 * batch * length**2 * width
    classifier = width * num_classes + num_classes
    kernel_outputs = (2 * tokens + length + batch) * width + batch + depth * (2 * tokens * width + scores)
    read = 2 * width + depth * (products + vectors) + classifier
    return GraphCost(
        flops=2.0 * (depth * (tokens * products + attention) + batch * width * num_classes) + kernel_outputs,
        weight_bytes=4.0 * ((tokens + length) * width + read),
        activation_bytes=4.0 * (depth * (tokens * (9 * width + 2 * inner) + 2 * scores) + 3 * tokens * width),
        num_operators=24 + 26 * depth if depth else OPERATORS_WITHOUT_LAYERS,
        num_fused=9 * depth + 6,
        num_params=(spec.vocab_size + spec.max_length) * width + read,
        tokens=max(tokens, 1),
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for vocab_size in vocab_sizes:
        for hidden_size in (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512):
            for depth, heads, widening in _layers(hidden_size):
                yield Spec(
                    vocab_size=vocab_size,
                    hidden_size=hidden_size,
                    num_hidden_layers=depth,
                    num_attention_heads=heads,
                    intermediate_size=widening * hidden_size,
                    max_length=max(shape.tokens, 64),
                )


def _layers(hidden_size: int) -> Iterable[tuple[int, int, int]]:
    """(depth, heads, intermediate over hidden size). Without layers the other two mean nothing: one of each."""
    all_heads = [hidden_size // size for size in HEAD_SIZES if hidden_size % size == 0]
    yield 0, all_heads[-1], 2
    yield from product((1, 2, 3, 4, 5, 6), all_heads, (2, 4))


initialise = initialise_embedding
