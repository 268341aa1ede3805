"""How many requests per second one replica serves within an objective.

Server scenario: each worker is an M/G/1 queue (Poisson arrivals, the given distribution of service times, first come
first served). Its waiting times come from Lindley's recursion (D. V. Lindley 1952, "The theory of queues with a single
server", Proc. Camb. Phil. Soc. 48, 277-289) on simulated arrivals; the highest rate whose percentile of waiting plus
service stays within the limit is found by bisection. Workers of a replica are taken as separate queues: a shared queue
serves no less (D. R. Smith and W. Whitt 1981, "Resource sharing for efficiency in traffic systems", BSTJ 60, 39-55),
so the figure is on the low side. What the model leaves out: workers that slow each other down (measure service times
with all of them busy), and arrivals burstier than Poisson, for which `max_utilisation` leaves room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kdexport.errors import BadInput
from kdexport.latency.tail import TAIL_ASSUMED
from kdexport.measure.statistics import percentile_needs
from kdexport.nouns.cost import Capacity
from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.target import Objective

Floats = NDArray[np.float64]

ARRIVALS = 200_000  # the point then moves by about 1 % between seeds; 20,000 gave 4 %
ARRIVALS_RESAMPLED = 20_000  # each resample; the interval is a little wide for it
BISECTIONS = 12  # resolution: 1/4096 of the utilisation cap, far below the sampling error
RESAMPLES = 19  # their smallest and largest are the 5 % and 95 % quantiles
# Nearer to 1 the queue needs more arrivals than are simulated to fill, and the tail would come out too short.
MAX_SIMULATED_UTILISATION = 0.95
QUANTILES = 1_000  # of the log-normal that stands for an estimated engine


def capacity(
    service_ms: Sequence[float] | LatencyEstimate,
    objective: Objective,
    max_utilisation: float,
    workers: int = 1,
    tail_ratio: float | None = None,
    seed: int = 0,
) -> Capacity:
    """Requests per second of one replica with `workers` workers, at most max_utilisation x workers / mean service.

    service_ms: measured service times, single stream, within the objective's scope; or an estimated median, taken as
    a log-normal whose p99 is `tail_ratio` (from calibration; 1.5 is assumed without) times the median.
    Measured times give `measured` with ci95 in scenario single_stream; a simulated queue is always `estimated`.
    Raises BadInput for fewer than two times, a time <= 0, workers < 1, tail_ratio < 1, or utilisation outside (0, 1].
    """
    if workers < 1 or not 0 < max_utilisation <= 1:
        raise BadInput(f"capacity: workers {workers} must be >= 1 and max_utilisation {max_utilisation:g} in (0, 1]")
    if isinstance(service_ms, LatencyEstimate):
        return _from_estimate(service_ms, objective, max_utilisation, workers, tail_ratio, seed)
    times = np.asarray(service_ms, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or times.min() <= 0:
        raise BadInput(f"capacity: needs at least two service times above 0 ms, found {len(times)}; measure again")
    if objective.scenario == "single_stream":
        return _measured_single_stream(times, objective, max_utilisation, workers)
    return _simulated_from_measured(times, objective, max_utilisation, workers, seed)


def _measured_single_stream(times: Floats, objective: Objective, max_utilisation: float, workers: int) -> Capacity:
    """1 / mean service; the interval by the delta method on the logarithm of the mean."""
    basis = _measured_basis(times, objective)
    value = float(max_utilisation * workers * 1e3 / times.mean())
    spread = math.exp(1.96 * float(times.std(ddof=1) / times.mean()) / math.sqrt(len(times)))
    if not _unloaded_ok(times[None, :], objective)[0]:
        # another sample of the same engine may meet the objective: then it serves at most this
        missed = _missed(times, objective, basis)
        return Capacity(requests_per_s=0, kind="measured", ci95=(0, value * spread), how=missed)
    how = f"1 / mean of {basis}, {workers} worker(s), at utilisation {max_utilisation:g}"
    return Capacity(requests_per_s=value, kind="measured", ci95=(value / spread, value * spread), how=how)


def _simulated_from_measured(
    times: Floats, objective: Objective, max_utilisation: float, workers: int, seed: int
) -> Capacity:
    """The point from a long run on the sample; the 90 % interval is the range over bootstrap resamples."""
    rng = np.random.default_rng(seed)
    point = _highest_rates(times[None, :], objective, max_utilisation, rng, ARRIVALS)
    resamples = rng.choice(times, size=(RESAMPLES, len(times)))
    around = _highest_rates(resamples, objective, max_utilisation, rng, ARRIVALS_RESAMPLED)
    rates = workers * np.concatenate([point, around])
    basis = _measured_basis(times, objective)
    return _estimated(rates, times, objective, max_utilisation, workers, basis)


def _from_estimate(
    estimate: LatencyEstimate,
    objective: Objective,
    max_utilisation: float,
    workers: int,
    tail_ratio: float | None,
    seed: int,
) -> Capacity:
    """The same unit distribution scaled to the median and to both ends of its interval."""
    ratio = TAIL_ASSUMED if tail_ratio is None else tail_ratio
    if ratio < 1:
        raise BadInput(f"capacity: tail_ratio {ratio:g} is below 1; give p99 over p50 of the service time")
    sigma = math.log(ratio) / NormalDist().inv_cdf(0.99)
    shape = np.exp([sigma * NormalDist().inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    samples = np.outer([estimate.p50_ms, estimate.low_ms, estimate.high_ms], shape)
    source = "assumed" if tail_ratio is None else "calibrated"
    basis = f"an estimated median of {estimate.p50_ms:.4g} ms ({estimate.model}), p99/p50 {ratio:g} {source}"
    if objective.scenario == "single_stream":
        rates = np.where(_unloaded_ok(samples, objective), _rate_caps(samples, max_utilisation), 0.0)
    else:
        rows = np.split(samples, len(samples))
        # One seed for all rows: a slower engine then never looks faster by luck.
        rates = np.concatenate(
            [_highest_rates(row, objective, max_utilisation, np.random.default_rng(seed), ARRIVALS) for row in rows]
        )
    return _estimated(workers * rates, samples[0], objective, max_utilisation, workers, basis)


def _measured_basis(times: Floats, objective: Objective) -> str:
    needed = percentile_needs(objective.percentile)
    short = f" (too few to bound p{objective.percentile:g}, which needs {needed:,})" if len(times) < needed else ""
    return f"{len(times)} measured service times{short}"


def _estimated(
    rates: Floats, times: Floats, objective: Objective, max_utilisation: float, workers: int, basis: str
) -> Capacity:
    """rates (R,): the point first, then what its interval must span."""
    interval = (float(rates.min()), float(rates.max()))
    value = float(rates[0])
    if value == 0:
        how = _missed(times, objective, basis)
    else:
        queue = "1 / mean" if objective.scenario == "single_stream" else "M/G/1 queue per worker, simulated,"
        utilisation = value * float(times.mean()) / 1e3 / workers
        at_cap = utilisation > min(max_utilisation, MAX_SIMULATED_UTILISATION) * (1 - 1e-9)
        bound = f"utilisation {utilisation:.3g}" if at_cap else f"p{objective.percentile:g} within the limit"
        how = f"{queue} from {basis}, {workers} worker(s); bound by {bound}"
    return Capacity(requests_per_s=value, kind="estimated", error_interval=interval, how=how)


def _missed(times: Floats, objective: Objective, basis: str) -> str:
    needed = _rank(objective, len(times))
    found = float(np.sort(times)[needed - 1])
    return (
        f"no capacity: p{objective.percentile:g} of {basis} is {found:.4g} ms without load, "
        f"and the objective of {objective.limit_ms:.4g} ms leaves no room for a wait"
    )


def _rank(objective: Objective, n: int) -> int:
    """How many of n requests must be within the limit: the percentile as an inverted empirical distribution."""
    return math.ceil(round(objective.percentile / 100 * n, 6))


def _unloaded_ok(samples: Floats, objective: Objective) -> NDArray[np.bool_]:
    """samples (R, n) -> (R,): does a request that never waits meet the objective?"""
    return np.asarray((samples <= objective.limit_ms).sum(axis=1) >= _rank(objective, samples.shape[1]))


def _rate_caps(samples: Floats, max_utilisation: float) -> Floats:
    """samples (R, n), ms -> (R,) requests per second of one worker at max_utilisation."""
    return np.asarray(max_utilisation * 1e3 / samples.mean(axis=1))


def _highest_rates(
    samples: Floats, objective: Objective, max_utilisation: float, rng: np.random.Generator, arrivals_at_least: int
) -> Floats:
    """samples (R, n), ms -> (R,): highest Poisson rate of one worker per row, requests per second, 0 where none.

    Every rate sees the same arrivals, stretched: sojourn times then only grow with the rate, so bisection is valid."""
    repeats = math.ceil(arrivals_at_least / samples.shape[1])
    service = rng.permuted(np.tile(samples, repeats), axis=1)
    rows, n = service.shape
    arrivals = np.cumsum(rng.exponential(size=(rows, n)), axis=1)
    arrivals -= arrivals[:, :1]
    work_before = np.cumsum(service, axis=1) - service
    rank, limit = _rank(objective, n), objective.limit_ms * (1 + 1e-9)

    def meets(rates: Floats) -> NDArray[np.bool_]:
        backlog = work_before - arrivals * (1e3 / rates)[:, None]
        sojourn = backlog - np.minimum.accumulate(backlog, axis=1) + service
        return np.asarray((sojourn <= limit).sum(axis=1) >= rank)

    high = _rate_caps(samples, min(max_utilisation, MAX_SIMULATED_UTILISATION))
    low = np.where(meets(high), high, 0.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        ok = meets(middle)
        low, high = np.where(ok, middle, low), np.where(ok, high, middle)
    return low
