"""LabelsMade: what is told of soft labels once they are there."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun


class LabelsMade(Noun):
    rows: int
    distinct_rows: int = Field(description="asked; the others are copies of these")
    classes: int
    stored_classes: int = Field(description="of each row; fewer than classes: the likeliest, and the others' mass")
    bytes: int
    bytes_per_row: float
    engine: str = Field(description="runtime and precision that the teachers' graphs ran in; 'imported'")
    path: str
