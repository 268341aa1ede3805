"""Several teachers as one: what a mean is, what dev rows decide, and what they may not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexport.errors import BadInput
from kdexport.nouns.project import Ensemble
from kdexport.nouns.teacher import Combination
from kdexport.teachers._ensemble import as_given, combine, decide, fit_weights, log_softmax

ROWS, CLASSES = 400, 4
LABELS = np.random.default_rng(0).integers(0, CLASSES, ROWS)
EVEN = np.ones(ROWS)


def member(accuracy: float, seed: int, confidence: float = 3.0) -> np.ndarray:
    """Logits of a teacher that is right on about that share of the rows, and sure of each answer alike."""
    chance = np.random.default_rng(seed)
    answers = np.where(chance.random(ROWS) < accuracy, LABELS, chance.integers(0, CLASSES, ROWS))
    return (confidence * np.eye(CLASSES)[answers] + 0.1 * chance.normal(size=(ROWS, CLASSES))).astype(np.float32)


def together(mean: str, *weights: tuple[float, ...], temperatures: tuple[float, ...] = (1.0, 1.0)) -> Combination:
    return Combination.model_validate({"mean": mean, "weights": weights, "temperatures": temperatures})


ONE = np.log([[0.9, 0.1]])
OTHER = np.log([[0.5, 0.5]])


# --- means


def test_a_mean_of_probabilities_is_weighted() -> None:
    found = combine([ONE, OTHER], together("probabilities", (0.75,), (0.25,)))
    np.testing.assert_allclose(np.exp(found), [[0.8, 0.2]], rtol=1e-6)


def test_a_mean_of_logits_is_the_geometric_mean_of_probabilities() -> None:
    found = combine([ONE, OTHER], together("logits", (0.5,), (0.5,)))
    np.testing.assert_allclose(np.exp(found), [[0.75, 0.25]], rtol=1e-6)  # sqrt(0.9 x 0.5) : sqrt(0.1 x 0.5) = 3 : 1


def test_a_weight_a_class_counts_in_that_class_alone() -> None:
    found = combine([ONE, OTHER], together("probabilities", (1.0, 0.0), (0.0, 1.0)))
    np.testing.assert_allclose(np.exp(found), [[0.9 / 1.4, 0.5 / 1.4]], rtol=1e-6)


def test_a_temperature_softens_its_own_member() -> None:
    found = combine([2 * ONE, OTHER], together("probabilities", (1.0,), (0.0,), temperatures=(2.0, 1.0)))
    np.testing.assert_allclose(np.exp(found), [[0.9, 0.1]], rtol=1e-6)


def test_a_member_without_weight_need_not_answer() -> None:
    found = combine([None, ONE], together("logits", (0.0,), (1.0,)))
    np.testing.assert_allclose(np.exp(found), [[0.9, 0.1]], rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["logits", "probabilities"]), st.floats(0.01, 0.99), st.floats(-50, 50))
def test_a_constant_added_to_a_members_logits_changes_nothing(mean: str, share: float, shift: float) -> None:
    way = together(mean, (share,), (1 - share,))
    logits = member(0.5, 1)[:20]
    np.testing.assert_allclose(combine([logits, logits[::-1] + shift], way), combine([logits, logits[::-1]], way),
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_answers_are_log_probabilities_whatever_the_weights(mean: str) -> None:
    way = together(mean, (0.2, 0.3, 0.9, 1.0), (0.8, 0.7, 0.1, 0.0))
    sums = np.exp(combine([member(0.5, 1), member(0.8, 2)], way)).sum(1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    way = together("probabilities", (0.5,), (0.5,))
    assert np.isfinite(combine([np.array([[500.0, -500.0]]), np.array([[800.0, -800.0]])], way)).all()


# --- what dev rows decide


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_fitted_weights_are_a_distribution_and_no_worse_than_equal_ones(mean: str) -> None:
    logs = [log_softmax(member(a, s)) for a, s in ((0.95, 1), (0.6, 2), (0.3, 3))]
    shares = fit_weights(logs, LABELS, EVEN, mean)  # type: ignore[arg-type]
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0] > shares[1] > shares[2] - 1e-9

    def nll(weights: np.ndarray) -> float:
        found = combine(logs, together(mean, *[(float(w),) for w in weights], temperatures=(1.0,) * 3))
        return float(-found[np.arange(ROWS), LABELS].mean())

    assert nll(shares) <= nll(np.full(3, 1 / 3)) + 1e-6


def test_a_far_better_member_gets_the_weight_and_the_figures_are_told() -> None:
    found = decide([member(0.98, 1), member(0.3, 2)], LABELS, [1.0, 1.0], Ensemble())
    assert np.mean(found.weights[0]) > 0.8
    assert found.nll[found.reason.partition(":")[0]] < found.nll["mean of probabilities, weights given, not calibrated"]
    assert "held-out folds of 400 dev rows" in found.reason
    assert found.dev_rows == ROWS


def test_members_as_good_as_each_other_keep_the_weights_as_given() -> None:
    """Fitted ones are no more than one standard error better: the simplest stays."""
    found = decide([member(0.9, seed) for seed in (1, 2, 3)], LABELS, [1.0, 1.0, 1.0], Ensemble(calibrate=False))
    assert found.weights == ((pytest.approx(1 / 3, abs=1e-6),),) * 3


def test_a_member_too_sure_of_itself_is_cooled() -> None:
    wishes = Ensemble(weights="given", calibrate=True)
    found = decide([member(0.7, 1, confidence=12.0), member(0.7, 2, confidence=2.0)], LABELS, [1.0, 1.0], wishes)
    assert found.temperatures[0] > 2 > found.temperatures[1]


def test_each_member_may_lead_in_the_class_that_it_knows() -> None:
    blind = np.array([[3.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    knows_low = np.where((LABELS < 2)[:, None], member(1.0, 1), blind)
    knows_high = np.where((LABELS >= 2)[:, None], member(1.0, 2), blind[:, ::-1])
    found = decide([knows_low, knows_high], LABELS, [1.0, 1.0], Ensemble(weights="per_class"))
    weights = np.array(found.weights)
    assert weights.shape == (2, CLASSES)
    np.testing.assert_allclose(weights.sum(0), 1.0, atol=1e-5)
    assert weights[0, :2].min() > 0.6
    assert weights[1, 2:].min() > 0.6


def test_weights_of_dev_rows_count() -> None:
    """Right on the rows that production asks often, wrong on the others: a heavy row is many rows."""
    often = np.where(np.arange(ROWS) % 2 == 0, 50.0, 1.0)
    right, wrong = member(1.0, 1), member(0.0, 2)
    even = np.where((np.arange(ROWS) % 2 == 0)[:, None], right, wrong)
    odd = np.where((np.arange(ROWS) % 2 == 1)[:, None], right, wrong)
    wishes = Ensemble(mean="probabilities", weights="dev", calibrate=False)
    assert decide([even, odd], LABELS, [1.0, 1.0], wishes, often).weights[0][0] > 0.9
    assert decide([even, odd], LABELS, [1.0, 1.0], wishes).weights[0][0] == pytest.approx(0.5, abs=0.1)


def test_the_same_rows_decide_the_same() -> None:
    answers = [member(0.9, 1), member(0.8, 2)]
    assert decide(answers, LABELS, [1.0, 1.0], Ensemble()) == decide(answers, LABELS, [1.0, 1.0], Ensemble())


# --- what they may not


def test_without_dev_rows_the_given_weights_stay_and_the_reason_is_said() -> None:
    found = as_given([3.0, 1.0], Ensemble(), "a member has seen them")
    assert found.weights == ((0.75,), (0.25,))
    assert found.temperatures == (1.0, 1.0)
    assert found.reason == "mean of probabilities, weights as given, not calibrated: a member has seen them"


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        (Ensemble(weights="dev"), "weights: dev"),
        (Ensemble(weights="per_class", calibrate=True), "weights: per_class and calibrate: true"),
    ],
)
def test_wishes_that_dev_rows_may_not_meet_are_refused(wishes: Ensemble, named: str) -> None:
    with pytest.raises(BadInput, match=f"ensemble: {named} would be fitted on dev rows, but it has seen them; leave"):
        as_given([1.0, 1.0], wishes, "it has seen them")


def test_a_handful_of_dev_rows_decides_nothing() -> None:
    found = decide([member(0.9, 1)[:10], member(0.5, 2)[:10]], LABELS[:10], [1.0, 1.0], Ensemble())
    assert found.weights == ((0.5,), (0.5,))
    assert "10 dev rows decide nothing, 50 do" in found.reason


def test_weights_that_are_all_zero_are_refused_with_their_number() -> None:
    with pytest.raises(BadInput, match="the weights of all 3 teachers are 0; give one of them a weight above 0"):
        as_given([0.0, 0.0, 0.0], Ensemble(), "as asked")
