"""bench: quality on the test set, once; then latency, beside the teacher, or estimated for absent machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from kdexport.bundle.verify import load_predictor
from kdexport.dataset import Split
from kdexport.errors import Unsupported
from kdexport.latency.absent import estimate_speedup
from kdexport.measure import metrics, slices
from kdexport.measure.statistics import effective_rows, paired_shares
from kdexport.measure.timer import Timings, interleave
from kdexport.nouns.base import Noun
from kdexport.nouns.bench import BenchResult, ClassChange, Quality, QualityResult, Ratio, Timed
from kdexport.nouns.graph import GraphCost, LatencyEstimate
from kdexport.nouns.measurement import Latency
from kdexport.nouns.metric import Metric
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.teacher import TeacherSet
from kdexport.runtimes import Feeds, load_runtime
from kdexport.storage.tables import Raw
from kdexport.teachers._run import MemberEngine, answer_one

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 6
REQUESTS = 512
MIN_SAMPLES = 1000  # p99 needs 662
MAX_SECONDS = 30.0
KEPT_SAMPLES = 2000


class TeacherFiles(Noun):
    """The teacher as graphs: fp32 reference, and int8 copies where they could be made."""

    graphs: tuple[str, ...] = Field(description="as the quantised: relative to the folder of the teach stage")
    quantised: tuple[str, ...] = ()
    bytes: int
    quantised_bytes: int = 0


def teacher_files(
    teachers: TeacherSet, teach_folder: Path, folder: Path, calibration: Callable[[int], Sequence[Feeds]]
) -> TeacherFiles:
    """int8 copies of every member in `folder`; none where one cannot be quantised. Paths relative to teach_folder."""
    sources = [teach_folder / str(m.graph) for m in teachers.members]
    tokenizers = [teach_folder / m.tokenizer for m in teachers.members if m.tokenizer]
    size = sum(p.stat().st_size for p in [*sources, *tokenizers])
    runtime = load_runtime("onnxruntime")
    quantised = []
    for index, source in enumerate(sources):
        own = folder / f"member-{index}"
        own.mkdir(exist_ok=True)
        try:
            quantised.append(runtime.build(source, "int8", own, calibration(index)))
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, NotImplementedError, IndexError) as e:
            # a comparison, not a part of the line: what ONNX Runtime's quantiser raises on a graph it cannot do
            log.warning("teacher int8 left out: %s: %s", type(e).__name__, e)
            quantised = []
            break
    return TeacherFiles(
        graphs=tuple(str(m.graph) for m in teachers.members),
        quantised=tuple(os.path.relpath(q, teach_folder) for q in quantised),
        bytes=size,
        quantised_bytes=sum(p.stat().st_size for p in [*quantised, *tokenizers]),
    )


def teacher_engines(teachers: TeacherSet, folder: Path, graphs: Sequence[str], threads: int) -> list[MemberEngine]:
    return [MemberEngine(m, folder, folder / g, threads) for m, g in zip(teachers.members, graphs, strict=True)]


def bundle_logits(bundle: Path, inputs: Sequence[Raw]) -> np.ndarray:
    """float32 (N, C) of what ships, raw request in, one request at a time as in production: the scales of a
    dynamically quantised engine depend on the batch, and so do its answers."""
    import numpy as np

    predictor = load_predictor(bundle)
    return np.concatenate([predictor.logits([raw]) for raw in inputs]).astype(np.float32)


def graph_logits(bundle: Path, inputs: Sequence[Raw]) -> np.ndarray:
    """As bundle_logits, from the bundle's ONNX graph by ONNX Runtime: for engines and recipes of other machines."""
    import numpy as np

    from kdexport.bundle.runner.predict import open_encoder
    from kdexport.bundle.verify import read_manifest
    from kdexport.runtimes.onnxruntime import open_engine

    manifest = read_manifest(bundle)
    encoder = open_encoder(bundle, manifest.preprocessor.model_dump())
    engine = open_engine(bundle / "model.onnx", 1)
    rows = [engine.run({manifest.input_name: encoder.encode(raw)})[0] for raw in inputs]
    return np.stack(rows).astype(np.float32)


