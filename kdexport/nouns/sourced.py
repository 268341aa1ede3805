"""Sourced: what every fact that was read somewhere carries; Precision: of an engine, of a peak, of a latency."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, field_validator

from kdexport.nouns.base import Noun

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Sourced(Noun):
    """A statement of fact: where it was read, and when."""

    source: str = Field(min_length=3, description="page, repository or data sheet that states the value")
    date: datetime.date = Field(description="when the source was published or read")
    note: str = Field(default="", description="how the value was derived, or what it conflicts with")

    @field_validator("source", "note")
    @classmethod
    def _confirmed(cls, text: str) -> str:
        if "[memory]" in text:
            raise ValueError("a fact tagged [memory] is not sourced; confirm it or leave it out")
        return text
