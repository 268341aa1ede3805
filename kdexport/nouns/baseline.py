"""Baseline: what a user gets without distillation, measured on the same test rows, and what distillation bought."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.bench import Quality
from kdexport.nouns.measurement import Interval, Latency


class TriedSetting(Noun):
    """One setting tried on dev."""

    setting: float = Field(description="peak learning rate, or the inverse strength C of the regularisation")
    dev_quality: float = Field(description="under the project's metric; 0 where the training diverged")


class HardLabelStudent(Noun):
    """The same student without its teacher. `weights` is relative to the folder of its stage."""

    trials: tuple[TriedSetting, ...] = Field(description="short schedules, one for each learning rate")
    learning_rate: float
    epochs: int
    steps: int
    dev_quality: float
    weights: str = "model.safetensors"
    weights_sha256: str


class PlainModel(Noun):
    """A linear model that needs no deep learning. Its files lie in the folder of its stage."""

    name: str = Field(description="'TF-IDF + logistic regression', 'linear probe on pixels'")
    trials: tuple[TriedSetting, ...]
    inverse_regularisation: float = Field(description="C of the logistic regression, chosen on dev")
    dev_quality: float
    num_params: int
    bytes: int = Field(description="every file that is read to answer a raw request")
    sha256: str


class Difference(Noun):
    """Student's quality minus the baseline's, in units of the metric (0..1)."""

    value: float
    ci95: Interval = Field(description="95 %, paired bootstrap of the test rows")


class Baseline(Noun):
    """`quality` and all after it are absent where there is a `reason` why it cannot be had."""

    kind: Literal["hard_labels", "plain"]
    name: str
    how: str = Field(default="", description="data, steps, and what was tuned on dev")
    reason: str = Field(default="", description="why there is none")
    quality: Quality | None = None
    difference: Difference | None = None
    trials: tuple[TriedSetting, ...] = ()
    num_params: int | None = None
    bytes: int | None = None
    latency: Latency | None = Field(default=None, description="raw request to answer, where this machine is a target")
    training_s: float | None = None


class Baselines(Noun):
    hard_labels: Baseline
    plain: Baseline
    verdict: str = Field(description="what distillation bought, in words")