def quality(
    metric: Metric,
    teacher_logits: np.ndarray,
    student_logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    student_threshold: float | None,
    teacher_threshold: float | None,
    rows: Split | None = None,
) -> QualityResult:
    """Everything from predictions alone: each model is asked once. rows: the test rows with their weights, and with
    what slices are made of."""
    weights = weights_of(rows)
    teacher = metrics.score(metric, teacher_logits, labels, classes, teacher_threshold, weights)
    student = metrics.score(metric, student_logits, labels, classes, student_threshold, weights)
    value, ci95 = metrics.retention(
        metric,
        student_logits,
        teacher_logits,
        labels,
        classes,
        student_threshold=student_threshold,
        teacher_threshold=teacher_threshold,
        weights=weights,
    )
    before = metrics.per_class_recall(teacher_logits, labels, classes, weights)
    after = metrics.per_class_recall(student_logits, labels, classes, weights)
    counts = [int((labels == i).sum()) for i in range(len(classes))]
    n = len(labels)

    def interval(logits: np.ndarray, threshold: float | None) -> tuple[float, float]:
        low, high = metrics.interval(metric, logits, labels, classes, threshold, weights)
        return float(low), float(high)

    return QualityResult(
        teacher=Quality(metric=metric.name, value=teacher, ci95=interval(teacher_logits, teacher_threshold), n=n),
        student=Quality(metric=metric.name, value=student, ci95=interval(student_logits, student_threshold), n=n),
        retention=Ratio(value=value, ci95=ci95),
        per_class=tuple(
            ClassChange(name=c, n=counts[i], teacher=before[c], student=after[c])
            for i, c in enumerate(classes)
            if counts[i]
        ),
        teacher_ece=metrics.expected_calibration_error(teacher_logits, labels, weights=weights),
        student_ece=metrics.expected_calibration_error(student_logits, labels, weights=weights),
        agreement=float(_weighted_mean(teacher_logits.argmax(1) == student_logits.argmax(1), weights)),
        weighted=weights is not None,
        effective_n=None if weights is None else effective_rows(weights),
        slices=tuple(
            slices.slices(
                metric,
                (teacher_logits, teacher_threshold),
                (student_logits, student_threshold),
                labels,
                classes,
                slices.groups(rows.inputs, rows.times, rows.slices) if rows else {},
                weights,
            )
        ),
    )


def weights_of(rows: Split | None) -> np.ndarray | None:
    """None where all rows count alike: then nothing is computed otherwise than without weights."""
    weights = rows.weights if rows is not None else None
    return None if weights is None or bool((weights == weights[0]).all()) else weights


def _weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    import numpy as np

    return float(np.average(values, weights=weights))


def with_queries(
    found: QualityResult,
    teacher_logits: np.ndarray | None,
    student_logits: np.ndarray | None,
    rows: Split | None = None,
) -> QualityResult:
    """Agreement on held-out production queries beside the rest, by weight, with its interval; and by slice."""
    if teacher_logits is None or student_logits is None:
        return found
    weights, n = weights_of(rows), len(teacher_logits)
    same = teacher_logits.argmax(1) == student_logits.argmax(1)
    shares = paired_shares(same, same | True, weights)
    kinds = slices.groups(rows.inputs, rows.times, rows.slices) if rows else {}
    by_slice = slices.agreement_slices(teacher_logits, student_logits, kinds, weights)
    return found.model_copy(
        update={
            "query_agreement": Ratio(value=shares.student, ci95=shares.student_ci95),
            "query_n": n,
            "slices": (*found.slices, *by_slice),
        }
    )


def measure(
    target: str,
    bundle: Path,
    bundle_bytes: int,
    teachers: TeacherSet,
    teach_folder: Path,
    files: TeacherFiles | None,
    requests: Sequence[Raw],
    threads: int,
    environment: str,
) -> BenchResult:
    """One thread of requests, interleaved in blocks; end to end and engine alone. What is timed is what ships."""
    requests = requests[:REQUESTS]
    predictor = load_predictor(bundle)
    tensors = [predictor.encoder.encode(r) for r in requests]
    functions: dict[str, Callable[[int], object]] = {
        "student": lambda i: predictor.predict(requests[i]),
        "student model": lambda i: predictor._engine(tensors[i]),
    }
    if files is not None:
        members = teacher_engines(teachers, teach_folder, files.graphs, threads)
        functions |= _teacher_functions("teacher", members, requests)
        if files.quantised:
            members = teacher_engines(teachers, teach_folder, files.quantised, threads)
            functions |= _teacher_functions("teacher int8", members, requests)
    timings = interleave(functions, len(requests), min_samples=MIN_SAMPLES, max_seconds=MAX_SECONDS)
    student = _timed("student", timings, bundle_bytes, environment)
    if files is None:
        note = "the teacher is no graph: its latency is not measured"
        return BenchResult(target=target, teacher=None, student=student, notes=(note,))
    speedup, speedup_ci = timings.speedup("teacher", "student")
    model, model_ci = timings.speedup("teacher model", "student model")
    return BenchResult(
        target=target,
        teacher=_timed("teacher", timings, files.bytes, environment),
        teacher_quantised=_timed("teacher int8", timings, files.quantised_bytes, environment)
        if files.quantised
        else None,
        student=student,
        speedup=Ratio(value=speedup, ci95=speedup_ci),
        speedup_model=Ratio(value=model, ci95=model_ci),
    )


