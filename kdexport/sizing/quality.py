"""Predicted retention before any full training: from a ladder, or a shipped prior with its wide interval.

With a ladder the error (1 - quality) above a floor is a power law in a student's sizes and in its schedule (Hestness et
al. 2017; Kaplan et al. 2020): its log-odds are linear in their logarithms, fitted to the rungs by regularised least
squares and read off at the full schedule. No size may make a student of the same backbone worse. What floor there is,
the rungs tell badly: several are fitted, and weighed by how well each explains the rungs."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import backbone_of, parse_spec
from kdexport.nouns.base import Noun
from kdexport.nouns.ladder import Ladder, Rung
from kdexport.nouns.spec import StudentSpec
from kdexport.storage.files import read_json

if TYPE_CHECKING:
    import numpy as np

PRIOR_FILE = Path(__file__).with_name("quality_prior.json")
ASSUMED_TEACHER_PARAMS = 20_000_000
MOST_RETENTION = 1.01  # that the prior dares to promise
HIGHEST_INTERVAL = 1.645  # standard deviations on either side of a 90 % interval
ENOUGH_PIECES = 3000  # about what 10,000 queries use twice; Banking77: 2,384 16 wide beat 1,000 32 wide by a point
MORE_PIECES = 0.3  # of a doubling's worth beyond: CLINC150: 3,040 32 wide beat 7,698 16 wide by half a point
REFERENCE_PARAMS = 1e5  # where the intercepts stand; any value gives the same fit to the rungs
FLOORS = (0.0, 0.2, 0.4, 0.6, 0.8)  # of the least error on the ladder: what no student and no schedule gets below
BELIEF = 5.0  # rungs that the assumed scatter weighs as much as


@dataclass(frozen=True, eq=False)
class Retentions:
    """Student's quality over the teacher's of N specs, with a 90 % interval; float64 (N,)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    basis: str


class _Normal(Noun):
    """What is believed of a coefficient before a rung is seen."""

    mean: float
    sd: float


class _Curve(Noun):
    """Beliefs on the log-odds of an error."""

    level: _Normal
    backbone: _Normal
    per_params: _Normal  # fall for each doubling of the parameters
    per_size: _Normal  # further fall for each doubling of one size
    per_schedule: _Normal  # fall for each doubling of the rows seen
    own_schedule: _Normal  # the same, of one backbone against all
    larger_longer: _Normal  # further fall for a doubling of both parameters and rows seen
    scatter: float  # of a student about its curve: seeds, and shapes that no size tells


class _Prior(Noun):
    """retention = retention_at_1_30 - loss_per_decade * log10(ratio / 30) - small_loss * (small_params / params)."""

    retention_at_1_30: float
    loss_per_decade: float
    half_width: float
    transformer_offset: float
    bag_offset: float
    convolution_gain: float = 0.0  # for each doubling of vocabulary x widths x depth, see _doublings
    convolution_at: float = 0.0  # doublings at which that gain is 0
    enough_layers: int  # a picture's convolutions in a row: fewer see too little of it
    missing_layer_loss: float  # for each that is missing
    many_layers: int = 0
    layer_gain: float = 0.0  # for each from enough_layers to many_layers
    depthwise_offset: float = 0.0
    residual_offset: float = 0.0
    reuse_gain: float = 0.0  # for each doubling of the positions of a picture that a weight meets
    most_reuse: float = 1.0  # positions, on average over the weights: more add nothing
    last_side: int = 1  # of the last stage's picture, at most: a larger one sees no whole of it
    missing_stage_loss: float = 0.0  # for each halving that is missing
    small_params: float
    small_exponent: float
    small_loss: float
    curve: _Curve


@functools.cache
def _prior(input_kind: str) -> tuple[_Prior, str]:
    document = read_json(PRIOR_FILE)
    return _Prior.model_validate(document[input_kind]), document["source"]


def predict(
    ladder: Ladder | None,
    input_kind: str,
    specs: Sequence[StudentSpec],
    num_params: np.ndarray,
    teacher_params: int | None,
    flops: np.ndarray | None = None,
    side: int = 0,
) -> Retentions:
    """num_params, flops (of one row; none: pictures are taken to be looked at closely enough): (N,). side: of the
    pictures, in pixels. What is predicted of one spec does not depend on the others, nor on the order of the rungs.

    A spec that is at least as large as another of its backbone in each of SIZE_FIELDS, and equal in the rest, is
    never predicted to keep less. Without a teacher's size, 20 M is assumed and said."""
    if ladder is None or not ladder.complete:
        prior = _from_prior(input_kind, specs, num_params, teacher_params, flops, side)
        if ladder is None:
            return prior
        # a few of the smallest students, trained for a moment, say nothing of the others
        short = f"the ladder's budget of {ladder.budget_seconds:.0f} s did not last for its first round, so: "
        return Retentions(prior.value, prior.low, prior.high, short + prior.basis)
    return _from_ladder(ladder, input_kind, specs, num_params, teacher_params)


