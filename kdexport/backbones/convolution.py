"""Text: embedding -> width-3 convolutions -> attention pooling and max pooling -> classifier (Kim 2014, and
Lin et al. 2017 for the pooling). On short text it beats a small transformer at a fraction of its latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from kdexport.backbones import InputShape, initialise_embedding
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "text"
SIZE_FIELDS = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers")
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
            if self.training and all(type(layer) is nn.Conv1d for layer in self.layers):  # none wrapped, as for int8
                return self.forward_training(input_ids)
            padding = (input_ids == PAD_ID).unsqueeze(-1)  # (B, T, 1)
            hidden = self.embedding(input_ids).transpose(1, 2)  # (B, E, T); the row of the padding is zero
            for layer in self.layers:
                hidden = torch.relu(layer(hidden)).masked_fill(padding.transpose(1, 2), 0.0)
            hidden = hidden.transpose(1, 2)  # (B, T, D); zero where padded, and never negative: max needs no mask
            weights = self.attention(hidden).masked_fill(padding, MASKED).softmax(1)
            pooled = torch.cat([(hidden * weights).sum(1), hidden.amax(1)], -1)
            logits: torch.Tensor = self.classifier(self.dropout(pooled))
            return logits

        def forward_training(self, input_ids: torch.Tensor) -> torch.Tensor:
            """The same logits, forward and backward in half to three quarters of the time (batches of 128, one core,
            2026-11): each convolution is one matrix product of neighbours side by side, pooling is another, and
            nothing is masked in a batch without padding. Not for export, which would fix that question's answer."""
            padding = (input_ids == PAD_ID).unsqueeze(-1)  # (B, T, 1)
            padded = bool(padding.any())
            hidden = self.embedding(input_ids)  # (B, T, E)
            for layer in cast(list[nn.Conv1d], self.layers):
                around = nn.functional.pad(hidden, (0, 0, 1, 1))
                neighbours = torch.cat([around[:, :-2], hidden, around[:, 2:]], -1)  # (B, T, 3 E)
                filters = layer.weight.permute(0, 2, 1).reshape(layer.weight.shape[0], -1)
                hidden = nn.functional.linear(neighbours, filters, layer.bias).relu()
                hidden = hidden.masked_fill(padding, 0.0) if padded else hidden
            scores = self.attention(hidden)
            scores = scores.masked_fill(padding, MASKED) if padded else scores
            weights = scores.softmax(1).transpose(1, 2).to(hidden.dtype)  # (B, 1, T)
            pooled = torch.cat([torch.bmm(weights, hidden).squeeze(1), hidden.amax(1)], -1)
            logits: torch.Tensor = self.classifier(self.dropout(pooled))
            return logits

    return TextConvolution()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    batch, tokens = shape.batch, shape.batch * shape.tokens
    widths = [spec.embedding_size] + [spec.hidden_size] * spec.num_hidden_layers
    filters = sum(KERNEL_SIZE * a * b for a, b in pairwise(widths))
    biases = spec.hidden_size * spec.num_hidden_layers
    attention, features = spec.hidden_size, 2 * spec.hidden_size
    read = filters + biases + attention + 1 + features * num_classes + num_classes
    kernel_outputs = tokens * (spec.embedding_size + 1) + batch * 2 * features
    return GraphCost(
        flops=2.0 * (tokens * (filters + attention) + batch * features * num_classes) + kernel_outputs,
        weight_bytes=4.0 * (tokens * spec.embedding_size + read),
        activation_bytes=4.0 * tokens * (2 * spec.embedding_size + spec.hidden_size * (2 * spec.num_hidden_layers + 3)),
        num_operators=15 + 2 * spec.num_hidden_layers,
        num_fused=7 + spec.num_hidden_layers,
        num_params=spec.vocab_size * spec.embedding_size + read,
        tokens=max(tokens, 1),
    )


