"""From capacity to replicas to money, and the traffic below which a student saves nothing.

A replica is one instance of the offering: `workers` in `capacity` counts all its devices. Every replica runs all year.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from kdexport.errors import BadInput, unknown_name
from kdexport.nouns.cost import Assumption, Capacity, CostLine, CostReport, Who
from kdexport.nouns.measurement import Interval
from kdexport.nouns.profile import HardwareProfile, Number, Offering
from kdexport.nouns.target import Target, Traffic

HOURS_PER_YEAR = 8760
SECONDS_PER_YEAR = 3600 * HOURS_PER_YEAR
MAX_REPLICAS = 10_000  # how far the break-even is looked for
DEFAULT = "kdexport's default"  # the source of an assumption that nobody has stated


def replicas_for(peak_requests_per_s: float, capacity_rps: float, redundancy: int) -> int:
    """ceil(peak / capacity), at least 1, plus redundancy. Exact: division in floats can round a replica away.

    Raises BadInput where capacity is not above 0: no number of replicas serves the peak."""
    if capacity_rps <= 0:
        raise BadInput(f"replicas: capacity is {capacity_rps:g} requests/s, so no number of replicas serves the peak")
    return max(1, math.ceil(Fraction(peak_requests_per_s) / Fraction(capacity_rps))) + redundancy


def usd_per_hour(offering: Offering | None, profile: HardwareProfile) -> float | None:
    """Price of one replica. None without an offering.

    Rented: the list price. Owned: purchase over the hours of its lifetime, plus electricity at the profile's full
    power all year; where the power is not known, the purchase alone (a lower bound, and `price` notes it)."""
    if offering is None:
        return None
    if offering.kind == "rented":
        return _price_of(offering).value
    purchase = _price_of(offering).value / (offering.lifetime_years * HOURS_PER_YEAR)
    power = profile.facts.power_w
    electricity = power.value * offering.usd_per_kwh / 1000 if power else 0.0
    return offering.devices * (purchase + electricity)


def price(
    who: Who,
    target: Target,
    profile: HardwareProfile,
    capacity: Capacity | None,
    *,
    traffic: Traffic,
    quality: float | None,
    quality_label: str,
    billed_usd_per_year: float | None = None,
    capacity_assumes: Sequence[Assumption] = (),
) -> CostLine:
    """What `who` costs on `target` at `traffic` (the student's, also for an incumbent that lives on another target).

    capacity: of one replica; None only where there is a bill. A bill replaces the offering's price, and is taken as
    shared equally by the replicas. No price, or no capacity, leaves the money blank, with the reason in `note`.
    Raises BadInput where the target names an offering that the profile lacks."""
    offering = _offering_of(target, profile)
    replicas = None
    if capacity and capacity.requests_per_s > 0:
        replicas = replicas_for(traffic.peak_requests_per_s, capacity.requests_per_s, target.redundancy)
    hourly, yearly = _money(replicas, usd_per_hour(offering, profile), billed_usd_per_year)
    billed = billed_usd_per_year is not None
    interval = None
    if billed_usd_per_year is not None:
        interval = (billed_usd_per_year, billed_usd_per_year)
    elif capacity and hourly is not None:
        interval = _yearly_interval(capacity, hourly, traffic, target.redundancy)
    million_requests_per_year = traffic.mean_requests_per_s * SECONDS_PER_YEAR / 1e6
    return CostLine(
        who=who,
        target=target.id,
        traffic=traffic,
        redundancy=target.redundancy,
        capacity=capacity,
        replicas=replicas,
        kind="measured" if billed or not capacity else capacity.kind,
        usd_per_replica_hour=hourly,
        usd_per_hour=None if yearly is None else yearly / HOURS_PER_YEAR,
        usd_per_year=yearly,
        usd_per_year_interval=interval,
        usd_per_million=None if yearly is None else yearly / million_requests_per_year,
        region="as billed" if billed else (offering.region or "not stated") if offering else "",
        price_basis="bill" if billed else _price_basis(offering, profile) if offering else "",
        price_source="the project's bill" if billed else _price_of(offering).source if offering else "",
        price_date=_price_of(offering).date if offering and not billed else None,
        quality=quality,
        quality_label=quality_label,
        note=_note(target, profile, None if billed else offering, capacity, interval, billed),
        assumptions=(
            *_assumptions(target, profile, None if billed else offering, traffic, billed_usd_per_year),
            *capacity_assumes,
        ),
    )


def compare(
    incumbent: CostLine, teacher_quantised: CostLine | None, student: CostLine, *, teacher: CostLine | None = None
) -> CostReport:
    """The student's saving against the incumbent, with the teacher merely quantised beside it.

    Raises BadInput where the lines were priced at different traffic."""
    lines = tuple(line for line in (incumbent, teacher, teacher_quantised, student) if line)
    if any(line.traffic != student.traffic for line in lines):
        raise BadInput(f"compare: the lines of target '{student.target}' differ in traffic; price them at the same")
    zero, note = _zero_saving(incumbent, student)
    saving = None
    if incumbent.usd_per_year is not None and student.usd_per_year is not None:
        saving = incumbent.usd_per_year - student.usd_per_year
    return CostReport(
        target=student.target,
        lines=lines,
        saving_usd_per_year=saving,
        saving_interval_usd_per_year=_saving_interval(incumbent, student),
        zero_saving_requests_per_s=zero,
        note=note,
        assumptions=tuple(dict.fromkeys(a for line in lines for a in line.assumptions)),
    )


def zero_saving_requests_per_s(incumbent: CostLine, student: CostLine) -> float | None:
    """Largest peak rate at and below which the student saves nothing, peak over mean kept; exact.

    Cost is a staircase in the peak. A saving can first appear only where the incumbent steps up, just above k times
    its capacity: there it needs k + 1 replicas and the student floor(k x incumbent's / student's capacity) + 1, each
    plus redundancy. Higher up the saving can return to nothing between two steps. 0: it saves at any traffic. None: a
    capacity or price is blank, or it never saves within 10,000 replicas."""
    if not (incumbent.replicas and incumbent.capacity and student.replicas and student.capacity):
        return None
    if incumbent.usd_per_replica_hour is None or student.usd_per_replica_hour is None:
        return None
    incumbent_usd, student_usd = Fraction(incumbent.usd_per_replica_hour), Fraction(student.usd_per_replica_hour)
    step = Fraction(incumbent.capacity.requests_per_s)
    ratio = step / Fraction(student.capacity.requests_per_s)
    for k in range(MAX_REPLICAS):
        incumbent_replicas = k + 1 + incumbent.redundancy
        student_replicas = math.floor(k * ratio) + 1 + student.redundancy
        if incumbent_usd * incumbent_replicas > student_usd * student_replicas:
            return _float_at_most(k * step)
    return None


def _zero_saving(incumbent: CostLine, student: CostLine) -> tuple[float | None, str]:
    """The break-even, and why it is blank."""
    zero = zero_saving_requests_per_s(incumbent, student)
    blanks = [f"{line.who}: {line.note}" for line in (incumbent, student) if line.usd_per_year is None]
    if zero is not None or blanks:
        return zero, "; ".join(blanks)
    if not incumbent.replicas or not student.replicas:
        return None, "no break-even: a bill without a capacity does not say what other traffic would cost"
    return None, f"no break-even: the student saves nothing up to {MAX_REPLICAS:,} replicas of the incumbent"


def _float_at_most(exact: Fraction) -> float:
    """The nearest float not above: one ulp more would need one more replica."""
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)


def _money(
    replicas: int | None, listed_usd_per_hour: float | None, billed_usd_per_year: float | None
) -> tuple[float | None, float | None]:
    """(USD per hour of one replica, USD per year of all)."""
    if billed_usd_per_year is not None:
        return billed_usd_per_year / HOURS_PER_YEAR / replicas if replicas else None, billed_usd_per_year
    if replicas is None or listed_usd_per_hour is None:
        return listed_usd_per_hour, None
    return listed_usd_per_hour, replicas * listed_usd_per_hour * HOURS_PER_YEAR


def _yearly_interval(capacity: Capacity, hourly: float, traffic: Traffic, redundancy: int) -> Interval | None:
    """USD per year at both ends of the capacity; None where the low end is 0: no amount of money would do."""
    if capacity.interval is None or capacity.interval[0] <= 0:
        return None
    slow, fast = (replicas_for(traffic.peak_requests_per_s, rps, redundancy) for rps in capacity.interval)
    return fast * hourly * HOURS_PER_YEAR, slow * hourly * HOURS_PER_YEAR


def _saving_interval(incumbent: CostLine, student: CostLine) -> Interval | None:
    """Far ends against each other; a bill has no width."""
    before, after = incumbent.usd_per_year_interval, student.usd_per_year_interval
    if before is None or after is None:
        return None
    return before[0] - after[1], before[1] - after[0]


def _price_of(offering: Offering) -> Number:
    """The one price that the offering's kind has; `Offering` has checked that it is there."""
    number = offering.price_usd_per_hour or offering.purchase_usd
    assert number is not None
    return number


def _price_basis(offering: Offering, profile: HardwareProfile) -> str:
    if offering.kind == "rented":
        return "list price of an hour"
    electricity = "with electricity at full power all year" if profile.facts.power_w else "without electricity"
    return f"purchase over {offering.lifetime_years:g} years, {electricity}"


def _offering_of(target: Target, profile: HardwareProfile) -> Offering | None:
    if target.offering is None:
        return None
    offering = profile.offering(target.offering)
    if offering is None:
        known = [o.id for o in profile.offerings]
        raise unknown_name("offering", target.offering, known, where=f"target '{target.id}', profile '{profile.id}'")
    return offering


def _note(
    target: Target,
    profile: HardwareProfile,
    offering: Offering | None,
    capacity: Capacity | None,
    interval: Interval | None,
    billed: bool,
) -> str:
    notes = []
    if offering is None and not billed:
        notes.append(f"no price: target '{target.id}' names no offering")
    if offering and offering.kind == "owned" and profile.facts.power_w is None:
        notes.append(f"electricity is left out: the power of '{profile.id}' is not known")
    if capacity is None:
        notes.append("capacity not known")
    elif capacity.requests_per_s == 0:
        notes.append(capacity.how)
    elif offering and interval is None:
        notes.append("no upper bound on cost: at the low end of its interval the capacity is 0")
    return "; ".join(notes)


def _assumptions(
    target: Target, profile: HardwareProfile, offering: Offering | None, traffic: Traffic, bill: float | None
) -> tuple[Assumption, ...]:
    source = f"target '{target.id}'"
    default = _is_default(target, "max_utilisation")
    rows = [
        _stated("traffic.mean", traffic.mean_requests_per_s, "requests/s", "traffic of the target", traffic.assumed),
        _stated("traffic.peak", traffic.peak_requests_per_s, "requests/s", "traffic of the target", traffic.assumed),
        _stated(f"{target.id}.redundancy", target.redundancy, "replicas", source, _is_default(target, "redundancy")),
        _stated(f"{target.id}.max_utilisation", target.max_utilisation, "ratio", source, default),
    ]
    if bill is not None:
        rows.append(_stated(f"{target.id}.bill", bill, "USD/year", "the project's bill", False))
    if offering:
        rows += _offering_assumptions(offering, profile)
    return tuple(rows)


def _offering_assumptions(offering: Offering, profile: HardwareProfile) -> list[Assumption]:
    unit = "USD/hour" if offering.kind == "rented" else "USD"
    rows = [_sourced(f"{offering.id}.price", _price_of(offering), unit)]
    if offering.kind == "rented":
        return rows
    source = f"offering '{offering.id}'"
    default = _is_default(offering, "lifetime_years")
    rows.append(_stated(f"{offering.id}.lifetime", offering.lifetime_years, "years", source, default))
    default = _is_default(offering, "usd_per_kwh")
    rows.append(_stated(f"{offering.id}.electricity", offering.usd_per_kwh, "USD/kWh", source, default))
    if profile.facts.power_w:
        rows.append(_sourced(f"{profile.id}.power", profile.facts.power_w, "W"))
        rows.append(_stated(f"{profile.id}.power_share", 1.0, "of full power, all year", DEFAULT, True))
    return rows


def _is_default(noun: Target | Offering, field: str) -> bool:
    return field not in noun.model_fields_set


def _stated(key: str, value: float, unit: str, source: str, assumed: bool) -> Assumption:
    """source: where it would be stated; of an assumed one only traffic says who assumed it: its target's author."""
    told = DEFAULT if assumed and not key.startswith("traffic.") else source
    return Assumption(key=key, value=value, unit=unit, source=told, assumed=assumed)


def _sourced(key: str, number: Number, unit: str) -> Assumption:
    return Assumption(
        key=key,
        value=number.value,
        unit=unit,
        source=number.source,
        date=number.date,
        note=number.note,
        assumed=False,
    )
