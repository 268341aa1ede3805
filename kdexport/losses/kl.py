"""Kullback-Leibler divergence to the softened teacher (Hinton et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of logits (B, C) at a temperature, times T² so that its gradient keeps its size
    (Hinton et al. 2015, section 2.1). (B,) in nats, in float32; zero where the logits are equal.
    Raises ValueError if the shapes differ or temperature <= 0."""
    from torch.nn.functional import kl_div, log_softmax

    if student.shape != teacher.shape or temperature <= 0:
        raise ValueError(f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, temperature {temperature}")
    log_student = log_softmax(student.float() / temperature, -1)
    log_teacher = log_softmax(teacher.float() / temperature, -1)
    return kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1) * temperature**2
