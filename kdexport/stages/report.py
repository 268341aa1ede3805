"""report: one document of every figure; the page, the table of costs and the terminal are drawn from it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kdexport
from kdexport.dataset import Dataset
from kdexport.latency.tail import TAIL_ASSUMED, at_percentile
from kdexport.measure import slices
from kdexport.nouns.baseline import Baseline, Baselines
from kdexport.nouns.bench import BenchResult, QualityResult, Ratio, Timed
from kdexport.nouns.cost import CostReport
from kdexport.nouns.measurement import Environment, Latency
from kdexport.nouns.plan import TargetPlan
from kdexport.nouns.project import Project
from kdexport.nouns.student import EngineChoice, Student, Tuning
from kdexport.nouns.target import Target
from kdexport.nouns.teacher import TeacherSet
from kdexport.storage.files import to_plain

SCHEMA = 1


@dataclass(frozen=True)
class TargetResult:
    """All of one target."""

    target: Target
    plan: TargetPlan
    student: Student
    choice: EngineChoice
    bench: BenchResult
    quality: QualityResult
    cost: CostReport | None
    bundle: dict[str, Any]  # stages.bundle.Bundle as plain values: path, sha256, bytes_loaded, artifact, ...
    baselines: Baselines
    training_s: float | None = None  # of a training that was resumed: since then


def report(
    project: Project,
    dataset: Dataset,
    teachers: TeacherSet,
    teacher_bytes: int | None,
    quantised_quality: float | None,
    results: Sequence[TargetResult],
    augmented_rows: int,
    environments: Sequence[Environment],
    warnings: Sequence[str],
    tuning: Tuning | None,
) -> dict[str, Any]:
    first = results[0].quality
    entries = [_entry(project, teachers, teacher_bytes, r) for r in results]
    document = {
        "schema": SCHEMA,
        "kdexport": kdexport.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "project": {"name": project.name, "task": project.task, "metric": project.metric.name},
        "decision": _decision(project, results),
        "warnings": list(warnings),
        "environments": {e.id: e.model_dump(mode="json") for e in environments},
        "tuning": tuning,
        "data": {
            "train": len(dataset.train),
            "dev": len(dataset.dev),
            "test": len(dataset.test),
            "unlabelled": len(dataset.unlabelled),
            "augmented": augmented_rows,
            "sha256": dataset.sha256,
            "split": project.data.split,
            "near_duplicates": _near_duplicates(dataset),
            "redacted": dict(dataset.redacted) if project.data.redact else None,
            "weights": {"weighted": first.weighted, "effective_n": first.effective_n},
        },
        "training": _training(results),
        "teacher": _teacher(teachers, teacher_bytes, quantised_quality, first, results),
        "targets": entries,
    }
    plain: dict[str, Any] = to_plain(document)
    return plain


def _near_duplicates(dataset: Dataset) -> dict[str, Any] | None:
    """Test rows that are nearly rows of train; null where rows are pictures."""
    near = dataset.near_duplicates
    if near is None:
        return None
    return {"n": len(near.rows), "of": near.of, "share": len(near.rows) / max(near.of, 1), "sampled": near.sampled}


def _teacher(
    teachers: TeacherSet,
    teacher_bytes: int | None,
    quantised_quality: float | None,
    quality: QualityResult,
    results: Sequence[TargetResult],
) -> dict[str, Any]:
    measured = next(
        (r.bench for r in results if r.bench.teacher and r.bench.teacher.end_to_end.kind == "measured"), None
    )
    engines = []
    if measured and measured.teacher:
        engines.append(_teacher_engine("onnxruntime/fp32", measured.teacher, quality.teacher.value))
    if measured and measured.teacher_quantised:
        engines.append(_teacher_engine("onnxruntime/int8", measured.teacher_quantised, quantised_quality))
    return {
        "name": " + ".join(m.name for m in teachers.members),
        "ensemble": teachers.combination,
        "params": teachers.num_params,
        "bytes": teacher_bytes,
        "quality": quality.teacher,
        "calibration_error": quality.teacher_ece,
        "licence": {
            "distillation": max(
                (m.licence.distillation for m in teachers.members), key=["allowed", "unknown", "forbidden"].index
            ),
            "source": "; ".join(dict.fromkeys(m.licence.source for m in teachers.members if m.licence.source)),
        },
        "engines": engines,
    }


def _teacher_engine(label: str, timed: Timed, quality: float | None) -> dict[str, Any]:
    return {
        "label": label,
        "quality": quality,
        "end_to_end": latency_dict(timed.end_to_end),
        "model": latency_dict(timed.model),
        "bytes": timed.bytes,
    }


def latency_dict(latency: Latency | None) -> dict[str, Any] | None:
    """M of the contract."""
    if latency is None:
        return None
    return {
        "kind": latency.kind,
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p95_ms": latency.p95_ms,
        "p99_ms": latency.p99_ms,
        "p999_ms": latency.p999_ms,
        "n": latency.n,
        "ci95": latency.ci95,
        "error_interval": latency.error_interval,
        "model": latency.model,
        "environment": latency.environment or None,
    }


def _entry(project: Project, teachers: TeacherSet, teacher_bytes: int | None, r: TargetResult) -> dict[str, Any]:
    bench, size = r.bench, r.bundle["bytes_loaded"]
    params = teachers.num_params
    return {
        "target": r.target.id,
        "name": r.target.description or r.target.id,
        "student": {
            "params": r.student.num_params,
            "params_without_embeddings": r.student.num_params_without_embeddings,
            "spec": r.student.spec,
        },
        "quality": r.quality.student,
        "calibration_error": r.quality.student_ece,
        "retention": r.quality.retention,
        "retention_kind": "retention" if project.data.labelled else "agreement with the teacher",
        "gate": gate_met(project, r.quality),
        "query_agreement": r.quality.query_agreement
        and {**r.quality.query_agreement.model_dump(), "n": r.quality.query_n},
        "agreement": r.quality.agreement,
        "size": {
            "teacher_bytes": teacher_bytes,
            "student_bytes": size,
            "params_ratio": params / r.student.num_params if params else None,
            "bytes_ratio": teacher_bytes / size if teacher_bytes else None,
        },
        "latency": _latency_entry(bench, "end_to_end"),
        "latency_model": _latency_entry(bench, "model"),
        "cost": _cost_entry(r.cost, bench),
        "runtime": r.choice.runtime,
        "precision": r.choice.precision,
        "artifact": r.choice.artifact,
        "bundle": r.bundle["path"],
        "bundle_in_run": f"bundles/{r.target.id}",
        "bundle_sha256": r.bundle["sha256"],
        "parity": r.choice.parity,
        "verified_on": r.choice.verified_on,
        "limits": {"artifact_bytes": r.target.limits.artifact_bytes, "met": within_limits(r.target, size)},
        "objective": objective_met(r.target, bench, r.cost),
        "engines": r.choice.tried,
        "baselines": _baselines(r.baselines),
        "quantisation_aware": r.choice.finishes,
        "per_class": [
            {"class": c.name, "n": c.n, "teacher": c.teacher, "student": c.student} for c in r.quality.per_class
        ],
        "slices": r.quality.slices,
        "slices_in_words": slices.told(r.quality.slices),
        "candidates": [_candidate(c, c.spec == r.student.spec) for c in r.plan.front],
        "plan": {"reason": r.plan.reason, "feasible": r.plan.feasible, "nearest": r.plan.nearest},
        "notes": [*r.plan.notes, *r.choice.notes, *bench.notes],
    }


def _baselines(found: Baselines) -> dict[str, Any]:
    def entry(baseline: Baseline) -> dict[str, Any]:
        return {**baseline.model_dump(mode="json"), "latency": latency_dict(baseline.latency)}

    return {"verdict": found.verdict, "hard_labels": entry(found.hard_labels), "plain": entry(found.plain)}


def _latency_entry(bench: BenchResult, scope: str) -> dict[str, Any]:
    ratio = bench.speedup if scope == "end_to_end" else bench.speedup_model
    return {
        "teacher": latency_dict(getattr(bench.teacher, scope) if bench.teacher else None),
        "teacher_quantised": latency_dict(getattr(bench.teacher_quantised, scope) if bench.teacher_quantised else None),
        "student": latency_dict(getattr(bench.student, scope) if bench.student else None),
        "speedup": _speedup(bench, ratio),
    }


def _speedup(bench: BenchResult, ratio: Ratio | None) -> dict[str, Any] | None:
    """Measured where both models are. `ci95` of an estimate is its 90 % error interval: `confidence` says which."""
    if ratio is None:
        return None
    kinds = {timed.end_to_end.kind for timed in (bench.teacher, bench.student) if timed}
    measured = kinds == {"measured"}
    kind, confidence = ("measured", 0.95) if measured else ("estimated", 0.9)
    return {"value": ratio.value, "ci95": ratio.ci95, "kind": kind, "confidence": confidence}


def _cost_entry(cost: CostReport | None, bench: BenchResult) -> dict[str, Any]:
    def usd(who: Any) -> float | None:
        line = cost.line(who) if cost else None
        return line.usd_per_year if line else None

    lines = {line.who: line.usd_per_million for line in cost.lines} if cost else {}
    return {
        "incumbent_usd_per_year": usd("incumbent"),
        "teacher_quantised_usd_per_year": usd("teacher_quantised"),
        "student_usd_per_year": usd("student"),
        "saving_usd_per_year": cost.saving_usd_per_year if cost else None,
        "zero_saving_requests_per_s": cost.zero_saving_requests_per_s if cost else None,
        "usd_per_million": lines,
        "report": cost,
    }


def within_limits(target: Target, bytes_loaded: int) -> bool | None:
    """Is what was built as small as the target asks? None: it asks nothing."""
    limit = target.limits.artifact_bytes
    return None if limit is None else bytes_loaded <= limit


def gate_met(project: Project, quality: QualityResult) -> dict[str, Any]:
    """min_retention against the retention, or against its interval's lower end where the project asks for that."""
    low = quality.retention.ci95[0]
    reached = quality.retention.value if project.gate == "point" else low
    return {
        "min_retention": project.min_retention,
        "kind": project.gate,
        "met": reached >= project.min_retention,
        "interval_excludes_failure": low >= project.min_retention,
    }


