"""Predicted retention before any training: a shipped prior with its wide interval."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from kdexport.nouns.base import Noun
from kdexport.nouns.plan import QualityEstimate
from kdexport.storage.files import read_json

PRIOR_FILE = Path(__file__).with_name("quality_prior.json")


class _Prior(Noun):
    """retention = retention_at_1_30 - loss_per_decade * log10(ratio / 30) - small_loss * (small_params / params)."""

    retention_at_1_30: float
    loss_per_decade: float
    half_width: float
    transformer_offset: float
    small_params: float
    small_exponent: float
    small_loss: float


@functools.cache
def _prior(input_kind: str) -> tuple[_Prior, str]:
    document = read_json(PRIOR_FILE)
    return _Prior.model_validate(document[input_kind]), document["source"]


def predict_retention(input_kind: str, backbone: str, num_params: int, teacher_params: int | None) -> QualityEstimate:
    """More parameters are never predicted to keep less. Without a teacher's size, 20 M is assumed and said."""
    prior, source = _prior(input_kind)
    ratio = max((teacher_params or 20_000_000) / num_params, 1.0)
    value = prior.retention_at_1_30 - prior.loss_per_decade * math.log10(ratio / 30)
    value -= prior.small_loss * (prior.small_params / num_params) ** prior.small_exponent
    value += prior.transformer_offset if backbone == "transformer" else 0.0
    value = min(max(value, 0.0), 1.01)
    basis = "shipped prior: " + source + ("" if teacher_params else "; teacher's size unknown, 20 M assumed")
    return QualityEstimate(
        value=value, low=max(value - prior.half_width, 0.0), high=value + prior.half_width, basis=basis
    )
