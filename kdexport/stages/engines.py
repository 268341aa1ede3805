"""engines: build every engine that a target allows, check it against torch, keep the best by measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.backbones import backbone_of, parse_spec
from kdexport.dataset import Dataset
from kdexport.errors import Damaged, MissingPackage, Unsupported
from kdexport.export.half import half_precision
from kdexport.export.onnx import INPUT_NAMES
from kdexport.export.parity import compare_logits, edge_texts, parity_problem
from kdexport.measure.metrics import fit_threshold, score
from kdexport.measure.timer import interleave
from kdexport.nouns.measurement import Decision
from kdexport.nouns.metric import Metric
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.student import EngineChoice, EngineResult, Int8Finish, Student
from kdexport.nouns.target import LOCAL, Target
from kdexport.runtimes import Engine, Feeds, load_runtime
from kdexport.storage.files import write_bytes
from kdexport.storage.tables import Raw
from kdexport.tasks import Encoded, Prepared, Task
from kdexport.training.quantisation_aware import Scheme

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 4
MAX_QUALITY_LOSS = 0.003  # of the metric on dev: what an engine may lose against the best one and still be chosen
ROUNDING = 1e-9  # a loss of exactly the limit is within it
MAX_INT8_LOSS = 0.003  # of the metric on dev, against fp32 in the same runtime: beyond it int8 is trained for
FASTER = 1.02  # a quantised engine must be faster by more than the noise to be kept
PARITY_ROWS = 256
CALIBRATION_ROWS = 128
TIMED_REQUESTS = 200
TIMING_SECONDS = 3.0
REFERENCE = "onnxruntime/fp32"  # stands in where the target's own runtime cannot run here


@dataclass(frozen=True)
class Inputs:
    """Encoded once for all engines of a student."""

    name: str
    dev: Encoded
    parity: Encoded
    torch_parity: np.ndarray  # (N, C) from torch, on `parity`
    calibration: Sequence[Feeds]


def prepare_inputs(student: Student, student_folder: Path, dataset: Dataset, task: Task) -> Inputs:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    tokenizer = (student_folder / student.tokenizer).read_text() if student.tokenizer else ""
    prepared = Prepared(student.preprocessor, tokenizer)
    sample: list[Raw] = list(dataset.dev.inputs[:PARITY_ROWS])
    if task.input_kind == "text":
        sample += edge_texts([str(t) for t in sample])
    parity, dev = task.encode(prepared, sample), task.encode(prepared, dataset.dev.inputs)
    spec = parse_spec(student.spec)
    module = backbone_of(spec).build(spec, len(dataset.classes))
    module.load_state_dict(load_file(student_folder / student.weights))
    module.eval()
    with torch.no_grad():
        rows = [module(torch.from_numpy(parity.batch(np.array([i])))).numpy() for i in range(len(sample))]
    name = INPUT_NAMES[backbone_of(spec).input_kind]
    train = task.encode(prepared, dataset.train.inputs[:CALIBRATION_ROWS])
    calibration = [{name: train.batch(np.array([i]))} for i in range(len(train.lengths))]
    return Inputs(name, dev, parity, np.concatenate(rows), calibration)


def engines(
    student: Student,
    student_folder: Path,
    inputs: Inputs,
    dataset: Dataset,
    metric: Metric,
    target: Target,
    profile: HardwareProfile,
    threads: int,
    environment: str,
    decide: Callable[[Callable[[], Decision]], Decision],
    folder: Path,
    finishing: Finishing | None = None,
) -> EngineChoice:
    """finishing: None: int8 is left as the engine's quantiser makes it. Raises Damaged where no engine has parity with
    torch: then no bundle is written."""
    graph = student_folder / student.graph
    assert dataset.dev.labels is not None
    labels = dataset.dev.labels

    def attempt(
        source: Path, runtime: str, precision: Precision, own: Inputs, own_folder: Path
    ) -> tuple[EngineResult, _Checked | None]:
        return _try(source, runtime, precision, own, dataset, metric, profile, threads, own_folder)

    checked: dict[str, _Checked] = {}
    tried: list[EngineResult] = []
    for runtime, precision in _cells(target):
        result, good = attempt(graph, runtime, precision, inputs, folder)
        tried.append(result)
        if good:
            checked[f"{runtime}/{precision}"] = good
    finishes: list[Int8Finish] = []
    if finishing is not None:
        finishes += _finish_int8(finishing, attempt, checked, tried, graph, inputs, target, folder)
    local = target.profile == LOCAL
    if not checked:  # the target's runtimes cannot run here: the graph itself is checked by ONNX Runtime
        return _unrun(graph, tried, inputs, target, profile, metric, dataset, threads, folder)
    decision = decide(lambda: _decide(checked, inputs, local, environment))
    kept = checked[decision.choice]
    timed = decision.candidates if local else {}
    results = [_final(r, decision, timed) for r in tried]
    return EngineChoice(
        runtime=kept.result.runtime,
        precision=kept.result.precision,
        artifact="engine",
        file=str(kept.path.relative_to(folder)) if kept.path.is_relative_to(folder) else "",
        verified_on=decision.choice,
        parity=_parity(kept),
        threshold=fit_threshold(metric, kept.dev_logits, labels, dataset.classes, dataset.dev.weights),
        dev_quality=kept.quality,
        tried=tuple(results),
        finishes=tuple(finishes),
        finished=_scheme(kept.result.runtime, inputs) if kept.result.finished else None,
    )


Attempt = Callable[[Path, str, Precision, Inputs, Path], tuple[EngineResult, "_Checked | None"]]


@dataclass(frozen=True)
class Finishing:
    """finished(scheme): the student distilled on with int8 in the loop, its folder and its inputs. always: even where
    int8 loses nothing."""

    finished: Callable[[Scheme], tuple[Student, Path, Inputs]]
    always: bool = False


def _finish_int8(
    finishing: Finishing,
    attempt: Attempt,
    checked: dict[str, _Checked],
    tried: list[EngineResult],
    graph: Path,
    inputs: Inputs,
    target: Target,
    folder: Path,
) -> Iterator[Int8Finish]:
    """Where int8 loses too much, the better of it and of the finished student's int8 stays in `checked`; `tried` gets
    the finished one, and says of the other why it is left."""
    for before in [r for r in tried if r.precision == "int8" and r.parity is not None]:
        fp32 = checked.get(f"{before.runtime}/fp32") or attempt(graph, before.runtime, "fp32", inputs, folder)[1]
        loses = fp32 is not None and not (before.quality or 0.0) >= fp32.quality - MAX_INT8_LOSS - ROUNDING
        # fp32 is kept where speed cannot be measured: int8 would be trained for in vain
        usable = target.profile == LOCAL or "fp32" not in target.precisions
        if fp32 is None or not (finishing.always or (loses and usable)):
            continue
        scheme = _scheme(before.runtime, inputs)
        student, student_folder, own = finishing.finished(scheme)
        own_folder = folder / f"finished-{scheme}"
        own_folder.mkdir(exist_ok=True)
        after, good = attempt(student_folder / student.graph, before.runtime, "int8", own, own_folder)
        after = after.model_copy(update={"finished": True})
        kept = good is not None and good.quality > (before.quality or 0.0)
        told = (
            f"dev quality {_quality_text(before)} as distilled, {_quality_text(after)} after training for int8, "
            f"{fp32.quality:.4f} in fp32"
        )
        log.info("int8 finish runtime=%s scheme=%s: %s", before.runtime, scheme, told)
        if good is not None and kept:
            checked[f"{before.runtime}/int8"] = replace(good, result=after)
            tried[tried.index(before)] = before.model_copy(update={"reason": f"left for the finished one: {told}"})
            tried.append(after)
        else:
            tried.append(after.model_copy(update={"reason": f"no better than without the finish: {told}"}))
        yield Int8Finish(
            runtime=before.runtime,
            scheme=scheme,
            fp32=fp32.quality,
            before=before.quality,
            after=after.quality,
            kept=kept,
        )


def _quality_text(result: EngineResult) -> str:
    return "without parity" if result.quality is None else f"{result.quality:.4f}"


def _scheme(runtime: str, inputs: Inputs) -> Scheme:
    """How the runtime's quantiser finds the range of an activation."""
    return "dynamic" if runtime == "onnxruntime" and inputs.name == INPUT_NAMES["text"] else "static"