def _from_prior(
    input_kind: str,
    specs: Sequence[StudentSpec],
    num_params: np.ndarray,
    teacher_params: int | None,
    flops: np.ndarray | None = None,
    side: int = 0,
) -> Retentions:
    import numpy as np

    prior, source = _prior(input_kind)
    params = np.asarray(num_params, dtype=np.float64)
    ratio = np.maximum((teacher_params or ASSUMED_TEACHER_PARAMS) / params, 1.0)
    value = prior.retention_at_1_30 - prior.loss_per_decade * np.log10(ratio / 30)
    value -= prior.small_loss * (prior.small_params / params) ** prior.small_exponent
    kinds = np.array([spec.backbone for spec in specs], dtype=object)
    value += prior.transformer_offset * (kinds == "transformer").astype(np.float64)
    bags = [spec.backbone == "bag" or getattr(spec, "num_hidden_layers", 1) == 0 for spec in specs]
    value += prior.bag_offset * np.array(bags, dtype=np.float64)
    value += prior.convolution_gain * np.array([_doublings(spec, prior.convolution_at) for spec in specs])
    value += prior.depthwise_offset * (kinds == "depthwise_convolution").astype(np.float64)
    value += prior.residual_offset * (kinds == "residual_convolution").astype(np.float64)
    if flops is not None:
        reuse = (np.asarray(flops, dtype=np.float64) / (2 * params)).clip(1.0, prior.most_reuse)
        value -= prior.reuse_gain * np.log2(prior.most_reuse / reuse)
    halvings = math.ceil(math.log2(side / prior.last_side)) if side > prior.last_side else 0
    lacking = [max(halvings + 1 - getattr(spec, "num_stages", halvings + 1), 0) for spec in specs]
    value -= prior.missing_stage_loss * np.array(lacking, dtype=np.float64)
    missing = [max(prior.enough_layers - _num_layers(spec), 0) for spec in specs]
    value -= prior.missing_layer_loss * np.array(missing, dtype=np.float64)
    to_come = [max(prior.many_layers - max(_num_layers(spec), prior.enough_layers), 0) for spec in specs]
    value -= prior.layer_gain * np.array(to_come, dtype=np.float64)
    value = value.clip(0.0, MOST_RETENTION)
    basis = "shipped prior: " + source + ("" if teacher_params else "; teacher's size unknown, 20 M assumed")
    return Retentions(value, (value - prior.half_width).clip(0.0), value + prior.half_width, basis)


def _doublings(spec: StudentSpec, above: float) -> float:
    """Of a text convolution's vocabulary, widths and depth, above that many; 0 for other students."""
    fields = spec.model_dump()
    pieces, *widths = (fields.get(name) for name in ("vocab_size", "embedding_size", "hidden_size"))
    if spec.backbone != "convolution" or not pieces or not all(widths):
        return 0.0
    vocabulary = math.log2(min(pieces, ENOUGH_PIECES)) + MORE_PIECES * math.log2(max(pieces / ENOUGH_PIECES, 1.0))
    layers = fields["num_hidden_layers"]  # what more than two bring was not measured
    deep = 0.6 * math.log2(min(layers, 2)) + 0.2 * math.log2(max(layers / 2, 1.0))
    return vocabulary + sum(math.log2(width) for width in widths if width) + deep - above


def _num_layers(spec: StudentSpec) -> int:
    fields = spec.model_dump()
    each = fields.get("layers_per_stage", 0) or 2 * fields.get("blocks_per_stage", 0) or 1
    return int(fields.get("num_stages", 0) * each or fields.get("num_hidden_layers", 1))


