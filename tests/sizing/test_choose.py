from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.plan import Candidate, QualityEstimate, TargetPlan
from kdexport.nouns.project import Project
from kdexport.nouns.target import Target
from kdexport.sizing.choose import choose, front

TARGET = Target.model_validate(
    {
        "id": "t",
        "profile": "local",
        "runtimes": ["onnxruntime"],
        "precisions": ["fp32"],
        "objective": {"limit_ms": 2.0},
        "traffic": {"mean_requests_per_s": 1, "peak_requests_per_s": 1},
    }
)


def project(**changes: Any) -> Project:
    return Project.model_validate(
        {
            "name": "p",
            "task": "text_classification",
            "teachers": [{"function": "m:f"}],
            "data": {"train": {"path": "train.csv"}},
            "targets": ["t"],
            "min_retention": 0.97,
        }
        | changes
    )


def candidate(
    name: int, quality: float, p50_ms: float | None, usd: float | None = None, why_not: str = "", params: int = 1000
) -> Candidate:
    latency = None
    if p50_ms is not None:
        latency = LatencyEstimate(p50_ms=p50_ms, low_ms=p50_ms / 2, high_ms=p50_ms * 2, model="m", basis="b")
    return Candidate(
        spec={"backbone": "convolution", "hidden_size": name},
        num_params=params,
        artifact_bytes=4 * params,
        quality=QualityEstimate(value=quality, low=quality - 0.02, high=quality + 0.02, basis="b"),
        latency=latency,
        objective_ms=p50_ms * 1.5 if p50_ms else None,
        usd_per_year=usd,
        why_not=why_not,
    )


def chosen(*candidates: Candidate, **changes: Any) -> int:
    return int(choose(candidates, project(**changes), TARGET, ()).chosen.spec["hidden_size"])


@st.composite
def pools(draw: st.DrawFn) -> list[Candidate]:
    figures = st.tuples(
        st.sampled_from([0.9, 0.96, 0.97, 0.98, 0.99]),
        st.sampled_from([0.1, 0.2, 0.5, 1.0]),
        st.sampled_from([100.0, 101.0, 150.0, 300.0]),
        st.sampled_from(["", "", "too slow"]),
        st.sampled_from([1000, 2000, 5000]),
    )
    rows = draw(st.lists(figures, min_size=1, max_size=8))
    return [candidate(i, q, ms, usd, why, params) for i, (q, ms, usd, why, params) in enumerate(rows)]


