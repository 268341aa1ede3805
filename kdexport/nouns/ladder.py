"""Ladder: a few students trained on short complete schedules, to predict what any student would keep."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from kdexport.nouns.base import Noun


class Rung(Noun):
    """One student on one complete schedule (the learning rate ends at zero)."""

    spec: dict[str, Any]
    num_params: int = Field(gt=0)
    schedule_share: float = Field(gt=0, le=1, description="rows seen over those of the full recipe")
    dev_quality: float = Field(description="under the project's metric, measured on dev")
    seconds: float = Field(ge=0, description="measured: encoding, training and judging")


class Ladder(Noun):
    rungs: tuple[Rung, ...] = Field(min_length=1)
    teacher_dev_quality: float | None = Field(
        description="of the teacher's answers on dev, what retention divides by; none: it was trained on those rows"
    )
    dev_rows: int = Field(gt=0)
    seconds: float = Field(ge=0, description="measured: spent on all rungs")
    complete: bool = Field(default=True, description="did the budget last for all students of the first round?")
    budget_seconds: float
