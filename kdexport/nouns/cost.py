"""CostReport: capacity, replicas and money of teacher and student on one target. All money is in USD."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, model_validator

from kdexport.nouns.base import Noun
from kdexport.nouns.measurement import Interval
from kdexport.nouns.target import Traffic

Who = Literal["incumbent", "teacher", "teacher_quantised", "student"]


class Capacity(Noun):
    """Requests per second that one replica serves within the objective; 0 where even an unloaded request misses it."""

    requests_per_s: float = Field(ge=0)
    kind: Literal["measured", "estimated"]
    ci95: Interval | None = Field(default=None, description="measured: 95 % confidence interval, requests per second")
    error_interval: Interval | None = Field(default=None, description="estimated: 90 % interval, requests per second")
    how: str = Field(min_length=1, description="in words: what it was made from, and what bounds it")

    @property
    def interval(self) -> Interval | None:
        return self.ci95 if self.kind == "measured" else self.error_interval

    @model_validator(mode="after")
    def _evidence_by_kind(self) -> Capacity:
        if self.interval is None:
            raise ValueError("a measured capacity has ci95, an estimated one has error_interval")
        if not 0 <= self.interval[0] <= self.requests_per_s <= self.interval[1]:
            raise ValueError(f"capacity {self.requests_per_s:g} is outside its interval {self.interval}")
        return self


class Assumption(Noun):
    """One number that the money rests on. `assumed`: a default that no one has confirmed."""

    key: str
    value: float
    unit: str
    source: str = Field(min_length=1)
    date: datetime.date | None = Field(default=None, description="of the source; none: stated by the project")
    note: str = Field(default="", description="of the fact: what its number leaves out, or how it was computed")
    assumed: bool


class CostLine(Noun):
    """What one model costs on one target. A figure that is not known is None, never 0, and `note` says why."""

    who: Who
    target: str = Field(description="id of the target it runs on")
    traffic: Traffic
    redundancy: int = Field(ge=0)
    capacity: Capacity | None = Field(default=None, description="of one replica; none: a bill without a measurement")
    replicas: int | None = Field(default=None, ge=1, description="redundancy included; none: capacity 0 or unknown")
    currency: Literal["USD"] = "USD"
    kind: Literal["measured", "estimated"] = Field(description="as the capacity; a bill is measured")
    usd_per_replica_hour: float | None = Field(default=None, ge=0, description="one replica")
    usd_per_hour: float | None = Field(default=None, ge=0, description="all replicas")
    usd_per_year: float | None = Field(default=None, ge=0, description="all replicas, 8,760 hours")
    usd_per_year_interval: Interval | None = Field(
        default=None, description="at the ends of the capacity's; a bill: no width"
    )
    usd_per_million: float | None = Field(default=None, ge=0, description="per million requests at the mean rate")
    region: str = Field(default="", description="where the price holds")
    price_basis: str = Field(default="", description="list price, purchase with lifetime and electricity, or a bill")
    price_source: str = ""
    price_date: datetime.date | None = None
    quality: float | None = None
    quality_label: str = Field(min_length=1, description="metric and data, or why the quality is blank")
    note: str = Field(default="", description="why a figure is blank, or what it leaves out")
    assumptions: tuple[Assumption, ...] = ()

    @model_validator(mode="after")
    def _every_dollar_has_a_source(self) -> CostLine:
        if self.usd_per_year is not None and not (self.price_source and self.region):
            raise ValueError("a cost needs the region and the source of its price")
        if self.usd_per_year is None and not self.note:
            raise ValueError("a blank cost needs a note that says why")
        return self


class CostReport(Noun):
    """Lines on one target, and the student's saving against the incumbent."""

    target: str
    lines: tuple[CostLine, ...]
    saving_usd_per_year: float | None = Field(description="incumbent minus student; none: a cost is blank")
    saving_interval_usd_per_year: Interval | None = Field(
        default=None, description="from the far ends of both lines: wider than 90 %"
    )
    zero_saving_requests_per_s: float | None = Field(
        description="largest peak rate at and below which the student saves nothing; 0: it saves at any traffic; "
        "none: a cost is blank, or it never saves"
    )
    note: str = Field(default="", description="why a figure is blank")
    incumbent: str = Field(default="", description="what the incumbent is assumed to be, where no project names it")
    assumptions: tuple[Assumption, ...]

    def line(self, who: Who) -> CostLine | None:
        return next((line for line in self.lines if line.who == who), None)