def fold(module: torch.nn.Module, spec: Spec) -> torch.nn.Module:
    """The same answers with embedding and first convolution as three look-up tables (V, D): both are linear, so
    convolution(embedding)[t] = left[id[t-1]] + centre[id[t]] + right[id[t+1]]. More bytes, and no matrix product before
    the pooling: 68 -> 27 us at 128 -> 256, 32 -> 22 us at 32 -> 160 (one core, 14 tokens, model alone, 2026-11).

    The table's row of the padding holds the mask: so low that ReLU makes it zero whatever its neighbours add. The
    attention's bias is left out, since softmax cancels it. `module` is not changed."""
    import torch
    from torch import nn

    trained = cast(Any, module)
    with torch.no_grad():
        first, embedding = trained.layers[0], trained.embedding.weight
        left, centre, right = (embedding @ first.weight[:, :, k].T for k in range(KERNEL_SIZE))
        centre = centre + first.bias
        centre[PAD_ID] = -(left.amax(0).relu() + right.amax(0).relu())
        masked = torch.zeros(spec.vocab_size, 1)
        masked[PAD_ID] = MASKED

    def table(rows: torch.Tensor) -> nn.Embedding:
        found: nn.Embedding = nn.Embedding.from_pretrained(rows)  # type: ignore[no-untyped-call]
        return found

    class FoldedTextConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.centre, self.right = (table(rows) for rows in (left, centre, right))
            self.mask = table(masked)
            self.layers = deepcopy(trained.layers[1:])
            self.attention = nn.Parameter(trained.attention.weight.detach().T.clone())
            self.classifier = deepcopy(trained.classifier)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            around = nn.functional.pad(input_ids, (1, 1), value=PAD_ID)
            hidden = self.left(around[:, :-2]) + self.centre(input_ids) + self.right(around[:, 2:])
            hidden = hidden.relu()  # (B, T, D); zero where padded
            if self.layers:
                hidden = self.convolved(hidden.transpose(1, 2), (input_ids == PAD_ID).unsqueeze(1)).transpose(1, 2)
            scores = hidden @ self.attention + self.mask(input_ids)
            weights = scores.transpose(1, 2).softmax(-1)  # (B, 1, T)
            logits: torch.Tensor = self.classifier(torch.cat([(weights @ hidden).squeeze(1), hidden.amax(1)], -1))
            return logits

        def convolved(self, hidden: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            """(B, D, T) through the layers that are left; padding (B, 1, T)."""
            for layer in self.layers:
                hidden = layer(hidden).relu().masked_fill(padding, 0.0)
            return hidden

    return FoldedTextConvolution().eval()


def folded_cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    batch, tokens = shape.batch, shape.batch * shape.tokens
    width, later = spec.hidden_size, spec.num_hidden_layers - 1
    filters, features = later * KERNEL_SIZE * width * width, 2 * width
    read = filters + later * width + width + features * num_classes + num_classes
    kernel_outputs = tokens * (KERNEL_SIZE * width + 2) + batch * (width + features)
    return GraphCost(
        flops=2.0 * (tokens * (filters + 2 * width) + batch * features * num_classes) + kernel_outputs,
        weight_bytes=4.0 * (tokens * (KERNEL_SIZE * width + 1) + read),
        activation_bytes=4.0 * tokens * width * (6 + 2 * later),
        num_operators=19 + (4 + 2 * later if later else 0),
        num_params=spec.vocab_size * (KERNEL_SIZE * width + 1) + read,
        tokens=max(tokens, 1),
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for vocab_size in vocab_sizes:
        for embedding_size in (16, 32, 48, 64, 96, 128, 160, 192, 256):
            for hidden_size in (32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512):
                for depth in (1, 2, 3, 4):
                    if embedding_size <= hidden_size:
                        yield Spec(
                            vocab_size=vocab_size,
                            embedding_size=embedding_size,
                            hidden_size=hidden_size,
                            num_hidden_layers=depth,
                        )


initialise = initialise_embedding
