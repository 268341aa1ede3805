from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport import registry
from kdexport.backbones import backbone_of, parse_spec
from kdexport.nouns.graph import InputShape
from kdexport.nouns.ladder import Ladder, Rung
from kdexport.nouns.spec import StudentSpec
from kdexport.sizing.quality import Retentions, predict

KINDS = ("text", "image")
PARAMS = st.integers(100, 10**9)
TEACHERS = st.none() | st.integers(10**4, 10**10)
TEXT_SHAPE = InputShape(batch=1, tokens=16)
TEACHER = 0.93


def convolution(embedding_size: int, hidden_size: int, layers: int = 1) -> StudentSpec:
    sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "num_hidden_layers": layers}
    return parse_spec({"backbone": "convolution", "vocab_size": 2000, **sizes})


def transformer(hidden_size: int, layers: int) -> StudentSpec:
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "intermediate_size": 2 * hidden_size}
    return parse_spec({"backbone": "transformer", "vocab_size": 2000, "num_attention_heads": 1, **sizes})


GRID = [convolution(e, h, d) for e in (8, 16, 32, 64, 128) for h in (64, 128, 256) for d in (1, 2)]
GRID += [transformer(h, d) for h in (32, 64, 128) for d in (1, 2, 3)]
CLIMBERS = [GRID[i] for i in (0, 4, 29, 14, 30, 38, 34)]


def params_of(specs: list[StudentSpec]) -> np.ndarray:
    return np.array([backbone_of(s).cost(s, 77, TEXT_SHAPE).num_params for s in specs], dtype=np.float64)


def flops_of(specs: list[StudentSpec]) -> np.ndarray:
    return np.array([backbone_of(s).cost(s, 77, TEXT_SHAPE).flops for s in specs], dtype=np.float64)


def true_error(spec: StudentSpec, share: float) -> float:
    """A power law in width, depth and schedule; a transformer needs more of all."""
    width = math.log2(getattr(spec, "embedding_size", 0) or getattr(spec, "hidden_size", 0))
    depth = spec.model_dump()["num_hidden_layers"]
    behind = 0.25 if spec.backbone == "transformer" else 0.0
    return math.exp(-1.6 + behind - 0.12 * (width - 3) - 0.03 * depth - 0.10 * math.log2(share))


def ladder(dev_rows: int = 2000, noise: float = 0.0, seen: bool = False, seed: int = 0) -> Ladder:
    chance = np.random.default_rng(seed)
    rungs = []
    for number, spec in enumerate(CLIMBERS):
        for share in (1 / 8, 1 / 2) if number % 2 == 0 else (1 / 8,):
            quality = 1 - true_error(spec, share) * math.exp(noise * chance.normal())
            params = int(params_of([spec])[0])
            rungs.append(
                Rung(spec=spec.model_dump(), num_params=params, schedule_share=share, dev_quality=quality, seconds=1.0)
            )
    teacher = None if seen else TEACHER
    return Ladder(rungs=tuple(rungs), teacher_dev_quality=teacher, dev_rows=dev_rows, seconds=9.0, budget_seconds=10.0)


def predicted(found: Ladder | None, specs: list[StudentSpec] = GRID, teacher: int | None = 22_000_000) -> Retentions:
    return predict(found, "text", specs, params_of(specs), teacher, flops_of(specs))


def prior(kind: str, backbone: str, params: int, teacher: int | None) -> tuple[float, float, float, str]:
    """One prediction without a ladder; only a spec's backbone and size count."""
    spec = StudentSpec(backbone=backbone)
    found = predict(None, kind, [spec], np.array([float(params)]), teacher, np.array([100.0 * params]))
    return float(found.value[0]), float(found.low[0]), float(found.high[0]), found.basis


# --- the shipped prior


@given(st.sampled_from(KINDS), st.sampled_from(registry.names("backbones")), PARAMS, PARAMS, TEACHERS)
def test_more_parameters_are_never_predicted_to_keep_less(
    kind: str, backbone: str, one: int, other: int, teacher: int | None
) -> None:
    small, large = (prior(kind, backbone, n, teacher)[0] for n in sorted((one, other)))
    assert small <= large


@given(st.sampled_from(KINDS), PARAMS, TEACHERS)
def test_a_prediction_is_a_share_within_its_interval(kind: str, params: int, teacher: int | None) -> None:
    value, low, high, _ = prior(kind, "convolution", params, teacher)
    assert 0 <= low <= value <= high
    assert value <= 1.01


