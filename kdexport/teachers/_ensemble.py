"""Several teachers as one: their mean, their weights and their temperatures, given or decided on dev rows.

Shapes everywhere: answers M logits (N, C) in the project's class order, labels int64 (N,), row_weights float64 (N,)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdexport.dataset import Split
from kdexport.errors import BadInput
from kdexport.measure.calibration import fit_temperature
from kdexport.nouns.project import Ensemble
from kdexport.nouns.teacher import Combination, TeacherMember

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
LEAST_ROWS = 50  # fewer dev rows decide nothing
SMALLEST_PROBABILITY = 1e-12
PRIOR_ROWS = 20.0  # a class's weights stay near the common ones until it has about as many dev rows
STEPS, STEP_TOLERANCE = 500, 1e-7

Mean = Literal["logits", "probabilities"]
Weights = Literal["given", "dev", "per_class"]


@dataclass(frozen=True)
class Way:
    """One way to combine, before its numbers are fitted."""

    weights: Weights
    calibrate: bool
    mean: Mean

    @property
    def name(self) -> str:
        return f"mean of {self.mean}, weights {self.weights}, {'' if self.calibrate else 'not '}calibrated"


def combine(answers: Sequence[np.ndarray | None], combination: Combination) -> np.ndarray:
    """Log-probabilities, float32 (N, C). An answer may be None where the member's weights are 0.

    probabilities: log sum_m w_m softmax(z_m / T_m); logits: sum_m w_m log softmax(z_m / T_m), normalised again."""
    import numpy as np

    total: np.ndarray | None = None
    for logits, weights, temperature in zip(
        answers, combination.weights, combination.temperatures, strict=True
    ):  # in place: an ensemble labels a hundred thousand rows
        if logits is None:
            continue
        logs = log_softmax(logits / temperature)
        share = np.asarray(weights) * (np.exp(logs) if combination.mean == "probabilities" else logs)
        total = share if total is None else total + share
    assert total is not None
    if combination.mean == "probabilities":
        total = np.log(np.maximum(total, SMALLEST_PROBABILITY))
    return log_softmax(total).astype(np.float32) if _unequal(combination) else total.astype(np.float32)


def _unequal(combination: Combination) -> bool:
    """Does the sum lose its norm? Not the mean of probabilities with one weight a member."""
    return combination.mean == "logits" or len(combination.weights[0]) > 1


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 (N, C)."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def settle(
    members: Sequence[TeacherMember], answers: Sequence[np.ndarray], dev: Split, wishes: Ensemble
) -> Combination:
    """By the dev rows where no member has learnt from them, else as given; answers: to the dev rows.

    Raises BadInput for wishes that dev rows cannot meet."""
    given = [m.weight for m in members]
    if dev.labels is None:
        return as_given(given, wishes, "the data have no labels")
    if seen := [m.name for m in members if m.seen_dev]:
        return as_given(given, wishes, f"{', '.join(seen)} may have learnt from these rows (trained_on)")
    return decide(answers, dev.labels, given, wishes, dev.weights)


def as_given(weights: Sequence[float], wishes: Ensemble, why: str) -> Combination:
    """Without looking at any row. why: what keeps the dev rows from deciding.

    Raises BadInput where the project asks for what is fitted on them, or where no member has a weight."""
    asked = [f"weights: {wishes.weights}"] if wishes.weights in ("dev", "per_class") else []
    asked += ["calibrate: true"] if wishes.calibrate is True else []
    if asked:
        raise BadInput(f"ensemble: {' and '.join(asked)} would be fitted on dev rows, but {why}; leave it at auto")
    if not sum(weights):
        raise BadInput(f"the weights of all {len(weights)} teachers are 0; give one of them a weight above 0")
    mean: Mean = "probabilities" if wishes.mean == "auto" else wishes.mean
    return Combination(
        mean=mean,
        weights=tuple((w / sum(weights),) for w in weights),
        temperatures=(1.0,) * len(weights),
        reason=f"mean of {mean}, weights as given, not calibrated: {why}",
    )


def decide(
    answers: Sequence[np.ndarray],
    labels: np.ndarray,
    given: Sequence[float],
    wishes: Ensemble,
    row_weights: np.ndarray | None = None,
) -> Combination:
    """The way of the lowest negative log-likelihood on dev rows that it was not fitted on (five folds); of those
    within one standard error of it, the simplest. Its numbers are then fitted on all dev rows."""
    import numpy as np

    if len(labels) < LEAST_ROWS:
        return as_given(given, wishes, f"{len(labels)} dev rows decide nothing, {LEAST_ROWS} do")
    weights = np.ones(len(labels)) if row_weights is None else row_weights / row_weights.mean()
    ways = list(_ways(wishes))
    losses = [_held_out_nll(answers, labels, weights, given, way) * weights for way in ways]
    means = [float(loss.mean()) for loss in losses]
    best = losses[int(np.argmin(means))]
    chosen = next(i for i, loss in enumerate(losses) if _within_one_error(loss - best))
    found = _fitted(answers, labels, weights, given, ways[chosen])
    said = f"{means[chosen]:.4f} nats a row on held-out folds of {len(labels):,} dev rows"
    if len(ways) > 1:
        said += f"; the best of {len(ways)} ways has {min(means):.4f}"
    if chosen != int(np.argmin(means)):
        said += ", no more than one standard error better, and is less simple"
    figures = dict(zip((way.name for way in ways), means, strict=True))
    return found.model_copy(update={"reason": f"{ways[chosen].name}: {said}", "nll": figures})


def _ways(wishes: Ensemble) -> Iterator[Way]:
    """All that the project allows, the simplest first."""
    weights: tuple[Weights, ...] = ("given", "dev", "per_class") if wishes.weights == "auto" else (wishes.weights,)
    calibrations = (False, True) if wishes.calibrate == "auto" else (wishes.calibrate,)
    means: tuple[Mean, ...] = ("probabilities", "logits") if wishes.mean == "auto" else (wishes.mean,)
    return (Way(w, c, m) for w in weights for c in calibrations for m in means)


def _within_one_error(differences: np.ndarray) -> bool:
    import numpy as np

    return float(differences.mean()) <= float(differences.std() / np.sqrt(len(differences)))


def _held_out_nll(
    answers: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray, given: Sequence[float], way: Way
) -> np.ndarray:
    """Nats of every row, float64 (N,), by numbers fitted on the other folds."""
    import numpy as np

    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    result = np.empty(len(labels))
    for number in range(FOLDS):
        out, kept = fold == number, fold != number
        found = _fitted([a[kept] for a in answers], labels[kept], weights[kept], given, way)
        logs = combine([a[out] for a in answers], found)
        result[out] = -logs[np.arange(len(logs)), labels[out]]
    return result


def _fitted(
    answers: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray, given: Sequence[float], way: Way
) -> Combination:
    import numpy as np

    temperatures = [fit_temperature(a, labels, weights) if way.calibrate else 1.0 for a in answers]
    shares = (np.asarray(given, dtype=np.float64) / sum(given))[:, None]
    if way.weights != "given":
        logs = [log_softmax(a / t) for a, t in zip(answers, temperatures, strict=True)]
        shares = fit_weights(logs, labels, weights, way.mean)[:, None]
        if way.weights == "per_class":
            shares = _per_class(logs, labels, weights, shares[:, 0])
    return Combination(
        mean=way.mean,
        weights=tuple(tuple(round(float(w), 6) for w in member) for member in shares),
        temperatures=tuple(round(t, 6) for t in temperatures),
        dev_rows=len(labels),
    )


def fit_weights(logs: Sequence[np.ndarray], labels: np.ndarray, row_weights: np.ndarray, mean: Mean) -> np.ndarray:
    """Weights (M,), none negative, sum 1, that make the labels likeliest: both problems are convex in them.

    probabilities: expectation-maximisation; logits: sequential least squares under those constraints."""
    import numpy as np

    likelihoods = np.stack([np.exp(found[np.arange(len(labels)), labels]) for found in logs])
    equal = np.full(len(logs), 1 / len(logs))
    if mean == "probabilities":
        return _mixture(likelihoods, row_weights, np.zeros(len(logs)), equal)
    from scipy.optimize import minimize

    stacked = np.stack(list(logs))

    def nll(shares: np.ndarray) -> tuple[float, np.ndarray]:
        joint = log_softmax(np.tensordot(shares, stacked, axes=1))
        rows = np.arange(len(labels))
        expected = np.einsum("mnc,nc->mn", stacked, np.exp(joint))
        slope = -(row_weights * (stacked[:, rows, labels] - expected)).mean(1)
        return float(-(row_weights * joint[rows, labels]).mean()), slope

    found = minimize(
        nll, equal, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * len(logs),
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1, "jac": np.ones_like},
    )  # fmt: skip
    shares = np.clip(found.x, 0.0, None)
    return np.asarray(shares / shares.sum())


def _mixture(likelihoods: np.ndarray, row_weights: np.ndarray, prior: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Shares (M,) of a mixture. likelihoods: of the true class, (M, N); prior: rows each member has won before."""
    import numpy as np

    shares = start
    for _ in range(STEPS):
        won = shares[:, None] * np.maximum(likelihoods, SMALLEST_PROBABILITY)
        counted = (row_weights * won / won.sum(0)).sum(1) + prior
        after = counted / counted.sum()
        if np.abs(after - shares).max() < STEP_TOLERANCE:
            return np.asarray(after)
        shares = after
    return np.asarray(shares)


def _per_class(
    logs: Sequence[np.ndarray], labels: np.ndarray, row_weights: np.ndarray, common: np.ndarray
) -> np.ndarray:
    """Weights (M, C): of each class the mixture of its own rows, held near the common weights by PRIOR_ROWS."""
    import numpy as np

    likelihoods = np.stack([np.exp(found[np.arange(len(labels)), labels]) for found in logs])
    shares = np.repeat(common[:, None], logs[0].shape[1], axis=1)
    for index in np.unique(labels):
        own = labels == index
        shares[:, index] = _mixture(likelihoods[:, own], row_weights[own], PRIOR_ROWS * common, common)
    return shares