def objective_met(target: Target, bench: BenchResult, cost: CostReport | None) -> dict[str, Any]:
    """The percentile of a single stream, a measured one's bound or an estimate's, against the limit; in scenario server
    the replicas' capacity under load must be above 0, too.

    interval_excludes_failure: does the upper end of an estimate's interval meet it, too? None where measured."""
    objective = target.objective
    timed = bench.student
    latency = None if timed is None else timed.end_to_end if objective.scope == "end_to_end" else timed.model
    value = latency.percentile_ms(objective.percentile) if latency else None
    basis = "measured, single stream" if latency and latency.kind == "measured" else "estimated"
    worst = None
    if latency is not None and latency.kind == "estimated" and latency.error_interval:
        value = at_percentile(latency.p50_ms, TAIL_ASSUMED, objective)
        basis = f"estimated median, with a tail of p99 = {TAIL_ASSUMED:g} x p50 assumed"
        worst = at_percentile(latency.error_interval[1], TAIL_ASSUMED, objective)
    met = None if value is None else value <= objective.limit_ms
    safe = None if worst is None else worst <= objective.limit_ms
    student = cost.line("student") if cost else None
    capacity = student.capacity if student and objective.scenario == "server" else None
    if capacity is not None and met is not None:
        basis += "; under load: the capacity that the replicas are priced with"
        met = met and capacity.requests_per_s > 0
        safe = None if safe is None else safe and capacity.interval is not None and capacity.interval[0] > 0
    return {
        "percentile": objective.percentile,
        "limit_ms": objective.limit_ms,
        "scope": objective.scope,
        "scenario": objective.scenario,
        "met": met,
        "interval_excludes_failure": safe,
        "value_ms": value,
        "capacity_requests_per_s": capacity.requests_per_s if capacity else None,
        "basis": basis if value is not None else "no latency for this target",
    }


