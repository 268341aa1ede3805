from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kdexport.nouns.bench import BenchResult, Quality, QualityResult, Ratio, Timed
from kdexport.nouns.cost import CostReport
from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.measurement import Latency
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Incumbent, Project
from kdexport.nouns.target import Target
from kdexport.stages.cost import Side, cost
from kdexport.stages.report import _speedup, gate_met, objective_met


def target(limit_ms: float, scenario: str) -> Target:
    return Target.model_validate(
        {
            "id": "site",
            "profile": "box",
            "runtimes": ["onnxruntime"],
            "precisions": ["fp32"],
            "objective": {"limit_ms": limit_ms, "scenario": scenario},
            "traffic": {"mean_requests_per_s": 1, "peak_requests_per_s": 1},
        }
    )


def estimated(p50_ms: float, low_ms: float, high_ms: float) -> Timed:
    found = LatencyEstimate(p50_ms=p50_ms, low_ms=low_ms, high_ms=high_ms, model="m", basis="b")
    latency = Latency(kind="estimated", p50_ms=p50_ms, error_interval=(low_ms, high_ms), model="m")
    return Timed(label="student", end_to_end=latency, model=latency, estimate=found, bytes=1)


def measured(times_ms: Sequence[float]) -> Timed:
    p50_ms, p99_ms = times_ms[len(times_ms) // 2], max(times_ms)
    n, ci95 = len(times_ms), (p50_ms, p50_ms)
    latency = Latency(kind="measured", p50_ms=p50_ms, p99_ms=p99_ms, n=n, ci95=ci95, environment="e")
    return Timed(label="student", end_to_end=latency, model=latency, service_ms=tuple(times_ms), bytes=1)


def quality(retention: float = 1.0, low: float = 0.98) -> QualityResult:
    same = Quality(metric="accuracy", value=0.9, ci95=(0.8, 0.95), n=100)
    return QualityResult(
        teacher=same,
        student=same,
        retention=Ratio(value=retention, ci95=(low, 1.01)),
        per_class=(),
        teacher_ece=0.0,
        student_ece=0.0,
        agreement=1.0,
    )


def priced(where: Target, timed: Timed, incumbent: Incumbent | None = None) -> CostReport:
    profile = HardwareProfile.model_validate(
        {"id": "box", "name": "b", "device_class": "cpu", "vendor": "v", "host": "x86-64", "facts": {}}
    )
    side, bench = Side(where, profile, 1, None), BenchResult(target="site", teacher=timed, student=timed)
    found = cost(side, bench, quality(), None, incumbent or Incumbent(), side, timed)
    assert found is not None
    return found


def judged(where: Target, timed: Timed) -> dict[str, Any]:
    return objective_met(where, BenchResult(target="site", teacher=timed, student=timed), priced(where, timed))


@pytest.mark.parametrize(("limit_ms", "met", "safe"), [(1.4, False, False), (2.0, True, False), (3.5, True, True)])
def test_an_estimate_says_whether_its_upper_end_meets_the_objective_too(limit_ms: float, met: bool, safe: bool) -> None:
    found = judged(target(limit_ms, "single_stream"), estimated(1.0, 0.5, 2.0))  # the tail is 1.5 times the median
    assert (found["value_ms"], found["met"], found["interval_excludes_failure"]) == (1.5, met, safe)


def test_a_measured_objective_has_no_such_end() -> None:
    found = judged(target(5.0, "single_stream"), measured([1.0, 2.0] * 500))
    assert (found["met"], found["interval_excludes_failure"], found["basis"]) == (True, None, "measured, single stream")


def test_under_load_the_capacity_that_is_priced_decides_too() -> None:
    found = judged(target(5.0, "server"), measured([1.0, 2.0] * 500))
    assert found["met"]
    assert found["capacity_requests_per_s"] > 0
    assert found["basis"].endswith("under load: the capacity that the replicas are priced with")


def test_without_capacity_under_load_the_objective_is_missed() -> None:
    where, timed = target(5.0, "server"), measured([1.0, 2.0] * 500)
    report = priced(where, timed)
    none = report.lines[-1].capacity
    assert none is not None
    none = none.model_copy(update={"requests_per_s": 0.0})
    lines = (*report.lines[:-1], report.lines[-1].model_copy(update={"capacity": none}))
    bench = BenchResult(target="site", teacher=timed, student=timed)
    found = objective_met(where, bench, report.model_copy(update={"lines": lines}))
    assert (found["met"], found["value_ms"]) == (False, 2.0)


@pytest.mark.parametrize(
    ("gate", "retention", "low", "met", "excluded"),
    [
        ("point", 0.98, 0.96, True, False),
        ("lower_bound", 0.98, 0.96, False, False),
        ("lower_bound", 0.99, 0.98, True, True),
        ("point", 0.96, 0.95, False, False),
    ],
)
def test_the_gate_compares_what_the_project_asks_for(
    gate: str, retention: float, low: float, met: bool, excluded: bool
) -> None:
    wishes = {"name": "p", "task": "t", "teachers": [{"function": "a:b"}], "data": {"train": {"path": "x"}}}
    project = Project.model_validate({**wishes, "targets": ["site"], "min_retention": 0.97, "gate": gate})
    found = gate_met(project, quality(retention, low))
    assert found == {"min_retention": 0.97, "kind": gate, "met": met, "interval_excludes_failure": excluded}


def test_a_speed_up_says_what_it_is_and_how_sure_its_interval_is() -> None:
    ratio = Ratio(value=2.0, ci95=(1.5, 2.5))
    here, there = measured([1.0, 2.0] * 500), estimated(1.0, 0.5, 2.0)
    both = _speedup(BenchResult(target="site", teacher=here, student=here), ratio)
    assert both == {"value": 2.0, "ci95": (1.5, 2.5), "kind": "measured", "confidence": 0.95}
    mixed = _speedup(BenchResult(target="site", teacher=there, student=here), ratio)
    assert mixed is not None
    assert (mixed["kind"], mixed["confidence"]) == ("estimated", 0.9)


def test_an_incumbent_that_the_project_does_not_name_is_said_to_be_assumed() -> None:
    where, timed = target(5.0, "single_stream"), estimated(1.0, 0.5, 2.0)
    assert priced(where, timed).incumbent.startswith("the teacher on this same target (assumed")
    assert priced(where, timed, Incumbent(usd_per_year=5.0)).incumbent == ""


def test_the_tail_of_an_estimate_stands_among_the_assumptions_once() -> None:
    where = target(5.0, "single_stream")
    tails = [a for a in priced(where, estimated(1.0, 0.5, 2.0)).assumptions if a.key == "site.latency_tail"]
    assert [(a.value, a.source, a.assumed) for a in tails] == [(1.5, "kdexport's default", True)]
    assert not [a for a in priced(where, measured([1.0, 2.0] * 500)).assumptions if a.key == "site.latency_tail"]
