"""Text: token embeddings pooled by mean and maximum, then a classifier (fastText's bag of words, Joulin et al. 2016;
both poolings as in Shen et al. 2018). It does not see the order of the tokens, and no student runs fewer operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kdexport.backbones import InputShape, initialise_embedding
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import torch

input_kind: Literal["text", "image"] = "text"
SIZE_FIELDS = ("vocab_size", "embedding_size", "hidden_size")
PAD_ID = 0


class Spec(StudentSpec):
    backbone: Literal["bag"] = "bag"
    vocab_size: int = Field(ge=2)
    embedding_size: int = Field(ge=1)
    hidden_size: int = Field(default=0, ge=0, description="ReLU units that the classifier reads beside the pooled sums")


def build(spec: Spec, num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """forward: int64 ids (B, T), padded with 0 -> float32 logits (B, C).

    The classifier reads the pooled embeddings whether or not there are hidden units ("wide and deep", Cheng et al.
    2016): a bottleneck in their place would be cheaper than none where there are many classes."""
    import torch
    from torch import nn

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(spec.vocab_size, spec.embedding_size, padding_idx=PAD_ID)
            pooled_size = 2 * spec.embedding_size
            self.hidden = nn.Linear(pooled_size, spec.hidden_size) if spec.hidden_size else None
            self.dropout = nn.Dropout(dropout)
            self.classifier = nn.Linear(pooled_size + spec.hidden_size, num_classes)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            embedded = self.embedding(input_ids)  # (B, T, E); the row of the padding is zero
            lengths = (input_ids > PAD_ID).to(torch.float32).sum(1, keepdim=True).clamp(min=1.0)
            # a floor of zero: padding then changes no maximum, with one operator in place of a mask's three
            pooled = torch.cat([embedded.sum(1) / lengths, embedded.amax(1).relu()], -1)
            if self.hidden is not None:
                pooled = torch.cat([pooled, self.hidden(self.dropout(pooled)).relu()], -1)
            logits: torch.Tensor = self.classifier(self.dropout(pooled))
            return logits

    return Bag()


def cost(spec: Spec, num_classes: int, shape: InputShape) -> GraphCost:
    batch, tokens = shape.batch, shape.batch * shape.tokens
    pooled, hidden = 2 * spec.embedding_size, spec.hidden_size
    features = pooled + hidden
    weights = pooled * hidden + features * num_classes
    biases = hidden + num_classes
    concatenated = pooled + (features if hidden else 0)
    kernel_outputs = tokens * spec.embedding_size + batch * (pooled + 1 + concatenated)
    return GraphCost(
        flops=2.0 * batch * weights + kernel_outputs,
        weight_bytes=4.0 * (tokens * spec.embedding_size + weights + biases),
        activation_bytes=4.0 * (kernel_outputs + tokens + batch * (pooled + hidden + num_classes)),
        num_operators=13 if hidden else 11,
        num_fused=8 if hidden else 6,
        num_params=spec.vocab_size * spec.embedding_size + weights + biases,
        tokens=max(tokens, 1),
    )


def candidates(num_classes: int, shape: InputShape, vocab_sizes: Sequence[int]) -> Iterable[Spec]:
    for vocab_size in vocab_sizes:
        for embedding_size in (16, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512):
            for hidden_size in (0, 64, 96, 128, 160, 192, 256, 320, 384, 512):
                yield Spec(vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=hidden_size)


initialise = initialise_embedding