@dataclass(frozen=True)
class _Checked:
    result: EngineResult
    path: Path
    engine: Engine
    dev_logits: np.ndarray
    quality: float


def _cells(target: Target) -> list[tuple[str, Precision]]:
    return [(r, p) for r in target.runtimes for p in target.precisions]


def _cpu(profile: HardwareProfile) -> HardwareProfile:
    return profile.model_copy(update={"device_class": "cpu"})


def _parity(checked: _Checked) -> Any:
    assert checked.result.parity is not None
    return checked.result.parity


def _try(
    graph: Path,
    runtime_name: str,
    precision: Precision,
    inputs: Inputs,
    dataset: Dataset,
    metric: Metric,
    profile: HardwareProfile,
    threads: int,
    folder: Path,
    tolerated: Precision | None = None,
) -> tuple[EngineResult, _Checked | None]:
    """Build, check parity, score on dev. The reason says why a cell cannot be had, or why it is left.

    tolerated: judge parity as of this precision, for a graph whose weights already are in it."""
    runtime = load_runtime(runtime_name)
    reason = runtime.unsupported(precision, profile) or (
        runtime.only_there(profile) or (runtime.missing() and f"not installed: {runtime.missing()}")
    )
    if reason:
        return EngineResult(runtime=runtime_name, precision=precision, reason=reason), None
    built: dict[str, Any] = {"runtime": runtime_name, "precision": precision}
    try:
        path = runtime.build(graph, precision, folder, inputs.calibration)
        built |= {"bytes": path.stat().st_size, "file": path.name}
        engine = runtime.open_engine(path, threads)
    except (Unsupported, MissingPackage) as e:  # built ahead of time for a GPU that is not here
        return EngineResult(**built, reason=str(e)), None
    found = _logits(engine, inputs.name, inputs.parity)
    parity = compare_logits(inputs.torch_parity, found)
    problem = parity_problem(parity, tolerated or precision, inputs.torch_parity)
    if problem:  # not scored: its logits may be NaN, which no metric takes
        log.info("engine=%s/%s %s", runtime_name, precision, problem)
        return EngineResult(**built, parity=parity, reason=problem), None
    dev_logits = _logits(engine, inputs.name, inputs.dev)
    assert dataset.dev.labels is not None
    dev = dataset.dev
    assert dev.labels is not None
    threshold = fit_threshold(metric, dev_logits, dev.labels, dataset.classes, dev.weights)
    quality = score(metric, dev_logits, dev.labels, dataset.classes, threshold, dev.weights)
    result = EngineResult(**built, quality=quality, parity=parity)
    log.info("engine=%s/%s dev_quality=%.4f", runtime_name, precision, quality)
    return result, _Checked(result, path, engine, dev_logits, quality)