def _from_ladder(
    ladder: Ladder,
    input_kind: str,
    specs: Sequence[StudentSpec],
    num_params: np.ndarray,
    teacher_params: int | None,
) -> Retentions:
    import numpy as np

    rungs = sorted(ladder.rungs, key=lambda r: (_name(r), r.schedule_share))
    fits = [_Fit(rungs, ladder.dev_rows, _prior(input_kind)[0].curve, floor) for floor in FLOORS]
    quality, below, above = _weighed(fits, specs, np.asarray(num_params, dtype=np.float64))
    teacher, extra, said = _divisor(ladder, input_kind, rungs, fits, teacher_params)
    noise = HIGHEST_INTERVAL * np.sqrt(quality * (1 - quality) / ladder.dev_rows)  # of a measurement on so many rows
    value = quality / teacher
    below, above = (np.sqrt((part**2 + noise**2) / teacher**2 + extra**2) for part in (below, above))
    shares = sorted({r.schedule_share for r in rungs})
    basis = (
        f"ladder: {len(rungs)} trainings of {len({_name(r) for r in rungs})} students on "
        f"{shares[0]:.3g} to {shares[-1]:.3g} of the schedule, {ladder.dev_rows:,} dev rows; {said}"
    )
    return Retentions(value, (value - below).clip(0.0), value + above, basis)


