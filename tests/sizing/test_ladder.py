from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexport.backbones import backbone_of, parse_spec
from kdexport.nouns.graph import InputShape
from kdexport.nouns.ladder import Rung
from kdexport.nouns.spec import StudentSpec
from kdexport.sizing.ladder import FIRST_SHARES, better_half, climb, spread, training_seconds

SHAPE = InputShape(batch=1, tokens=16)
STEPS = 5000


def convolution(embedding_size: int, hidden_size: int, layers: int = 1) -> StudentSpec:
    sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "num_hidden_layers": layers}
    return parse_spec({"backbone": "convolution", "vocab_size": 1000, **sizes})


def transformer(hidden_size: int, layers: int) -> StudentSpec:
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "intermediate_size": 2 * hidden_size}
    return parse_spec({"backbone": "transformer", "vocab_size": 1000, "num_attention_heads": 1, **sizes})


SPECS = [convolution(e, h, d) for e in (16, 32, 64) for h in (64, 128, 256) for d in (1, 2)]
SPECS += [transformer(h, d) for h in (32, 64, 128) for d in (1, 2)]


def params_of(specs: list[StudentSpec]) -> np.ndarray:
    return np.array([backbone_of(s).cost(s, 10, SHAPE).num_params for s in specs], dtype=np.float64)


def rung(num_params: int, dev_quality: float, width: int = 1) -> Rung:
    spec = {"backbone": "convolution", "hidden_size": width}
    return Rung(spec=spec, num_params=num_params, schedule_share=0.125, dev_quality=dev_quality, seconds=1.0)


def test_the_first_round_holds_the_smallest_and_the_largest_of_each_backbone() -> None:
    params = params_of(SPECS)
    chosen = spread(SPECS, params, range(len(SPECS)), 8)
    assert len(set(chosen)) == 8
    for name in ("convolution", "transformer"):
        own = [i for i, s in enumerate(SPECS) if s.backbone == name]
        assert {min(own, key=lambda i: params[i]), max(own, key=lambda i: params[i])} <= set(chosen)
        assert sum(i in own for i in chosen) == 4


def test_between_the_ends_stand_the_shapes_that_differ_most() -> None:
    specs = [convolution(16, 64), convolution(16, 65), convolution(64, 64), convolution(16, 256), convolution(64, 256)]
    assert set(spread(specs, params_of(specs), range(5), 4)) == {0, 2, 3, 4}


@given(st.permutations(range(len(SPECS))), st.sampled_from([10.0, 60.0, 300.0, 10_000.0]))
def test_the_order_of_the_candidates_changes_nothing(order: list[int], budget_seconds: float) -> None:
    params = params_of(SPECS)
    seconds = params / 2000
    one = climb(SPECS, params, seconds, STEPS, budget_seconds)
    other = climb([SPECS[i] for i in order], params[order], seconds[order], STEPS, budget_seconds)
    assert [SPECS[i] for i in one.first] == [SPECS[order[i]] for i in other.first]
    assert one.shares == other.shares
    assert one.seconds == pytest.approx(other.seconds)


@pytest.mark.parametrize(
    ("budget_seconds", "shares", "seconds"),
    [
        (500, (1 / 4, 1 / 2), 400.0),
        (320, (1 / 8, 1 / 2), 300.0),
        (260, (1 / 16, 1 / 4, 1 / 2), 250.0),
        (160, (1 / 16, 1 / 4), 150.0),
        (80, (1 / 32, 1 / 8), 75.0),
        (60, (1 / 16,), 50.0),
    ],
)
def test_a_larger_budget_buys_longer_schedules(
    budget_seconds: float, shares: tuple[float, ...], seconds: float
) -> None:
    """Eight students whose full training takes 100 s; of each round the half goes on."""
    params, full_seconds = params_of(SPECS), np.full(len(SPECS), 100.0)
    found = climb(SPECS, params, full_seconds, STEPS, budget_seconds)
    assert (found.shares, found.seconds) == (shares, seconds)


@pytest.mark.parametrize(("steps", "shortest"), [(5000, 1 / 32), (1000, 1 / 8), (400, 1 / 4), (10, 1 / 4)])
def test_no_rung_is_so_short_that_it_tells_nothing(steps: float, shortest: float) -> None:
    params, full_seconds = params_of(SPECS), np.full(len(SPECS), 100.0)
    assert climb(SPECS, params, full_seconds, steps, 1.0).shares == (shortest,)


def test_a_student_that_alone_would_eat_the_budget_does_not_climb() -> None:
    params, seconds = params_of(SPECS), np.full(len(SPECS), 10.0)
    giant = int(params.argmax())
    seconds[giant] = 1e6
    found = climb(SPECS, params, seconds, STEPS, 100.0)
    assert giant not in found.first
    assert found.shares == (1 / 4, 1 / 2)


def test_a_small_budget_is_spent_on_cheap_students() -> None:
    params = params_of(SPECS)
    seconds = params / 100
    rich, poor = (climb(SPECS, params, seconds, STEPS, budget) for budget in (1e6, seconds.sum() / 100))
    assert seconds[list(poor.first)].max() < seconds[list(rich.first)].max()


def test_where_nothing_fits_the_cheapest_ladder_is_planned_all_the_same() -> None:
    params, seconds = params_of(SPECS), np.linspace(100, 200, len(SPECS))
    assert climb(SPECS, params, seconds, STEPS, 0.1).shares == (min(FIRST_SHARES),)


def test_training_time_grows_with_arithmetic_and_with_steps() -> None:
    assert training_seconds(1e6, 128_000, 128, 1) == pytest.approx(3 * 1e6 * 128_000 / 30e9 + 5.0)
    assert training_seconds(1e6, 128_000, 128, 2) < training_seconds(1e6, 128_000, 128, 1)
    assert training_seconds(0.0, 1280, 128, 1) == pytest.approx(0.05)


def test_the_best_small_student_climbs_beside_the_best_large_one() -> None:
    small, poor, middle, large = rung(10, 0.80), rung(20, 0.70), rung(30, 0.79), rung(40, 0.90)
    assert better_half([poor, large, middle, small]) == [small, large]


def test_of_students_on_the_front_sizes_from_all_over_climb() -> None:
    front = [rung(10 * n, 0.1 * n) for n in range(1, 8)]
    assert better_half(front) == [front[0], front[3], front[6]]
    assert better_half(front[:3]) == [front[2]]


def test_a_larger_student_that_is_no_better_does_not_climb() -> None:
    assert better_half([rung(10, 0.9, 1), rung(20, 0.9, 2)]) == [rung(10, 0.9, 1)]


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_rungs_changes_nothing(found: list[tuple[int, float]], chance: object) -> None:
    rungs = [rung(n, q, i) for i, (n, q) in enumerate(found)]
    shuffled = rungs[:]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert better_half(rungs) == better_half(shuffled)
    assert len(better_half(rungs)) == len(rungs) // 2
