"""Calibrations of an invented machine whose speed is known, at the graphs that a real one is timed at."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice

import numpy as np

from kdexport import registry
from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.latency import grid
from kdexport.nouns.calibration import Calibration, TimedPoint
from kdexport.nouns.spec import StudentSpec

TEXT = ("transformer", "convolution", "bag")
US_PER_OPERATOR, GFLOPS, GB_PER_S = 2.0, 50.0, 20.0


def planted_ms(spec: StudentSpec, num_classes: int, shape: InputShape) -> float:
    """8 us a run, 2 us an operator, 50 GFLOP/s, 20 GB/s."""
    cost = backbone_of(spec).cost(spec, num_classes, shape)
    moved_bytes = cost.weight_bytes + cost.activation_bytes
    us = 8 + US_PER_OPERATOR * cost.num_operators + cost.flops / GFLOPS / 1e3 + moved_bytes / GB_PER_S / 1e3
    return us / 1e3


def points(
    backbones: Sequence[str], graphs: int = 24, seed: int = 0, noise: float = 0.0, slow_share: float = 0.0
) -> list[TimedPoint]:
    """noise: standard deviation of ln, one draw a graph; slow_share: of graphs that took twice as long."""
    chance, found = random.Random(seed), []
    for name in backbones:
        for planned in islice(grid.planned(registry.load("backbones", name), 5, seed), graphs):  # type: ignore[arg-type]
            factor = math.exp(chance.gauss(0, noise)) * (2.0 if chance.random() < slow_share else 1.0)
            found += [
                TimedPoint(
                    spec=planned.spec.model_dump(),
                    num_classes=planned.num_classes,
                    shape=shape,
                    p50_ms=factor * planted_ms(planned.spec, planned.num_classes, shape),
                    spread=0.0,
                    n=20,
                )
                for shape in planned.shapes
            ]
    return found


def calibration(timed: Sequence[TimedPoint], fingerprint: str = "f" * 12) -> Calibration:
    return Calibration(
        fingerprint=fingerprint,
        environment="e",
        taken_at="2026-01-01T00:00:00+00:00",
        runtime="onnxruntime",
        version="1.0",
        precision="fp32",
        threads=1,
        points=tuple(timed),
        noise=0.01,
        tail={"90": 1.1, "95": 1.2, "99": 1.5, "99.9": 2.0},
        seconds=1.0,
    )


def errors(estimated_ms: np.ndarray, timed: Sequence[TimedPoint]) -> np.ndarray:
    """(N,) of estimates against the planted speed."""
    truth = [planted_ms(parse_spec(p.spec), p.num_classes, p.shape) for p in timed]
    found: np.ndarray = np.abs(estimated_ms / np.array(truth) - 1)
    return found
