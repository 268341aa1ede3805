"""Distillation losses: `losses/NAME.py` is the loss NAME and offers
`loss(student, teacher, temperature) -> (B,)`, on logits (B, C): one figure a row, smallest where the two agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kdexport import registry

if TYPE_CHECKING:
    import torch


class Loss(Protocol):
    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor: ...


def load_loss(name: str, where: str = "") -> Loss:
    loss: Loss = registry.load("losses", name, where).loss
    return loss