@given(PARAMS, st.integers(10**4, 10**9))
def test_a_larger_teacher_is_never_easier_to_keep(params: int, teacher: int) -> None:
    easy, hard = (prior("text", "convolution", params, t)[0] for t in (teacher, 2 * teacher))
    assert hard <= easy


@pytest.mark.parametrize(
    ("params", "ratio", "measured"),
    [(700_000, 33, 1.001), (180_000, 126, 0.998), (908_000, 25, 0.971), (234_000, 97, 0.960)],
)
def test_the_interval_holds_every_retention_that_it_was_made_from(params: int, ratio: int, measured: float) -> None:
    """Banking77 at 1/33 and 1/126, a set of 64 intents at 1/25 and 1/97."""
    _, low, high, _ = prior("text", "convolution", params, params * ratio)
    assert low <= measured <= high


def test_an_unknown_teacher_is_assumed_and_said() -> None:
    assert prior("text", "convolution", 10**5, None)[3].endswith("teacher's size unknown, 20 M assumed")
    assert "unknown" not in prior("text", "convolution", 10**5, 10**7)[3]


def test_pictures_have_a_wider_interval_than_texts() -> None:
    (_, low, high, _), (_, image_low, image_high, _) = (prior(k, "convolution", 10**6, 3 * 10**7) for k in KINDS)
    assert image_high - image_low > high - low


def test_a_column_of_students_is_predicted_as_each_of_them_alone() -> None:
    for found in (None, ladder()):
        together = predicted(found)
        alone = [predicted(found, [spec]) for spec in GRID]
        np.testing.assert_allclose(together.value, [a.value[0] for a in alone])
        np.testing.assert_allclose(together.low, [a.low[0] for a in alone])
        np.testing.assert_allclose(together.high, [a.high[0] for a in alone])


# --- a ladder


def test_a_law_that_holds_is_found_at_the_full_schedule() -> None:
    """Within the climbed sizes; a 3-layer transformer beyond them is held back by what is believed of sizes."""
    off = np.abs(predicted(ladder(dev_rows=20_000)).value - np.array([1 - true_error(s, 1.0) for s in GRID]) / TEACHER)
    assert off.mean() < 0.008
    assert off.max() < 0.04


def test_the_ladder_is_nearer_to_the_truth_than_the_prior() -> None:
    truth = np.array([1 - true_error(s, 1.0) for s in GRID]) / TEACHER
    error = [np.abs(predicted(found).value - truth).mean() for found in (ladder(noise=0.05), None)]
    assert error[0] < 0.5 * error[1]


def test_nine_in_ten_truths_lie_within_the_interval() -> None:
    """Where trainings of one student scatter by 2 % of their error, and by 5 %."""
    truth = np.array([1 - true_error(s, 1.0) for s in GRID]) / TEACHER
    for noise in (0.02, 0.05):
        inside = []
        for seed in range(8):
            found = predicted(ladder(noise=noise, seed=seed))
            inside.append(((found.low <= truth) & (truth <= found.high)).mean())
        assert np.mean(inside) >= 0.9


def test_rungs_that_contradict_the_curve_and_few_dev_rows_widen_the_interval() -> None:
    width = {
        name: float((found.high - found.low).mean())
        for name, found in {
            "smooth": predicted(ladder()),
            "noisy": predicted(ladder(noise=0.4)),
            "few rows": predicted(ladder(dev_rows=100)),
        }.items()
    }
    assert width["noisy"] > 1.5 * width["smooth"]
    assert width["few rows"] > 1.5 * width["smooth"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CLIMBERS), st.sampled_from([1 / 16, 1 / 4, 1.0]), st.floats(0, 1)), min_size=1),
    st.tuples(st.integers(8, 200), st.integers(16, 400), st.integers(1, 3)),
    st.tuples(st.integers(0, 200), st.integers(0, 400), st.integers(0, 3)),
)
def test_more_of_everything_is_never_predicted_to_keep_less_whatever_the_rungs_say(
    found: list[tuple[StudentSpec, float, float]], sizes: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    rungs = tuple(
        Rung(spec=s.model_dump(), num_params=int(params_of([s])[0]), schedule_share=a, dev_quality=q, seconds=1)
        for s, a, q in found
    )
    made = Ladder(rungs=rungs, teacher_dev_quality=TEACHER, dev_rows=500, seconds=1, budget_seconds=1)
    small, large = convolution(*sizes), convolution(*(a + b for a, b in zip(sizes, more, strict=True)))
    value = predicted(made, [small, large]).value
    assert value[0] <= value[1] + 1e-12


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(11)), st.permutations(range(len(GRID))))
def test_the_order_of_rungs_and_of_candidates_changes_nothing(rungs: list[int], order: list[int]) -> None:
    made = ladder(noise=0.1)
    shuffled = made.model_copy(update={"rungs": tuple(made.rungs[i] for i in rungs)})
    one, other = predicted(made), predicted(shuffled, [GRID[i] for i in order])
    for a, b in ((one.value, other.value), (one.low, other.low), (one.high, other.high)):
        np.testing.assert_array_equal(a[order], b)


