"""KL between z-scored logits: the student need only match the teacher's relations (Sun et al. 2024, CVPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdexport.losses.kl import loss as kl

if TYPE_CHECKING:
    import torch


def loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of logits (B, C), each row centred and divided by its standard deviation, at a base temperature, (B,).
    Zero where the standardised logits are equal. Raises ValueError as `kl` does."""

    def standardise(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)

    return kl(standardise(student), standardise(teacher), temperature)
