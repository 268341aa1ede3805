from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.backbones.convolution import Spec
from kdexport.latency.estimates import Estimates
from kdexport.nouns.plan import TargetPlan
from kdexport.nouns.target import Target
from kdexport.sizing.choose import SHOWN, Wishes, choose, front
from kdexport.sizing.options import Cell, Options
from kdexport.sizing.quality import Retentions

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
WISHES = Wishes(min_retention=0.97, prefer="cheapest")
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One candidate as a reader writes it down; its name is the student's hidden size."""

    name: int
    quality: float
    p50_ms: float = NAN
    usd: float = NAN
    params: int = 1000
    bytes: int | None = None


def options(*rows: Row) -> Options:
    def column(values: Any) -> np.ndarray:
        return np.array(list(values), dtype=np.float64)

    p50_ms, quality = column(r.p50_ms for r in rows), column(r.quality for r in rows)
    count = np.arange(len(rows))
    return Options(
        specs=[Spec(vocab_size=10, embedding_size=1, hidden_size=r.name) for r in rows],
        cells=[Cell("onnxruntime", "fp32")],
        spec_of=count,
        cell_of=np.zeros(len(rows), int),
        num_params=column(r.params for r in rows),
        artifact_bytes=column(r.bytes or 4 * r.params for r in rows),
        memory_mib=column(74 + 4 * r.params / 2**20 for r in rows),
        retention=Retentions(quality, quality - 0.02, quality + 0.02, "b"),
        latency=[Estimates(p50_ms, p50_ms / 2, p50_ms * 2, np.zeros(len(rows), bool), "m", "b")],
        p50_ms=p50_ms,
        objective_ms=1.5 * p50_ms,
        bound_ms=1.5 * p50_ms,
        usd_per_year=column(r.usd for r in rows),
        usd_per_million=column(r.usd / 31.536 for r in rows),
        allowed=np.ones(len(rows), bool),
    )


def planned(*rows: Row, target: Target = TARGET, **wishes: Any) -> TargetPlan:
    return choose(options(*rows), replace(WISHES, **wishes), target, ())


def chosen(*rows: Row, **wishes: Any) -> int:
    return int(planned(*rows, **wishes).chosen.spec["hidden_size"])


def test_the_cheapest_of_those_good_enough_is_taken() -> None:
    rows = [Row(1, 0.99, 1.0, 500), Row(2, 0.98, 1.2, 300), Row(3, 0.96, 0.1, 100)]
    assert chosen(*rows) == 2


def test_the_best_quality_is_taken_where_that_is_preferred() -> None:
    rows = [Row(1, 0.99, 1.0, 500), Row(2, 0.98, 1.2, 300)]
    assert chosen(*rows, prefer="quality") == 1


def test_costs_within_two_per_cent_are_a_tie_that_latency_breaks() -> None:
    assert chosen(Row(1, 0.98, 1.0, 101), Row(2, 0.98, 1.2, 100)) == 1
    assert chosen(Row(1, 0.98, 1.0, 103), Row(2, 0.98, 1.2, 100)) == 2


def test_bytes_break_a_tie_of_cost_and_latency() -> None:
    assert chosen(Row(1, 0.98, 1.0, 100, params=2000), Row(2, 0.98, 1.0, 100, params=1000)) == 2


def test_without_prices_the_fastest_good_one_is_taken() -> None:
    assert chosen(Row(1, 0.99, 1.0), Row(2, 0.98, 0.5), Row(3, 0.9, 0.1)) == 2


def test_without_any_latency_the_smallest_good_one_is_taken() -> None:
    assert chosen(Row(1, 0.99, params=500), Row(2, 0.98, params=400), Row(3, 0.9, params=10)) == 2


def test_what_breaks_a_limit_is_never_taken_while_something_keeps_it() -> None:
    found = planned(Row(1, 0.99, 5.0), Row(2, 0.98, 1.0))
    assert found.chosen.spec["hidden_size"] == 2
    assert found.feasible
    assert found.binding is None


def test_too_slow_names_the_limit_that_binds_and_a_limit_that_would_be_met() -> None:
    found = planned(Row(1, 0.99, 5.0), Row(2, 0.98, 1.51))
    assert not found.feasible
    assert found.binding == "latency"
    assert "ms is over limit_ms 2 (target t; met with limit_ms 2.27" in found.nearest


def test_a_limit_said_to_be_met_is_met() -> None:
    rows = [Row(1, 0.99, 5.0), Row(2, 0.98, 1.51)]
    looser = TARGET.model_copy(update={"objective": TARGET.objective.model_copy(update={"limit_ms": 2.27})})
    assert planned(*rows, target=looser).feasible


def test_the_nearest_way_out_comes_first_and_every_single_one_is_named() -> None:
    """2 misses the limit by 2 %, 1 misses the retention by 3 %."""
    found = planned(Row(1, 0.94, 1.0), Row(2, 0.98, 1.36))
    assert found.binding == "latency"
    assert "met with limit_ms 2.04; or min_retention 0.940" in found.nearest


def test_retention_out_of_reach_takes_the_best_there_is_and_says_what_is_met() -> None:
    found = planned(Row(1, 0.95, 1.0), Row(2, 0.9, 0.5))
    assert not found.feasible
    assert found.chosen.spec["hidden_size"] == 1
    assert found.binding == "min_retention"
    assert "0.950 (0.930 to 0.970)" in found.nearest
    assert "met with min_retention 0.950" in found.nearest