def _weighed(
    fits: Sequence[_Fit], specs: Sequence[StudentSpec], params: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(quality, reach of its 90 % interval below, above) of each spec; what the fits disagree on is part of both."""
    import numpy as np

    evidence = np.array([fit.log_evidence for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights = (weights / weights.sum())[:, None]
    found = [fit.at_full_schedule(specs, params) for fit in fits]
    values, lows, highs = (np.stack(column) for column in zip(*found, strict=True))
    quality = (weights * values).sum(0)
    apart = (HIGHEST_INTERVAL * (values - quality)) ** 2
    below, above = (np.sqrt((weights * ((end - values) ** 2 + apart)).sum(0)) for end in (lows, highs))
    return quality, below, above


def _divisor(
    ladder: Ladder, input_kind: str, rungs: Sequence[Rung], fits: Sequence[_Fit], teacher_params: int | None
) -> tuple[float, float, str]:
    """(quality that a retention is divided by, what its uncertainty adds to the interval's reach, in words).

    A teacher that has seen the dev rows has no honest quality there: the prior's retention of the best student of
    the ladder stands for it, with the prior's uncertainty. The differences between students stay the ladder's."""
    import numpy as np

    if ladder.teacher_dev_quality is not None:
        return ladder.teacher_dev_quality, 0.0, "retention against the teacher on the same rows"
    specs, params = [parse_spec(r.spec) for r in rungs], np.array([r.num_params for r in rungs], dtype=np.float64)
    quality = _weighed(fits, specs, params)[0]
    best = int(np.lexsort((params, -quality))[0])
    prior = _from_prior(input_kind, [specs[best]], params[[best]], teacher_params)
    said = "the teacher has seen these rows: the level is the shipped prior's, the differences are the ladder's"
    return float(quality[best] / prior.value[0]), _prior(input_kind)[0].half_width, said


class _Fit:
    """Bayesian linear regression of the log-odds, with coefficients that may not have the wrong sign.

    floor: share of the least error that stays whatever is trained."""

    def __init__(self, rungs: Sequence[Rung], dev_rows: int, curve: _Curve, floor: float) -> None:
        import numpy as np

        specs = [parse_spec(r.spec) for r in rungs]
        params = np.array([r.num_params for r in rungs], dtype=np.float64)
        shares = np.array([r.schedule_share for r in rungs])
        error = np.array([1 - r.dev_quality for r in rungs]).clip(0.5 / dev_rows, 1 - 0.5 / dev_rows)
        self.curve, self.floor = curve, floor * float(error.min())
        self.columns = _Columns.of(specs, curve)
        design = self.columns.design(specs, params, shares)
        odds = np.log((error - self.floor) / (1 - error))
        slope = 1 / (error - self.floor) + 1 / (1 - error)  # of the log-odds in the error
        variance = error * (1 - error) / dev_rows * slope**2 + curve.scatter**2
        self.coefficients, self.covariance = self._solve(design, odds, variance)
        self.log_evidence = self._evidence(design, odds, variance) + float(np.log(slope).sum())
        self.scale = self._scale(rungs, design, odds, variance)

    def _evidence(self, design: np.ndarray, odds: np.ndarray, variance: np.ndarray) -> float:
        """Logarithm of the density of what was found, before a rung is seen (bounds aside)."""
        import numpy as np

        believed = np.diag(variance) + (design * self.columns.sd**2) @ design.T
        off = odds - design @ self.columns.mean
        return float(-0.5 * (off @ np.linalg.solve(believed, off) + np.linalg.slogdet(believed)[1]))

    def _solve(self, design: np.ndarray, odds: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean within the bounds, (P,), and covariance without them, (P, P)."""
        import numpy as np
        from scipy.optimize import lsq_linear

        columns = self.columns
        rows = np.vstack([design / np.sqrt(variance)[:, None], np.diag(1 / columns.sd)])
        wanted = np.concatenate([odds / np.sqrt(variance), columns.mean / columns.sd])
        found = lsq_linear(rows, wanted, (np.full(len(columns.sd), -np.inf), columns.highest), method="bvls").x
        return found, np.linalg.inv(rows.T @ rows)

    def _scale(self, rungs: Sequence[Rung], design: np.ndarray, odds: np.ndarray, variance: np.ndarray) -> float:
        """How far students left out of the fit (all rungs of one at a time) are from what it predicts of them, over
        what it expects to be off; shrunk to 1 where they are few."""
        import numpy as np

        names = np.array([_name(r) for r in rungs])
        squares = []
        for name in np.unique(names):
            out = names == name
            if out.all():
                continue
            mean, covariance = self._solve(design[~out], odds[~out], variance[~out])
            spread = variance[out] + np.einsum("np,pq,nq->n", design[out], covariance, design[out])
            squares += list((odds[out] - design[out] @ mean) ** 2 / spread)
        return math.sqrt((BELIEF + sum(squares)) / (BELIEF + len(squares)))

    def at_full_schedule(
        self, specs: Sequence[StudentSpec], params: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(quality, low and high end of its 90 % interval), each (N,)."""
        import numpy as np

        design = self.columns.design(specs, params, np.ones(len(params)))
        variance = self.curve.scatter**2 + np.einsum("np,pq,nq->n", design, self.covariance, design)
        variance += self.curve.backbone.sd**2 * np.array([s.backbone not in self.columns.sizes for s in specs])
        # not a matrix product: its rounding depends on where a row stands, and with it the choice between equals
        odds = (design * self.coefficients).sum(1)
        reach = HIGHEST_INTERVAL * self.scale * np.sqrt(variance)
        return self._quality(odds), self._quality(odds + reach), self._quality(odds - reach)

    def _quality(self, log_odds: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray((1 - self.floor) / (1 + np.exp(log_odds)))


@dataclass(frozen=True, eq=False)
class _Columns:
    """The P coefficients: what is believed of each, and the most that it may be."""

    sizes: dict[str, dict[str, float]]  # by backbone of the ladder: mean log2 of each of its sizes there
    mean: np.ndarray
    sd: np.ndarray
    highest: np.ndarray

    @classmethod
    def of(cls, specs: Sequence[StudentSpec], curve: _Curve) -> _Columns:
        import numpy as np

        names = sorted({s.backbone for s in specs})
        sizes = {name: _mean_sizes([s for s in specs if s.backbone == name]) for name in names}
        each = [curve.backbone] * len(names) + [curve.own_schedule] * len(names)
        free = [curve.level, *each, curve.larger_longer]
        falls = [curve.per_params, curve.per_schedule] + [curve.per_size for fields in sizes.values() for _ in fields]
        beliefs = [*free, *falls]
        sign = np.array([1.0] * (len(free) - 1) + [-1.0] * (len(falls) + 1))
        return cls(
            sizes,
            sign * np.array([b.mean for b in beliefs]),
            np.array([b.sd for b in beliefs]),
            np.array([np.inf] * len(free) + [0.0] * len(falls)),
        )

    def design(self, specs: Sequence[StudentSpec], params: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """(N, P). A backbone that is not in the ladder has no terms of its own: the shared ones, and more spread."""
        import numpy as np

        size, schedule = np.log2(params / REFERENCE_PARAMS), np.log2(shares)
        backbones = np.array([s.backbone for s in specs], dtype=object)
        own = [(backbones == name).astype(np.float64) for name in self.sizes]
        columns = [np.ones(len(params)), *own, *(is_own * schedule for is_own in own), size * schedule, size, schedule]
        for name, fields in self.sizes.items():
            columns += [
                np.array([_log_size(s, field) - middle if s.backbone == name else 0.0 for s in specs])
                for field, middle in fields.items()
            ]
        return np.column_stack(columns)


def _name(rung: Rung) -> str:
    return json.dumps(rung.spec, sort_keys=True)


def _mean_sizes(specs: Sequence[StudentSpec]) -> dict[str, float]:
    """Of one backbone: the sizes of which more is never worse, as it declares them."""
    fields = backbone_of(specs[0]).SIZE_FIELDS
    return {field: math.fsum(_log_size(s, field) for s in specs) / len(specs) for field in fields}


def _log_size(spec: StudentSpec, field: str) -> float:
    return math.log2(1 + getattr(spec, field))