def _teacher_functions(
    name: str, members: Sequence[MemberEngine], requests: Sequence[Raw]
) -> dict[str, Callable[[int], object]]:
    """An ensemble answers when its last member has."""
    feeds = [[m.feeds_one(r) for m in members] for r in requests]
    return {
        name: lambda i: answer_one(members, requests[i]),
        f"{name} model": lambda i: [m.engine.run(f) for m, f in zip(members, feeds[i], strict=True)],
    }


def _timed(name: str, timings: Timings, size: int, environment: str) -> Timed:
    samples = timings.samples_ms[name].ravel()
    return Timed(
        label=name,
        end_to_end=timings.latency(name, environment),
        model=timings.latency(f"{name} model", environment),
        service_ms=tuple(round(float(v), 6) for v in samples[:KEPT_SAMPLES]),
        bytes=size,
    )


Estimator = Callable[[GraphCost, Precision, str], LatencyEstimate]


def estimate(
    target: str,
    profile: HardwareProfile,
    estimator: Estimator,
    host: LatencyEstimate,
    student_cost: GraphCost,
    student_precision: Precision,
    student_bytes: int,
    teacher_cost: GraphCost | None,
    teacher_precision: Precision,
    teacher_bytes: int,
    quantised_bytes: int,
    cores: int | None,
    runtime: str,
) -> BenchResult:
    """Latencies on a machine that is not here, from published measurements. estimator(cost, precision, scope).

    host: preprocessing there, part of the estimator's end to end. cores: how many one run uses; None: all.
    runtime: what runs both models."""
    try:
        student = _estimated("student", estimator, student_cost, student_precision, student_bytes)
    except Unsupported as e:
        return BenchResult(target=target, teacher=None, student=None, notes=(str(e),))
    if teacher_cost is None:
        note = "the teacher's latency there is not estimated: its operations are not known"
        return BenchResult(target=target, teacher=None, student=student, notes=(note,))
    teacher = _estimated("teacher", estimator, teacher_cost, teacher_precision, teacher_bytes)
    quantised = (
        _estimated("teacher int8", estimator, teacher_cost, "int8", quantised_bytes) if quantised_bytes else None
    )
    models = (teacher_cost, teacher_precision, student_cost, student_precision)
    host_ms = (host.p50_ms, host.low_ms, host.high_ms)
    speedup, interval = estimate_speedup(profile, *models, host_ms=host_ms, cores=cores, runtime=runtime)
    model, model_interval = estimate_speedup(profile, *models, cores=cores, runtime=runtime)
    return BenchResult(
        target=target,
        teacher=teacher,
        teacher_quantised=quantised,
        student=student,
        speedup=Ratio(value=speedup, ci95=interval),
        speedup_model=Ratio(value=model, ci95=model_interval),
        notes=(
            f"latency on {profile.name} is estimated, not measured",
            f"the teacher there is estimated in {teacher_precision}",
        ),
    )


def estimate_teacher(estimator: Estimator, cost: GraphCost, precision: Precision, size: int) -> Timed | None:
    """The teacher alone on a machine that is not here; None where facts of it are missing."""
    try:
        return _estimated("teacher", estimator, cost, precision, size)
    except Unsupported:
        return None


def _estimated(name: str, estimator: Estimator, cost: GraphCost, precision: Precision, size: int) -> Timed:
    whole, model = estimator(cost, precision, "end_to_end"), estimator(cost, precision, "model")
    return Timed(label=name, end_to_end=_latency(whole), model=_latency(model), estimate=whole, bytes=size)


def _latency(estimate: LatencyEstimate) -> Latency:
    return Latency(
        kind="estimated",
        p50_ms=estimate.p50_ms,
        error_interval=(estimate.low_ms, estimate.high_ms),
        model=f"{estimate.model}: {estimate.basis}" + ("; extrapolated" if estimate.extrapolated else ""),
    )
