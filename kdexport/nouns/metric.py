"""Metric: what 'quality' means in a project. Retention, engine choice and gates all use it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdexport.nouns.base import Noun


class Abstention(Noun):
    """Answer only where the top score reaches a threshold, fitted on dev so that the answered share is this precise."""

    min_precision: float = Field(gt=0, le=1)


class Metric(Noun):
    name: Literal["accuracy", "macro_f1", "recall_at_false_alarm", "cost_matrix"] = "accuracy"
    positive: str | None = Field(default=None, description="recall_at_false_alarm: the class to be found")
    max_false_alarm: float | None = Field(default=None, gt=0, lt=1, description="share of other rows wrongly flagged")
    costs_usd: dict[str, dict[str, float]] | None = Field(
        default=None, description="cost_matrix: costs_usd[true][predicted]; a pair not named costs default_cost_usd"
    )
    default_cost_usd: float = Field(default=1.0, gt=0, description="cost_matrix: of a wrong answer not named")
    abstention: Abstention | None = None

    @model_validator(mode="after")
    def _complete(self) -> Metric:
        if self.name == "recall_at_false_alarm" and not (self.positive and self.max_false_alarm):
            raise ValueError("recall_at_false_alarm needs 'positive' and 'max_false_alarm'")
        if self.name == "cost_matrix" and not self.costs_usd:
            raise ValueError("cost_matrix needs 'costs_usd'")
        return self
