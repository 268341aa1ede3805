"""Time functions against each other in interleaved blocks, so that a slow spell of the machine hits all of them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

import numpy as np

from kdexport.measure.statistics import Floats, Interval, median_ci95, ratio_of_medians, upper_bound
from kdexport.nouns.measurement import Latency

log = logging.getLogger(__name__)

MIN_ROUNDS = 10  # a block bootstrap over fewer has a poor interval; slow functions get smaller blocks instead
STATIONARY = 0.05  # warm once the medians of two batches in a row differ by less than this share
WARMUP_SHARE = 0.25  # of max_seconds, at most, for warming up all functions together


@dataclass(frozen=True, eq=False)
class Timings:
    """samples_ms[name]: (rounds, block) milliseconds of single calls; round r of all names ran back to back."""

    samples_ms: Mapping[str, Floats]

    def latency(self, name: str, environment: str) -> Latency:
        """Percentiles of one function. `environment`: the id of the Environment it ran in."""
        samples = self.samples_ms[name].ravel()
        return Latency(
            kind="measured",
            p50_ms=float(np.median(samples)),
            p90_ms=upper_bound(samples, 90),
            p95_ms=upper_bound(samples, 95),
            p99_ms=upper_bound(samples, 99),
            p999_ms=upper_bound(samples, 99.9),
            n=len(samples),
            ci95=median_ci95(samples),
            environment=environment,
        )

    def speedup(self, slow: str, fast: str, seed: int = 0) -> tuple[float, Interval]:
        """median(slow) / median(fast), above 1 where `fast` is faster, with its 95 % block-bootstrap interval."""
        return ratio_of_medians(list(self.samples_ms[slow]), list(self.samples_ms[fast]), seed)


def interleave(
    functions: Mapping[str, Callable[[int], object]],
    requests: int,
    *,
    min_samples: int,
    max_seconds: float,
    block: int = 20,
    warmup: int = 200,
) -> Timings:
    """Call every f(i), 0 <= i < requests, in blocks: a block of A, a block of B, again of A, ...

    Ends when each function has min_samples, or max_seconds are over (warm-up included); two rounds are always
    taken. All functions see the same requests in the same order and get equal numbers of blocks. Where a call is
    slow the block shrinks so that about 10 rounds fit. `warmup`: most calls of one function before measuring.
    Raises ValueError for no function, request or sample."""
    if not functions or requests < 1 or min_samples < 1 or block < 1:
        raise ValueError("interleave needs a function, and at least 1 request, sample and call in a block")
    start = perf_counter()
    share_s = WARMUP_SHARE * max_seconds / len(functions)
    call_s = sum(_warm(f, requests, warmup, block, share_s) for f in functions.values())
    block = max(1, min(block, int((max_seconds - perf_counter() + start) / (MIN_ROUNDS * call_s))))
    rounds: dict[str, list[list[float]]] = {name: [] for name in functions}
    taken = 0
    while taken < 2 * block or (taken < min_samples and perf_counter() - start < max_seconds):
        for name, f in functions.items():
            rounds[name].append(_time_block(f, requests, taken, block))
        taken += block
    log.info("timed=%s n=%d block=%d seconds=%.1f", ",".join(functions), taken, block, perf_counter() - start)
    return Timings({name: np.array(blocks) for name, blocks in rounds.items()})


def _warm(f: Callable[[int], object], requests: int, most_calls: int, batch: int, most_s: float) -> float:
    """Call until two batches in a row take about equal time, or a limit is reached. Seconds of one warm call."""
    end = perf_counter() + most_s
    previous, calls = float("inf"), 0
    while True:
        # a single first call: where it alone takes the time allowed, a whole batch would overrun it
        size = batch if calls else 1
        median = float(np.median(_time_block(f, requests, calls, size)))
        calls += size
        # request lengths differ from batch to batch, so this may never come true; the limits end it
        stationary = calls > batch + 1 and abs(median - previous) <= STATIONARY * previous
        if stationary or calls >= most_calls or perf_counter() + batch * median / 1e3 > end:
            return max(median / 1e3, 1e-9)
        previous = median


def _time_block(f: Callable[[int], object], requests: int, first: int, size: int) -> list[float]:
    """Milliseconds of each of `size` calls, from request `first` on, in a cycle."""
    indices = [i % requests for i in range(first, first + size)]
    samples_ms: list[float] = []
    with _gc_paused():
        for i in indices:
            begin = perf_counter_ns()
            f(i)
            samples_ms.append((perf_counter_ns() - begin) / 1e6)
    return samples_ms


@contextmanager
def _gc_paused() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
