"""Plans as the planner would make them: fronts of any length, feasible or not, with or without latency and price."""

from __future__ import annotations

from typing import Any

from kdexport.nouns.graph import LatencyEstimate
from kdexport.nouns.plan import Candidate, Plan, QualityEstimate, SharedStudent, StageEstimate, TargetPlan

LIMIT_MS = 1.0


def candidate(index: int = 4, **changes: Any) -> Candidate:
    """Larger, slower, better and dearer with the index: 0.05 ms and 93.6 % at 0, a fifth slower each step."""
    p50_ms = 0.05 * 1.2**index
    quality = 1 - 0.064 * 0.9**index
    fields: dict[str, Any] = {
        "spec": {
            "backbone": "convolution",
            "vocab_size": 3330,
            "embedding_size": 32 + 16 * (index % 4),
            "hidden_size": 64 + 32 * index,
            "num_hidden_layers": 1 + index // 6,
        },
        "num_params": 120_000 + 90_000 * index,
        "runtime": "onnxruntime",
        "precision": "int8" if index % 2 else "fp32",
        "artifact_bytes": 500_000 + 360_000 * index,
        "memory_mib": 90.0 + index,
        "quality": QualityEstimate(
            value=quality, low=quality - 0.012, high=quality + 0.009, basis="the ladder: 4 students, 2 schedules each"
        ),
        "latency": LatencyEstimate(
            p50_ms=p50_ms, low_ms=p50_ms * 0.9, high_ms=p50_ms * 1.12, model="calibrated", basis="60 graphs timed here"
        ),
        "objective_ms": p50_ms * 1.5,
        "usd_per_year": 900.0 + 310.0 * index,
        "usd_per_million": 0.14 + 0.05 * index,
    }
    return Candidate(**(fields | changes))


def target_plan(name: str = "local-cpu", length: int = 18, at: int = 6, **changes: Any) -> TargetPlan:
    front = tuple(
        candidate(i)
        if candidate(i).objective_ms <= LIMIT_MS  # type: ignore[operator]
        else candidate(
            i, why_not=f"p99 {candidate(i).objective_ms:.3g} ms is over limit_ms {LIMIT_MS:g}", broken=("latency",)
        )
        for i in range(length)
    )
    fields: dict[str, Any] = {
        "target": name,
        "chosen": front[at],
        "reason": "cheapest, then fastest of 412 of 1,920 candidates within the limits",
        "feasible": True,
        "limit_ms": LIMIT_MS,
        "min_retention": 0.96,
        "num_candidates": 1920,
        "front": front,
    }
    return TargetPlan(**(fields | changes))


def infeasible(name: str = "raspberry-pi-5", **changes: Any) -> TargetPlan:
    fields: dict[str, Any] = {
        "at": 2,
        "feasible": False,
        "reason": "nothing meets every limit: the best quality within reach is taken",
        "nearest": "limit_ms 1.4 with min_retention 0.96, or limit_ms 1 with min_retention 0.948",
        "binding": "latency",
        "min_retention": 0.995,
    }
    return target_plan(name, **(fields | changes))


def without_latency(name: str = "c7g-large") -> TargetPlan:
    """A device whose facts are missing: neither latency nor cost."""
    blank = {"latency": None, "objective_ms": None, "usd_per_year": None, "usd_per_million": None, "memory_mib": 0.0}
    front = tuple(candidate(i, **blank) for i in range(5))
    note = f"latency on {name} cannot be estimated: its facts lack a peak or the bandwidth"
    return target_plan(name, front=front, chosen=front[3], notes=(note,))


def plan(*targets: TargetPlan, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "targets": targets or (target_plan(),),
        "stages": (
            StageEstimate(stage="label", hours=0.06, memory_gib=0.9, basis="FLOPs at 30 GFLOP/s assumed", usd=0.02),
            StageEstimate(stage="distil student 1", hours=0.4, memory_gib=1.0, basis="ladder's rate", usd=0.13),
        ),
        "quality_basis": "a ladder of 4 students trained for 6 minutes on this project's rows",
    }
    return Plan(**(fields | changes))


def twelve(**changes: Any) -> Plan:
    """Twelve targets: ten that can be met, one that cannot, one of whose device facts are missing."""
    names = ("a100", "a10g", "c7i-large", "core-desktop", "h100", "jetson-agx-orin", "jetson-orin-nano-super", "l4")
    more = ("local-cpu", "rtx-4060")
    targets = [target_plan(name, at=3 + i % 5) for i, name in enumerate((*names, *more))]
    here = targets[-2]
    targets[-2] = here.model_copy(update={"chosen": here.chosen.model_copy(update={"bound_ms": 0.251})})
    shared = SharedStudent(
        targets=("c7i-large", "core-desktop", "local-cpu"),
        spec=candidate(5).spec,
        num_params=570_000,
        usd_per_year=5_100.0,
        usd_per_year_apart=6_900.0,
        reason="saves $1,800 a year",
    )
    return plan(*targets, infeasible(), without_latency(), shared=(shared,), **changes)