def _logits(engine: Engine, name: str, encoded: Encoded) -> np.ndarray:
    """(N, C), one request at a time: a dynamically quantised engine answers differently in a batch."""
    import numpy as np

    return np.concatenate([engine.run({name: encoded.batch(np.array([i]))}) for i in range(len(encoded.lengths))])


def _decide(checked: dict[str, _Checked], inputs: Inputs, local: bool, environment: str) -> Decision:
    """The fastest of those that lose no quality. Elsewhere than here speed is not measured: fp32, or the smallest
    loss, is kept, and the reason says so."""
    best = max(c.quality for c in checked.values())
    good = {name: c for name, c in checked.items() if c.quality >= best - MAX_QUALITY_LOSS}
    first = next((n for n in good if n.endswith("/fp32")), next(iter(good)))
    if not local:
        candidates = {n: c.quality for n, c in checked.items()}
        reason = "speed cannot be measured here; the first precision without loss of quality is kept"
        return Decision(name="engine", choice=first, reason=reason, candidates=candidates, unit="quality on dev")
    medians = _medians_ms({n: checked[n] for n in checked}, inputs)
    fastest = min(good, key=medians.__getitem__)
    choice = fastest if medians[first] > FASTER * medians[fastest] else first
    reason = f"fastest of {len(good)} engines within {MAX_QUALITY_LOSS} of the best dev quality {best:.4f}"
    return Decision(
        name="engine",
        choice=choice,
        reason=reason,
        candidates=medians,
        unit="ms, median of one run, model alone",
        environment=environment,
    )


