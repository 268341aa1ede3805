from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdexport.backbones.convolution import Spec
from kdexport.latency.estimates import Estimates
from kdexport.nouns.plan import SharedStudent, TargetPlan
from kdexport.nouns.target import Target
from kdexport.sizing.choose import Wishes, choose
from kdexport.sizing.options import Cell, Options
from kdexport.sizing.quality import Retentions
from kdexport.sizing.share import share

WISHES = Wishes(min_retention=0.9, prefer="cheapest")
BREAKS = float("inf")


def target(name: str) -> Target:
    return Target.model_validate(
        {
            "id": name,
            "profile": "local",
            "runtimes": ["onnxruntime"],
            "precisions": ["fp32"],
            "objective": {"limit_ms": 100.0},
            "traffic": {"mean_requests_per_s": 1, "peak_requests_per_s": 1},
        }
    )


def options(usd: list[float], quality: list[float]) -> Options:
    """One target: USD a year of each student there; inf where it is too slow."""
    count = np.arange(len(usd))
    p50_ms = np.array([1000.0 if u == BREAKS else 1.0 + 0.01 * n for n, u in enumerate(usd)])
    kept = np.array(quality)
    return Options(
        specs=[Spec(vocab_size=10, embedding_size=1, hidden_size=n + 1) for n in count.tolist()],
        cells=[Cell("onnxruntime", "fp32")],
        spec_of=count,
        cell_of=np.zeros(len(usd), int),
        num_params=1000.0 * (count + 1),
        artifact_bytes=4000.0 * (count + 1),
        memory_mib=74.0 + count,
        retention=Retentions(kept, kept - 0.02, kept + 0.02, "b"),
        latency=[Estimates(p50_ms, p50_ms / 2, p50_ms * 2, np.zeros(len(usd), bool), "m", "b")],
        p50_ms=p50_ms,
        objective_ms=p50_ms,
        bound_ms=p50_ms,
        usd_per_year=np.array([0.0 if u == BREAKS else u for u in usd]),
        usd_per_million=np.zeros(len(usd)),
        allowed=np.ones(len(usd), bool),
    )


def shared(
    *prices: list[float], owning: float = 0.0, quality: list[float] | None = None, prefer: Any = "cheapest"
) -> tuple[list[TargetPlan], list[SharedStudent]]:
    tables = [options(p, quality or [0.95] * len(p)) for p in prices]
    targets = [target(f"t{n}") for n in range(len(prices))]
    wishes = Wishes(min_retention=0.9, prefer=prefer)
    plans = [choose(o, wishes, t, ()) for o, t in zip(tables, targets, strict=True)]
    return share(plans, tables, targets, wishes, owning)


def sizes(plans: list[TargetPlan]) -> list[int]:
    return [int(p.chosen.spec["hidden_size"]) for p in plans]


def test_targets_that_cost_the_same_with_one_student_share_it() -> None:
    plans, found = shared([100, 100], [100, 100])
    assert sizes(plans) == [1, 1]
    assert found[0].targets == ("t0", "t1")
    assert "costs no more to own" in found[0].reason


def test_one_student_is_taken_where_owning_a_second_costs_more_than_serving_saves() -> None:
    plans, found = shared([100, 400], [500, 110], owning=1000)
    assert sizes(plans) == [2, 2]
    assert found[0].usd_per_year == 400 + 110 + 1000
    assert found[0].usd_per_year_apart == 100 + 110 + 2 * 1000
    assert plans[0].reason.endswith(
        "serves 2 targets, which saves $700 a year; alone one of 1,000 parameters would be the cheapest or fastest here"
    )
    assert plans[1].reason.endswith("serves 2 targets, which saves $700 a year")


def test_students_stay_apart_where_serving_saves_more_than_owning_costs() -> None:
    plans, found = shared([100, 500], [500, 110], owning=300)
    assert sizes(plans) == [1, 2]
    assert found == []


def test_a_student_that_breaks_a_limit_of_one_target_is_not_shared_with_it() -> None:
    plans, found = shared([100, BREAKS], [BREAKS, 100], owning=1e6)
    assert sizes(plans) == [1, 2]
    assert found == []


def test_a_target_that_nothing_fits_is_left_out() -> None:
    plans, found = shared([100, 100], [BREAKS, BREAKS], [100, 100], owning=10)
    assert found[0].targets == ("t0", "t2")
    assert not plans[1].feasible


def test_where_quality_is_preferred_no_target_gives_any_up_to_share() -> None:
    plans, found = shared([100, BREAKS], [100, 100], owning=1e6, quality=[0.95, 0.98], prefer="quality")
    assert sizes(plans) == [1, 2]
    assert found == []


def test_targets_that_alone_have_the_same_best_student_keep_it_when_they_share() -> None:
    plans, found = shared([100, 100], [100, 100], quality=[0.9500, 0.9505], prefer="quality")
    assert sizes(plans) == [2, 2]
    assert found[0].targets == ("t0", "t1")


prices = st.lists(st.sampled_from((100.0, 200.0, 500.0, BREAKS)), min_size=3, max_size=3)


@given(st.lists(prices, min_size=1, max_size=4), st.sampled_from((0.0, 50.0, 1000.0)))
def test_sharing_never_costs_more_and_keeps_every_limit(tables: list[list[float]], owning: float) -> None:
    plans, found = shared(*tables, owning=owning)
    for one in found:
        assert one.usd_per_year <= one.usd_per_year_apart + 0.02
    for plan, row in zip(plans, tables, strict=True):
        if plan.feasible:
            assert row[int(plan.chosen.spec["hidden_size"]) - 1] != BREAKS
