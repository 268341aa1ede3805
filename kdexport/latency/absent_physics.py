"""What a run costs on a machine, and what measurements say of the coefficients: the arithmetic of `absent.py`.

Every coefficient is unknown and normally distributed in ln. A device departs from all devices, a runtime from all
runtimes, a family from all families; each departure is one more unknown with mean 0. Measured rows turn the prior
into a posterior (Gauss-Newton steps of a linear Gaussian model: kriging on coefficients, Rasmussen & Williams 2006,
section 2.7). The same step fits all devices at once and corrects one device by the few rows that are known of it.
Coefficients stay positive whatever the rows say, so no correction can make more work faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from kdexport.nouns.graph import GraphCost

if TYPE_CHECKING:
    import numpy as np

PoolName = Literal["gpu", "cpu"]

# ln of: overhead of an operator on one core in microseconds; factor on it for waking all cores; factor between edge
# and server; share of the peak reached; factor on that on one core, with int8 asked for, with fp32 on a GPU (TF32);
# share of the bandwidth reached. `scale` multiplies the whole run.
COEFFICIENTS = ("operator_us", "fork", "edge", "efficiency", "one_core", "int8", "fp32", "bandwidth")
EFFECTS = (*COEFFICIENTS, "scale")
FIXED = 1e-4  # standard deviation of a coefficient that this pool does not have

# (mean, standard deviation) of each before any row is seen.
PRIORS: dict[PoolName, dict[str, tuple[float, float]]] = {
    "gpu": {
        "operator_us": (1.8, 0.7),
        "fork": (0.0, FIXED),
        "edge": (0.0, 0.7),
        "efficiency": (-0.7, 0.7),
        "one_core": (0.0, FIXED),
        "int8": (0.0, 0.5),
        "fp32": (0.0, 0.5),
        "bandwidth": (-0.35, 0.3),
    },
    "cpu": {
        "operator_us": (0.7, 0.7),
        "fork": (1.8, 1.0),
        "edge": (0.0, 0.7),
        "efficiency": (-0.7, 0.7),
        "one_core": (0.5, 0.5),
        "int8": (0.0, 0.5),
        "fp32": (0.0, FIXED),
        "bandwidth": (-0.35, 0.3),
    },
}
# How far in ln (standard deviation) one departs from the rest; round numbers, docs/decisions/0006.
DEVICE_SD = {"operator_us": 0.5, "efficiency": 0.3, "int8": 0.3, "bandwidth": 0.15}
RUNTIME_SD = {"operator_us": 0.8, "int8": 0.4, "scale": 0.8}
# A runtime that suits this chip better than others; GPU rows are nearly all of their vendor's own.
RUNTIME_ON_DEVICE_SD: dict[PoolName, float] = {"gpu": 0.3, "cpu": 0.5}
FAMILY_SD = 0.2
MODEL_SD: dict[PoolName, float] = {"gpu": 0.3, "cpu": 0.2}  # of models, where they lie far apart
MODEL_REACH = 1.0  # ln of the ratio of FLOPs at which what two models share has fallen to 1 / e
NOISE_SD = 0.15
# int8 units promise 4 to 32 times fp32 on CPUs and deliver less the more they promise: the geometric mean counts.
GAIN: dict[PoolName, float] = {"gpu": 1.0, "cpu": 0.5}
LAUNCH_US: dict[PoolName, float] = {"gpu": 20.0, "cpu": 10.0}  # empty ONNX Runtime call 10 us; GPU: two copies, assumed
STEPS = 6
LONGEST_STEP = 0.7  # ln, of one Gauss-Newton step: shares of the terms change meanwhile


class Label(NamedTuple):
    """Whose departures a run has."""

    device: str
    runtime: str
    family: str


@dataclass(frozen=True, eq=False)
class Work:
    """N runs; times are seconds at the datasheet's speed, (N,). A mode that is not allowed has `may_...` False."""

    operators: np.ndarray
    whole_s: np.ndarray  # arithmetic, on all cores that may be used
    whole_bytes_s: np.ndarray
    core_s: np.ndarray  # the same on one core
    core_bytes_s: np.ndarray
    may_whole: np.ndarray
    may_one: np.ndarray
    towards_edge: np.ndarray  # 1/2 or -1/2
    is_int8: np.ndarray
    is_fp32: np.ndarray  # on a GPU, whose fp32 may run on tensor cores
    log_flops: np.ndarray
    label: np.ndarray  # int, into labels
    labels: tuple[Label, ...]
    launch_s: float

    def __len__(self) -> int:
        return len(self.operators)

    def take(self, keep: np.ndarray) -> Work:
        """The runs of a mask or of indices (K,)."""
        rows = {name: getattr(self, name)[keep] for name in ROW_FIELDS}
        return Work(**rows, labels=self.labels, launch_s=self.launch_s)