def dominates(a: Candidate, b: Candidate) -> bool:
    """a is nowhere worse and somewhere better."""

    def figures(c: Candidate) -> tuple[float, ...]:
        assert c.latency is not None
        assert c.usd_per_year is not None
        return c.quality.value, -c.latency.p50_ms, -c.usd_per_year, -c.num_params

    pairs = list(zip(figures(a), figures(b), strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


@given(pools(), st.randoms(use_true_random=False), st.sampled_from(["cheapest", "quality"]))
def test_the_order_of_the_candidates_changes_nothing(pool: list[Candidate], chance: Any, prefer: str) -> None:
    shuffled = chance.sample(pool, len(pool))
    assert choose(pool, project(prefer=prefer), TARGET, ()) == choose(shuffled, project(prefer=prefer), TARGET, ())


@given(pools())
def test_the_front_holds_exactly_those_that_no_other_beats(pool: list[Candidate]) -> None:
    found = front(pool)
    wanted = [c for c in pool if not any(dominates(other, c) for other in pool)]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    latencies = [c.latency.p50_ms for c in found if c.latency]
    assert latencies == sorted(latencies)


@given(pools(), st.sampled_from(["cheapest", "quality"]))
def test_what_is_feasible_keeps_every_limit_and_the_retention(pool: list[Candidate], prefer: str) -> None:
    plan = choose(pool, project(prefer=prefer), TARGET, ())
    could = any(not c.why_not and c.quality.value >= 0.97 for c in pool)
    assert plan.feasible == could
    if plan.feasible:
        assert (plan.chosen.why_not, plan.nearest) == ("", "")
        assert plan.chosen.quality.value >= 0.97
    else:
        assert plan.nearest


@given(pools())
def test_nothing_within_the_limits_is_cheaper_by_more_than_a_tie(pool: list[Candidate]) -> None:
    plan = choose(pool, project(), TARGET, ())
    if plan.feasible:
        assert plan.chosen.usd_per_year is not None
        good = [c for c in pool if not c.why_not and c.quality.value >= 0.97]
        assert plan.chosen.usd_per_year <= 1.02 * min(c.usd_per_year or 0 for c in good)


def test_the_cheapest_of_the_good_is_taken() -> None:
    assert chosen(candidate(1, 0.99, 0.1, 300.0), candidate(2, 0.98, 0.5, 200.0), candidate(3, 0.90, 0.1, 100.0)) == 2


def test_costs_within_two_percent_are_equal_and_latency_decides() -> None:
    assert chosen(candidate(1, 0.98, 0.5, 100.0), candidate(2, 0.98, 0.1, 101.9)) == 2
    assert chosen(candidate(1, 0.98, 0.5, 100.0), candidate(2, 0.98, 0.1, 102.1)) == 1


def test_of_equal_cost_and_latency_the_fewest_bytes_decide() -> None:
    assert chosen(candidate(1, 0.98, 0.1, 100.0, params=2000), candidate(2, 0.98, 0.1, 100.0, params=1000)) == 2


def test_without_prices_the_fastest_is_taken() -> None:
    assert chosen(candidate(1, 0.99, 0.5), candidate(2, 0.98, 0.2)) == 2


def test_without_latencies_the_smallest_is_taken() -> None:
    assert chosen(candidate(1, 0.99, None, params=5000), candidate(2, 0.98, None, params=3000)) == 2


def test_who_prefers_quality_gets_the_best_quality_whatever_its_price() -> None:
    assert chosen(candidate(1, 0.99, 1.0, 900.0), candidate(2, 0.98, 0.1, 100.0), prefer="quality") == 1


def test_a_candidate_over_a_limit_is_never_taken_while_another_is_within() -> None:
    assert chosen(candidate(1, 0.99, 0.1, 1.0, "too slow"), candidate(2, 0.5, 1.0, 900.0)) == 2


def infeasible(*candidates: Candidate, **changes: Any) -> TargetPlan:
    plan = choose(candidates, project(**changes), TARGET, ())
    assert not plan.feasible
    return plan


@pytest.mark.parametrize("prefer", ["cheapest", "quality"])
def test_a_retention_out_of_reach_takes_the_best_and_names_what_is_met(prefer: str) -> None:
    plan = infeasible(candidate(1, 0.95, 1.0, 900.0), candidate(2, 0.90, 0.1, 100.0), prefer=prefer)
    assert plan.chosen.spec["hidden_size"] == 1
    assert plan.nearest == (
        "min_retention 0.97 is above what is predicted here; met: min_retention 0.950 (0.930 to 0.970)"
    )


def test_a_limit_out_of_reach_takes_the_nearest_and_names_what_is_met() -> None:
    slow = [candidate(i, 0.99, ms, why_not=f"p99 {ms * 1.5:g} ms is over limit_ms 2") for i, ms in ((1, 8.0), (2, 4.0))]
    plan = infeasible(*slow)
    assert plan.chosen.spec["hidden_size"] == 2
    assert plan.nearest == "p99 6 ms is over limit_ms 2 (target t; met: limit_ms 6)"


def test_where_size_binds_the_smallest_is_taken_and_its_size_is_named() -> None:
    big = [
        candidate(i, 0.99, 0.1, why_not=f"{n} parameters are over max_params 5", params=n) for i, n in ((1, 9), (2, 7))
    ]
    plan = infeasible(*big)
    assert plan.chosen.spec["hidden_size"] == 2
    assert plan.nearest.startswith("7 parameters are over max_params 5 (target t; met: max_params 7, ")


def test_a_plan_says_how_many_it_looked_at_and_why_it_chose() -> None:
    plan = choose([candidate(1, 0.99, 0.1, 300.0), candidate(2, 0.98, 0.5, 200.0, "slow")], project(), TARGET, ["note"])
    assert (plan.num_candidates, plan.notes) == (2, ("note",))
    assert plan.reason == (
        "cheapest, then fastest of 1 of 2 candidates within the limits: 1,000 parameters, "
        "predicted retention 0.990, 0.1 ms estimated end to end"
    )
