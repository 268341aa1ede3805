"""Decoupled knowledge distillation (Zhao et al. 2022, CVPR): the teacher's confidence in its first class, and its
relations among all others, weighed apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdexport.losses.kl import loss as kl

if TYPE_CHECKING:
    import torch

OTHERS_WEIGHT = 2.0  # beta; alpha is 1. The paper uses 2 to 8; plain KL weighs it by what is left of the first class


def loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of (first class, rest) + OTHERS_WEIGHT x KL among the others, both at the temperature, (B,). The first class
    is the teacher's: unlabelled rows have no other. Raises ValueError as `kl` does."""

    if student.shape != teacher.shape:
        return kl(student, teacher, temperature)
    first = teacher.argmax(-1, keepdim=True)
    return kl(_first_or_rest(student, first, temperature), _first_or_rest(teacher, first, temperature), 1.0) * (
        temperature**2
    ) + OTHERS_WEIGHT * kl(_others(student, first), _others(teacher, first), temperature)


def _first_or_rest(logits: torch.Tensor, first: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B, 2): the logits of a choice between the first class and all others together."""
    import torch

    scaled = logits.float() / temperature
    rest = torch.logsumexp(_others(scaled, first), -1, keepdim=True)
    return torch.cat([scaled.gather(-1, first), rest], -1)


def _others(logits: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """(B, C - 1): without the first class."""
    import torch

    keep = torch.ones_like(logits, dtype=torch.bool).scatter(-1, first, False)
    return logits.float()[keep].view(len(logits), -1)