def _medians_ms(checked: dict[str, _Checked], inputs: Inputs) -> dict[str, float]:
    import numpy as np

    rows = [inputs.dev.batch(np.array([i])) for i in range(min(TIMED_REQUESTS, len(inputs.dev.lengths)))]

    def runner(engine: Engine) -> Callable[[int], object]:
        return lambda i: engine.run({inputs.name: rows[i]})

    timings = interleave(
        {n: runner(c.engine) for n, c in checked.items()}, len(rows), min_samples=1000, max_seconds=TIMING_SECONDS
    )
    return {n: float(np.median(timings.samples_ms[n])) for n in checked}


def _final(result: EngineResult, decision: Decision, timed: dict[str, float]) -> EngineResult:
    """The reason in words: kept, slower, or less good."""
    name = f"{result.runtime}/{result.precision}"
    if result.quality is None or result.reason:
        return result
    p50_ms = timed.get(name)
    changes: dict[str, Any] = {"chosen": name == decision.choice}
    if p50_ms is not None:
        changes |= {"p50_ms": p50_ms, "kind": "measured"}
    if name == decision.choice:
        changes["reason"] = decision.reason
    elif p50_ms is not None:
        ratio = timed[decision.choice] / p50_ms
        changes["reason"] = f"{ratio:.2f} times as fast as the one kept, dev quality {result.quality:.4f}"
    else:
        changes["reason"] = "not kept: another engine has no worse quality"
    return result.model_copy(update=changes)


def _unrun(
    graph: Path,
    tried: list[EngineResult],
    inputs: Inputs,
    target: Target,
    profile: HardwareProfile,
    metric: Metric,
    dataset: Dataset,
    threads: int,
    folder: Path,
) -> EngineChoice:
    """No runtime of the target runs here: an ahead-of-time engine if one was built, else a recipe. The graph that it is
    built from, weights already in its precision, is checked by ONNX Runtime."""
    assert dataset.dev.labels is not None
    order: list[Precision] = ["fp16", *target.precisions]
    failed = [r for r in tried if r.parity is not None]  # ran here, and answered wrong
    built = sorted((r for r in tried if r.bytes is not None and not r.parity), key=lambda r: order.index(r.precision))
    if failed and not built:
        worst = failed[0]
        raise Damaged(f"{graph}: {worst.runtime}/{worst.precision}: {worst.reason}; no bundle is written")
    runtime = built[0].runtime if built else target.runtimes[-1]
    precision = built[0].precision if built else "fp16" if "fp16" in target.precisions else "fp32"
    source = graph
    if precision == "fp16":
        source = folder / "model.fp16.onnx"
        write_bytes(source, half_precision(graph).SerializeToString())
    result, good = _try(
        source, "onnxruntime", "fp32", inputs, dataset, metric, _cpu(profile), threads, folder, precision
    )
    if good is None:
        raise Damaged(f"{source}: {result.reason}; no bundle is written")
    note = (
        f"parity and quality are those of the {precision} graph in ONNX Runtime; "
        f"the {runtime} engine itself is untested here"
    )
    return EngineChoice(
        runtime=runtime,
        precision=precision,
        artifact="engine" if built else "recipe",
        file=built[0].file if built else source.name if source != graph else "",
        graph=source.name if source != graph else "",
        verified_on=REFERENCE,
        parity=_parity(good),
        threshold=fit_threshold(metric, good.dev_logits, dataset.dev.labels, dataset.classes, dataset.dev.weights),
        dev_quality=good.quality,
        tried=tuple(_told(r, runtime, precision, profile, note) for r in tried),
        notes=(note,),
    )


def _told(
    result: EngineResult, runtime: str, precision: Precision, profile: HardwareProfile, note: str
) -> EngineResult:
    """Of engines that cannot run here, only the planned one is built: here ahead of time, or there by build.py."""
    if (result.runtime, result.precision) == (runtime, precision):
        reason = "built ahead of time; " + note if result.bytes is not None else result.reason
        return result.model_copy(update={"chosen": True, "reason": reason})
    if result.reason != load_runtime(result.runtime).only_there(profile):
        return result  # refused for a reason of its own
    planned = "precision" if result.precision != precision else "runtime"
    return result.model_copy(update={"reason": f"not the planned {planned}"})