ROW_FIELDS = tuple(name for name, kind in Work.__annotations__.items() if kind == "np.ndarray")


def join(works: Sequence[Work]) -> Work:
    """All runs, in order, each with its own label."""
    import numpy as np

    labels = tuple(dict.fromkeys(label for w in works for label in w.labels))
    columns = {n: np.concatenate([getattr(w, n) for w in works]) for n in ROW_FIELDS if n != "label"}
    index = [np.array([labels.index(name) for name in w.labels])[w.label] for w in works]
    return Work(**columns, label=np.concatenate(index), labels=labels, launch_s=works[0].launch_s)


def columns_of(costs: Sequence[GraphCost]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(operators, FLOPs, fp32 bytes), each (N,)."""
    import numpy as np

    table = np.array([(c.fused_operators, c.flops, c.weight_bytes + c.activation_bytes) for c in costs], dtype=float)
    return table[:, 0], table[:, 1], table[:, 2]


@dataclass(frozen=True, eq=False)
class State:
    """What is believed of the unknowns: ln, jointly normal. mean (S,), covariance (S, S)."""

    names: tuple[str, ...]
    mean: np.ndarray
    covariance: np.ndarray


def unknowns(pool: PoolName, label: Label) -> list[tuple[str, str, float, float]]:
    """(effect, name of the unknown, prior mean, prior standard deviation) of all that a run adds up."""
    found = [(c, c, *PRIORS[pool][c]) for c in COEFFICIENTS]
    found += [(c, f"device {label.device}: {c}", 0.0, sd) for c, sd in DEVICE_SD.items()]
    found += [(c, f"runtime {label.runtime}: {c}", 0.0, sd) for c, sd in RUNTIME_SD.items()]
    found += [("scale", f"runtime {label.runtime} on {label.device}", 0.0, RUNTIME_ON_DEVICE_SD[pool])]
    found += [("scale", f"family {label.family}", 0.0, FAMILY_SD)]
    return found


def widened(pool: PoolName, state: State | None, labels: Sequence[Label]) -> State:
    """The state with every unknown of the labels: those not in it yet are independent, with their prior."""
    import numpy as np

    known = set() if state is None else set(state.names)
    new = {n: (mean, sd) for label in labels for _, n, mean, sd in unknowns(pool, label) if n not in known}
    means, sds = (np.array([v[i] for v in new.values()]) for i in (0, 1))
    if state is None:
        return State(tuple(new), means, np.diag(sds**2))
    old = len(state.names)
    covariance = np.zeros((old + len(new), old + len(new)))
    covariance[:old, :old] = state.covariance
    covariance[old:, old:] = np.diag(sds**2)
    return State((*state.names, *new), np.concatenate([state.mean, means]), covariance)


def narrowed(state: State, names: Sequence[str]) -> State:
    """The marginal of some unknowns."""
    import numpy as np

    at = np.array([state.names.index(n) for n in names])
    return State(tuple(names), state.mean[at], state.covariance[np.ix_(at, at)])


def log_seconds(pool: PoolName, state: State, work: Work) -> tuple[np.ndarray, np.ndarray]:
    """ln of the seconds of each run (N,), and its derivative by each unknown (N, S).

    Derivatives of ln time by ln coefficients are the shares of the terms in the time."""
    import numpy as np

    time_log, slopes = np.empty(len(work)), np.empty((len(work), len(state.names)))
    index = {name: i for i, name in enumerate(state.names)}
    for at, label in enumerate(work.labels):
        rows = np.flatnonzero(work.label == at)
        if not len(rows):
            continue
        adds = np.zeros((len(EFFECTS), len(state.names)))
        for effect, name, _, _ in unknowns(pool, label):
            adds[EFFECTS.index(effect), index[name]] = 1.0
        time_log[rows], shares = _run(work.take(rows), adds @ state.mean)
        slopes[rows] = shares @ adds
    return time_log, slopes


def _run(work: Work, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ln seconds (N,), shares (N, 9)) of the faster of the modes allowed, under one set of effects (9,)."""
    import numpy as np

    whole_s, whole = _mode(work, effects, work.whole_s, work.whole_bytes_s, 0.0)
    if not work.may_one.any():
        return np.log(whole_s) + effects[-1], whole
    core_s, core = _mode(work, effects, work.core_s, work.core_bytes_s, 1.0)
    on_core = work.may_one & (~work.may_whole | (core_s < whole_s))
    time_log: np.ndarray = np.log(np.where(on_core, core_s, whole_s)) + effects[-1]
    return time_log, np.where(on_core[:, None], core, whole)


def runs_on_one_core(pool: PoolName, state: State, work: Work) -> np.ndarray:
    """Which runs are faster on one core: bool (N,)."""
    import numpy as np

    flags = np.ones(len(work), bool)
    core, whole = (log_seconds(pool, state, replace(work, may_one=one, may_whole=~one))[0] for one in (flags, ~flags))
    faster: np.ndarray = work.may_one & (~work.may_whole | (core < whole))
    return faster


def _mode(
    work: Work, e: np.ndarray, compute_s: np.ndarray, bytes_s: np.ndarray, one_core: float
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds (N,), share of each effect (N, 9)): launch + overhead of operators + arithmetic + bytes, summed."""
    import numpy as np

    operator_us, fork, edge, efficiency, core_gain, int8, fp32, bandwidth, _ = e
    woken = 1.0 - one_core
    overhead = 1e-6 * work.operators * np.exp(operator_us + woken * fork + edge * work.towards_edge)
    compute = compute_s * np.exp(-(efficiency + one_core * core_gain + int8 * work.is_int8 + fp32 * work.is_fp32))
    moving = bytes_s * np.exp(-bandwidth)
    seconds = work.launch_s + overhead + compute + moving
    terms = [
        overhead,
        woken * overhead,
        work.towards_edge * overhead,
        -compute,
        -one_core * compute,
        -work.is_int8 * compute,
        -work.is_fp32 * compute,
        -moving,
        seconds,
    ]
    return seconds, np.stack(terms, axis=1) / seconds[:, None]


def conditioned(pool: PoolName, state: State | None, work: Work, measured_log: np.ndarray) -> State:
    """The state after N measured runs, ln seconds (N,). Has every unknown of their labels.

    What a model departs by is shared with models of like FLOPs on the same device, so ten sizes of one network do not
    count as ten witnesses."""
    import numpy as np

    prior = widened(pool, state, work.labels)
    device = np.array([label.device for label in work.labels])[work.label]
    apart = np.abs(work.log_flops[:, None] - work.log_flops[None])
    shared = MODEL_SD[pool] ** 2 * np.exp(-apart / MODEL_REACH) * (device[:, None] == device[None])
    noise = shared + NOISE_SD**2 * np.eye(len(work))
    mean = prior.mean
    for _ in range(STEPS):
        time_log, slopes = log_seconds(pool, State(prior.names, mean, prior.covariance), work)
        spread = prior.covariance @ slopes.T
        gain = np.linalg.solve(slopes @ spread + noise, spread.T).T
        target = prior.mean + gain @ (measured_log - time_log + slopes @ (mean - prior.mean))
        mean = mean + np.clip(target - mean, -LONGEST_STEP, LONGEST_STEP)
    return State(prior.names, mean, prior.covariance - gain @ spread.T)


def predicted(pool: PoolName, state: State, work: Work) -> tuple[np.ndarray, np.ndarray]:
    """(ln seconds (N,), its standard deviation (N,)) of runs that were not measured."""
    import numpy as np

    wide = widened(pool, state, work.labels)
    time_log, slopes = log_seconds(pool, wide, work)
    variance = np.einsum("ns,st,nt->n", slopes, wide.covariance, slopes, optimize=True)
    return time_log, np.sqrt(np.maximum(variance, 0) + MODEL_SD[pool] ** 2 + NOISE_SD**2)