def test_a_floor_under_the_error_is_told_from_the_rungs_and_not_undercut() -> None:
    """Errors that halve above a floor of 0.1 with each size and schedule."""

    def error(spec: StudentSpec, share: float) -> float:
        return 0.1 + true_error(spec, share) ** 3 * 10

    rungs = tuple(
        Rung(spec=s.model_dump(), num_params=int(params_of([s])[0]), schedule_share=a, dev_quality=1 - error(s, a),
             seconds=1)
        for s in CLIMBERS for a in (1 / 16, 1 / 4)
    )  # fmt: skip
    made = Ladder(rungs=rungs, teacher_dev_quality=1.0, dev_rows=10_000, seconds=1, budget_seconds=1)
    truth = np.array([1 - error(s, 1.0) for s in GRID])
    assert np.abs(predicted(made).value - truth).mean() < 0.01
    assert predicted(made).value.max() < 0.93


def test_one_rung_is_enough_and_leaves_a_wide_interval() -> None:
    made = ladder()
    lonely = made.model_copy(update={"rungs": made.rungs[:1]})
    found, all_rungs = predicted(lonely), predicted(made)
    assert np.isfinite(found.value).all()
    assert ((found.high - found.low) > (all_rungs.high - all_rungs.low)).all()


def test_a_backbone_that_did_not_climb_is_predicted_with_a_wider_interval() -> None:
    made = ladder()
    only = made.model_copy(update={"rungs": tuple(r for r in made.rungs if r.spec["backbone"] == "convolution")})
    width = (lambda r: r.high - r.low)(predicted(only, [transformer(64, 1)]))
    assert width[0] > 2 * (lambda r: r.high - r.low)(predicted(only, [convolution(32, 64)]))[0]


@pytest.mark.parametrize("quality", [0.0, 1.0])
def test_a_rung_that_is_never_or_always_right_breaks_nothing(quality: float) -> None:
    made = ladder()
    extreme = tuple(r.model_copy(update={"dev_quality": quality}) for r in made.rungs)
    found = predicted(made.model_copy(update={"rungs": extreme}))
    assert (found.low >= 0).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


def test_the_basis_says_what_was_trained_and_against_what_it_is_held() -> None:
    assert predicted(ladder()).basis == (
        "ladder: 11 trainings of 7 students on 0.125 to 0.5 of the schedule, 2,000 dev rows; "
        "retention against the teacher on the same rows"
    )


def test_where_the_teacher_has_seen_the_dev_rows_the_level_is_the_priors_and_the_differences_are_the_ladders() -> None:
    honest, seen = predicted(ladder()), predicted(ladder(seen=True))
    best = int(honest.value.argmax())
    np.testing.assert_allclose(seen.value / seen.value[best], honest.value / honest.value[best])
    shipped = predicted(None, CLIMBERS).value
    assert shipped.min() <= seen.value[[GRID.index(c) for c in CLIMBERS]].max() <= shipped.max()
    assert ((seen.high - seen.low) > (honest.high - honest.low)).all()
    assert "the level is the shipped prior's" in seen.basis


def test_thousands_of_candidates_take_no_longer_than_a_moment_of_arithmetic() -> None:
    """Nothing is fitted once for each candidate: the fit is asked for a column."""
    many: list[Any] = GRID * 60
    assert predicted(ladder(), many).value.shape == (len(many),)