def _candidate(c: Any, chosen: bool) -> dict[str, Any]:
    return {
        "spec": c.spec,
        "params": c.num_params,
        "predicted_retention": {"value": c.quality.value, "low": c.quality.low, "high": c.quality.high},
        "p50_ms": c.latency.p50_ms if c.latency else None,
        "low_ms": c.latency.low_ms if c.latency else None,
        "high_ms": c.latency.high_ms if c.latency else None,
        "usd_per_year": c.usd_per_year,
        "chosen": chosen,
        "why_not": c.why_not,
    }


def _training(results: Sequence[TargetResult]) -> list[dict[str, Any]]:
    by_student: dict[str, dict[str, Any]] = {}
    for r in results:
        entry = by_student.setdefault(
            r.student.weights_sha256,
            {
                "targets": [],
                "spec": r.student.spec,
                "epochs": r.student.recipe.epochs,
                "losses": r.student.losses,
                "dev_quality": r.student.dev_quality,
                "terms": r.student.terms,
                "gradient_norms": r.student.gradient_norms,
                "calibration_temperature": r.student.calibration_temperature,
                "seconds": r.training_s,
                "recipe": r.student.recipe,
                "bf16": r.student.bf16,
            },
        )
        entry["targets"].append(r.target.id)
    return list(by_student.values())


def _decision(project: Project, results: Sequence[TargetResult]) -> str:
    parts = [_decision_for(project, r) for r in results]
    return "; ".join(parts) + "."


def _decision_for(project: Project, r: TargetResult) -> str:
    kept = f"keeps {r.quality.retention.value:.1%} of the teacher's {project.metric.name}"
    if not project.data.labelled:
        kept = f"agrees with the teacher on {r.quality.retention.value:.1%} of the test rows"
    words = f"{r.target.id}: {kept}"
    if r.bench.speedup and r.bench.student:
        words += f", {r.bench.speedup.value:.1f}x faster ({r.bench.student.end_to_end.kind})"
    if r.cost is None or r.cost.saving_usd_per_year is None:
        return words
    saving, peak = r.cost.saving_usd_per_year, r.target.traffic.peak_requests_per_s
    if saving > 0:
        return words + f", saves ${saving:,.0f} a year (estimated)"
    if saving < 0:
        return words + f", costs ${-saving:,.0f} a year more (estimated)"
    zero = r.cost.zero_saving_requests_per_s
    above = f"; a saving first appears above {zero:,.0f} requests/s" if zero else ""
    return words + f", saves nothing at a peak of {peak:g} requests/s (estimated{above})"
