"""StudentSpec fixes the graph and nothing else; EngineSpec fixes how a graph is run."""

from __future__ import annotations

from pydantic import Field

from kdexport.nouns.base import Noun
from kdexport.nouns.profile import Precision


class StudentSpec(Noun):
    """Base of the union by `backbone`: each file in `kdexport/backbones/` declares its own fields."""

    backbone: str


class EngineSpec(Noun):
    runtime: str
    precision: Precision
    threads: int = Field(default=1, ge=1)

    @property
    def label(self) -> str:
        return f"{self.runtime}/{self.precision}"
