"""The latency of a graph on this machine, from a quick calibration: physics with measured coefficients.

median_ms = a + b * operators + c * flops + d * weight bytes + e * activation bytes, per backbone, all terms >= 0
(least squares of relative errors). Its interval is the 90 % quantile of leave-one-graph-out errors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.backbones import Backbone, InputShape, backbone_of
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.measure.timer import interleave
from kdexport.nouns.calibration import BackboneCurve, Calibration
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.measurement import Environment
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes import load_runtime

if TYPE_CHECKING:
    import numpy as np

FEATURES = ("constant", "num_operators", "flops", "weight_bytes", "activation_bytes")
TEXT_LENGTHS = (8, 16, 32, 64)
GRAPHS_PER_BACKBONE = 10
SECONDS_PER_POINT = 0.12
MIN_ERROR = 0.05  # no interval narrower than the machine's own noise


def features(cost: GraphCost) -> list[float]:
    return [1.0, cost.num_operators, cost.flops, cost.weight_bytes, cost.activation_bytes]


def calibrate(
    backbones: Sequence[Backbone],
    shape: InputShape,
    num_classes: int,
    vocab_sizes: Sequence[int],
    preprocess: Callable[[int], object],
    environment: Environment,
    fingerprint: str,
    max_seconds: float,
) -> Calibration:
    """Time small graphs that span each backbone's search space, through the real exporter and ONNX Runtime.

    preprocess(i) turns raw request i into tensors. Takes at most about max_seconds."""
    started = time.monotonic()
    threads = environment.threads
    share = max_seconds / (len(backbones) + 0.5)
    curves, tails = {}, []
    for backbone in backbones:
        points, tail = _time_backbone(backbone, shape, num_classes, vocab_sizes, threads, share)
        curves[points[0][0].backbone] = fit_curve([c for _, c, _ in points], [ms for _, _, ms in points])
        tails += tail
    timings = interleave({"preprocess": preprocess}, 200, min_samples=400, max_seconds=1.0)
    import numpy as np

    return Calibration(
        fingerprint=fingerprint,
        environment=environment.id,
        runtime="onnxruntime",
        precision="fp32",
        threads=threads,
        curves=curves,
        preprocess_ms=float(np.median(timings.samples_ms["preprocess"])),
        tail_ratio=max(1.0, float(np.median(tails))),
        seconds=time.monotonic() - started,
    )


def _time_backbone(
    backbone: Backbone,
    shape: InputShape,
    num_classes: int,
    vocab_sizes: Sequence[int],
    threads: int,
    max_seconds: float,
) -> tuple[list[tuple[StudentSpec, GraphCost, float]], list[float]]:
    import numpy as np

    deadline = time.monotonic() + max_seconds
    points, tails = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, spec in enumerate(_spread(list(backbone.candidates(num_classes, shape, vocab_sizes)))):
            if time.monotonic() > deadline and number >= len(FEATURES):
                break
            run_at = _open(spec, num_classes, shape, Path(scratch) / f"{number}.onnx", threads)
            for point in _shapes(backbone, shape):
                sample = run_at(point)
                timings = interleave({"run": sample}, 8, min_samples=2000, max_seconds=SECONDS_PER_POINT, warmup=10)
                flat = timings.samples_ms["run"]
                points.append((spec, backbone.cost(spec, num_classes, point), float(np.median(flat))))
                tails.append(float(np.quantile(flat, 0.99) / np.median(flat)))
    return points, tails


def _spread(specs: list[StudentSpec]) -> list[StudentSpec]:
    """A few specs from all over the list, the extremes first: it is ordered by size."""
    count = min(GRAPHS_PER_BACKBONE, len(specs))
    positions = [round(i * (len(specs) - 1) / max(count - 1, 1)) for i in range(count)]
    order = [p for pair in zip(positions, reversed(positions), strict=True) for p in pair][:count]
    return [specs[p] for p in dict.fromkeys(order)]


def _shapes(backbone: Backbone, shape: InputShape) -> list[InputShape]:
    if backbone.input_kind == "image":
        return [shape.model_copy(update={"batch": b}) for b in (1, 4)]
    return [InputShape(batch=1, tokens=t) for t in TEXT_LENGTHS]


def _open(
    spec: StudentSpec, num_classes: int, shape: InputShape, path: Path, threads: int
) -> Callable[[InputShape], Callable[[int], object]]:
    """Export an untrained graph of the spec; returns shape -> a function that runs it once."""
    import numpy as np
    import torch

    backbone = backbone_of(spec)
    is_text = backbone.input_kind == "text"
    example = random_input(spec, shape.model_copy(update={"batch": 2, "tokens": max(shape.tokens, 8)}))
    name = INPUT_NAMES[backbone.input_kind]
    export_graph(backbone.build(spec, num_classes), [torch.from_numpy(example)], [name], path, tokens=is_text)
    engine = load_runtime("onnxruntime").open_engine(path, threads)

    def run_at(point: InputShape) -> Callable[[int], object]:
        feeds = [{name: np.ascontiguousarray(random_input(spec, point, seed))} for seed in range(8)]
        return lambda i: engine.run(feeds[i])

    return run_at


def random_input(spec: StudentSpec, shape: InputShape, seed: int = 0) -> np.ndarray:
    """int64 (B, T) ids without padding, or float32 (B, C, H, W) noise."""
    import numpy as np

    chance = np.random.default_rng(seed)
    vocab_size = getattr(spec, "vocab_size", 0)
    if vocab_size:
        return chance.integers(1, vocab_size, (shape.batch, shape.tokens))
    return chance.standard_normal((shape.batch, shape.channels, shape.height, shape.width), dtype=np.float32)


def fit_curve(costs: Sequence[GraphCost], medians_ms: Sequence[float]) -> BackboneCurve:
    """Non-negative least squares of relative errors; graphs, not points, are left out for the interval."""
    import numpy as np

    matrix = np.array([features(c) for c in costs])
    target = np.array(medians_ms)
    coefficients = _solve(matrix, target)
    groups = np.array([c.num_params for c in costs])
    errors: list[float] = []
    for group in np.unique(groups):
        kept = groups != group
        if kept.sum() >= len(FEATURES):
            predicted = matrix[~kept] @ _solve(matrix[kept], target[kept])
            errors += list(np.abs(predicted / target[~kept] - 1))
    error = float(np.quantile(errors, 0.9)) if errors else 1.0
    return BackboneCurve(
        coefficients=dict(zip(FEATURES, coefficients.tolist(), strict=True)),
        relative_error=max(error, MIN_ERROR),
        num_points=len(costs),
    )


def _solve(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    scale = matrix.max(0)
    solution: np.ndarray = nnls(matrix / scale / target[:, None], target / target)[0]
    unscaled: np.ndarray = solution / scale
    return unscaled


def estimate(calibration: Calibration, backbone: str, cost: GraphCost) -> LatencyEstimate:
    """Median of one run, model alone, single stream."""
    curve = calibration.curves[backbone]
    values = dict(zip(FEATURES, features(cost), strict=True))
    p50_ms = sum(curve.coefficients[name] * values[name] for name in FEATURES)
    return LatencyEstimate(
        p50_ms=p50_ms,
        low_ms=p50_ms / (1 + curve.relative_error),
        high_ms=p50_ms * (1 + curve.relative_error),
        model="calibrated on this machine",
        basis=f"{curve.num_points} timed points of {backbone}, {calibration.runtime} {calibration.precision}",
    )
