"""The choice rule: drop what breaks a limit, keep what is predicted good enough, take the cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kdexport.nouns.plan import Candidate, TargetPlan
from kdexport.nouns.project import Project
from kdexport.nouns.target import Target

TIE = 1.02  # costs within 2 % are equal; then latency, then bytes decide
SHOWN = 40  # candidates of the front that a plan keeps


def choose(candidates: Sequence[Candidate], project: Project, target: Target, notes: Sequence[str]) -> TargetPlan:
    """Candidates already carry `why_not` for each limit they break. None feasible: the best quality, and said so.

    The order of the candidates does not matter."""
    ordered = sorted(candidates, key=lambda c: (c.num_params, str(sorted(c.spec.items()))))
    within = [c for c in ordered if not c.why_not]
    good = [c for c in within if c.quality.value >= project.min_retention]
    pool = within if project.prefer == "quality" and within else good
    if pool and (good or project.prefer == "quality"):
        chosen = _best_quality(pool) if project.prefer == "quality" else _cheapest(pool)
        reason = _reason(chosen, project, len(within), len(ordered))
        feasible = chosen.quality.value >= project.min_retention
        nearest = "" if feasible else _nearest_retention(chosen, project)
    else:
        chosen = _best_quality(within) if within else _least_broken(ordered, target)
        feasible, reason = False, "nothing meets every limit: the best quality within reach is taken"
        nearest = _nearest_retention(chosen, project) if within else _nearest_limit(chosen, target)
    return TargetPlan(
        target=target.id,
        chosen=chosen,
        reason=reason,
        feasible=feasible,
        nearest=nearest,
        num_candidates=len(ordered),
        front=tuple(front(within or ordered)[:SHOWN]),
        notes=tuple(notes),
    )


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other beats in quality, latency and cost at once, fastest first."""
    kept = [c for c in candidates if not any(_dominates(o, c) for o in candidates)]
    return sorted(kept, key=lambda c: (_latency(c), -c.quality.value))


def _dominates(a: Candidate, b: Candidate) -> bool:
    left = (a.quality.value, -_latency(a), -(a.usd_per_year or 0.0), -a.num_params)
    right = (b.quality.value, -_latency(b), -(b.usd_per_year or 0.0), -b.num_params)
    return left != right and all(x >= y for x, y in zip(left, right, strict=True))


def _latency(c: Candidate) -> float:
    return c.latency.p50_ms if c.latency else float(c.num_params)


def _best_quality(candidates: Sequence[Candidate]) -> Candidate:
    return max(candidates, key=lambda c: (c.quality.value, -_latency(c), -c.artifact_bytes))


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    least = min(c.usd_per_year or 0.0 for c in candidates)
    tied = [c for c in candidates if (c.usd_per_year or 0.0) <= least * TIE]
    return min(tied, key=lambda c: (_latency(c), c.artifact_bytes))


def _too_slow(candidate: Candidate, target: Target) -> bool:
    return candidate.objective_ms is not None and candidate.objective_ms > target.objective.limit_ms


def _least_broken(candidates: Sequence[Candidate], target: Target) -> Candidate:
    """No limit can be kept: what comes nearest to the objective, or the smallest where size is what binds."""
    if all(_too_slow(c, target) for c in candidates):
        return min(candidates, key=lambda c: (c.objective_ms or _latency(c), c.num_params))
    return min(candidates, key=lambda c: (c.num_params, c.objective_ms or _latency(c)))


def _reason(chosen: Candidate, project: Project, within: int, total: int) -> str:
    how: Literal["best predicted quality", "cheapest, then fastest"] = (
        "best predicted quality" if project.prefer == "quality" else "cheapest, then fastest"
    )
    latency = f", {chosen.latency.p50_ms:.3g} ms estimated end to end" if chosen.latency else ""
    return (
        f"{how} of {within} of {total} candidates within the limits: {chosen.num_params:,} parameters, "
        f"predicted retention {chosen.quality.value:.3f}{latency}"
    )


def _nearest_retention(chosen: Candidate, project: Project) -> str:
    return (
        f"min_retention {project.min_retention:g} is above what is predicted here; "
        f"met: min_retention {chosen.quality.value:.3f} ({chosen.quality.low:.3f} to {chosen.quality.high:.3f})"
    )


def _nearest_limit(chosen: Candidate, target: Target) -> str:
    met = f"max_params {chosen.num_params:,}, {chosen.artifact_bytes:,} bytes"
    if _too_slow(chosen, target):
        met = f"limit_ms {chosen.objective_ms:.3g}"
    return f"{chosen.why_not} (target {target.id}; met: {met})"