def test_two_limits_that_must_give_way_together_are_said_together() -> None:
    small = TARGET.model_copy(update={"limits": TARGET.limits.model_copy(update={"artifact_bytes": 100})})
    found = planned(Row(1, 0.98, 3.0, params=100), target=small)
    assert "met only with artifact_bytes 400 and limit_ms 4.5 together" in found.nearest


@pytest.mark.parametrize(
    ("limits", "wishes", "message", "binding"),
    [
        ({}, {"max_params": 10}, "1,000 parameters are over max_params 10", "max_params"),
        ({"artifact_bytes": 10}, {}, "4,000 bytes are over the target's artifact_bytes 10", "artifact_bytes"),
        ({"memory_mib": 10}, {}, "74 MiB are over the target's memory_mib 10", "memory"),
        ({}, {"max_usd_per_million": 1.0}, "3.171 USD per million is over max_usd_per_million 1", "usd"),
    ],
)
def test_every_limit_is_named_where_it_cannot_be_kept(
    limits: dict[str, Any], wishes: dict[str, Any], message: str, binding: str
) -> None:
    target = TARGET.model_copy(update={"limits": TARGET.limits.model_copy(update=limits)})
    found = planned(Row(1, 0.99, 1.0, 100), target=target, **wishes)
    assert message in found.nearest
    assert found.binding == binding
    assert found.chosen.broken == (binding,)


rows_of = st.lists(
    st.builds(
        Row,
        name=st.integers(1, 30),
        quality=st.sampled_from((0.95, 0.97, 0.98, 0.99)),
        p50_ms=st.sampled_from((0.5, 1.0, 2.0, NAN)),
        usd=st.sampled_from((100.0, 101.0, 200.0, NAN)),
        params=st.integers(1, 4),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row.name,  # one student is one candidate of a cell
)


@given(rows_of, st.randoms(use_true_random=False), st.sampled_from(("cheapest", "quality")))
def test_permuting_candidates_changes_nothing(rows: list[Row], chance: Any, prefer: Any) -> None:
    shuffled = rows.copy()
    chance.shuffle(shuffled)
    assert planned(*rows, prefer=prefer) == planned(*shuffled, prefer=prefer)


def points(table: Options, indices: list[int]) -> list[tuple[float, ...]]:
    latency = np.where(np.isnan(table.p50_ms), table.num_params, table.p50_ms)
    usd = np.nan_to_num(table.usd_per_year)
    quality = table.retention.value[table.spec_of]
    return [(-quality[i], latency[i], table.artifact_bytes[i], usd[i]) for i in indices]


def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@given(rows_of)
def test_the_front_is_a_front(rows: list[Row]) -> None:
    table = options(*rows)
    kept = front(table, np.ones(len(rows), bool))
    on, all_of = points(table, kept), points(table, list(range(len(rows))))
    assert not any(beats(a, b) for a in all_of for b in on)  # nothing beats what is on it
    assert all(p in on or any(beats(q, p) for q in on) for p in all_of)  # what is not on it is beaten
    assert len(set(on)) == len(on)
    assert all(a[1] <= b[1] for a, b in pairwise(on))  # fastest first


def test_a_price_that_is_not_known_keeps_no_limit_of_money() -> None:
    found = planned(Row(1, 0.98, 1.0), max_usd_per_million=1.0)
    assert not found.feasible
    assert "its price is not known" in found.nearest
    assert "met with an offering with a price" in found.nearest


def test_limits_in_words_are_not_rounded_into_each_other() -> None:
    tight = TARGET.model_copy(update={"objective": TARGET.objective.model_copy(update={"limit_ms": 1000.0})})
    nearest = planned(Row(1, 0.98, 1004 / 1.5), target=tight).nearest
    assert "p99 1,004 ms is over limit_ms 1,000" in nearest
    assert "met with limit_ms 1004" in nearest


def test_of_limits_that_must_give_way_together_the_worst_is_told_first() -> None:
    small = TARGET.model_copy(update={"limits": TARGET.limits.model_copy(update={"artifact_bytes": 390})})
    found = planned(Row(1, 0.98, 100.0, params=100), target=small)
    assert found.binding == "latency"
    assert found.nearest.startswith("p99")


def test_what_is_not_allowed_is_neither_taken_nor_shown_nor_counted() -> None:
    table = replace(options(Row(1, 0.99, 0.1), Row(2, 0.98, 1.0)), allowed=np.array([False, True]))
    found = choose(table, WISHES, TARGET, ())
    assert [c.spec["hidden_size"] for c in (found.chosen, *found.front)] == [2, 2]
    assert "1 candidates of 1 " in found.reason


@given(rows_of, st.sampled_from(("cheapest", "quality")))
def test_a_dearer_price_of_all_options_changes_no_choice(rows: list[Row], prefer: Any) -> None:
    dearer = [replace(r, usd=2 * r.usd) for r in rows]
    assert planned(*rows, prefer=prefer).chosen.spec == planned(*dearer, prefer=prefer).chosen.spec


def test_a_long_front_is_thinned_and_keeps_its_ends() -> None:
    rows = [Row(n, 0.9 + n / 1000, float(n), params=n) for n in range(1, 99)]
    loose = TARGET.model_copy(update={"objective": TARGET.objective.model_copy(update={"limit_ms": 1e9})})
    found = planned(*rows, target=loose, min_retention=0.95)
    shown = [c.spec["hidden_size"] for c in found.front]
    assert len(shown) == SHOWN + 1  # and the chosen one
    assert found.front_size == 98
    assert found.chosen in found.front
    assert (shown[0], shown[-1]) == (1, 98)
