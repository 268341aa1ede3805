"""calibrate: what this machine was measured to do, so that a student can be sized before it exists.

Engines: the calibration that `kdexport profiles calibrate` stored, or a quick one of the project's kind of input alone.
Preprocessing: timed on the project's own requests, by the very code that a bundle ships."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, get_args

from kdexport import registry
from kdexport.bundle.runner.predict import open_encoder
from kdexport.dataset import Dataset
from kdexport.errors import MissingPackage, Unsupported
from kdexport.latency import calibrated, store
from kdexport.latency.calibrated import Progress, tail_of
from kdexport.measure.timer import interleave
from kdexport.nouns.calibration import Calibration, LocalSpeed
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import load_runtime
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task

VERSION = 2
REQUESTS = 500
PREPROCESS_SAMPLES, PREPROCESS_SECONDS = 2_000, 2.0


def calibrate(
    cells: Sequence[tuple[str, Precision]],
    dataset: Dataset,
    task: Task,
    teacher_tokenizer: str,
    environment: Environment,
    quick_seconds: float,
) -> LocalSpeed:
    """cells: runtimes with precisions. quick_seconds: for each that no calibration is stored of.

    A quick calibration is not stored: its intervals are wider than what `profiles calibrate` gives. Raises
    MissingPackage where a runtime is not installed, Damaged where a stored calibration is."""
    samples_ms = _time_preprocessing(dataset, task, teacher_tokenizer)
    return LocalSpeed(
        cells=tuple(_cell(*cell, task, environment, quick_seconds) for cell in cells),
        preprocess_ms=median(samples_ms),
        preprocess_tail=tail_of(samples_ms),
    )


def calibrate_machine(
    profile: HardwareProfile,
    environment: Environment,
    runtimes: Sequence[str],
    precisions: Sequence[Precision],
    seconds: float,
    force: bool,
    progress_for: Callable[[str], Progress],
) -> list[Calibration]:
    """Time, and store for every project, each runtime and precision; none named: all that work here.

    profile: of this machine. seconds: of each. A stored calibration is kept unless `force`. Raises MissingPackage for
    a named runtime that is not installed, Unsupported where nothing is left to time."""
    found = []
    for runtime, precision in working_cells(profile, runtimes, precisions):
        stored = None if force else store.load(environment, runtime, precision)
        if stored is None:
            told = progress_for(f"{runtime} {precision}")
            stored = calibrated.calibrate(runtime, precision, environment, seconds, progress=told)
            store.save(stored)
        found.append(stored)
    return found


def working_cells(
    profile: HardwareProfile, runtimes: Sequence[str], precisions: Sequence[Precision]
) -> list[tuple[str, Precision]]:
    """Of the named ones, or of all."""
    found: list[tuple[str, Precision]] = []
    reasons = []
    for name in runtimes or registry.names("runtimes"):
        module = load_runtime(name)
        if install := module.missing():
            if runtimes:
                raise MissingPackage(f"{name} is not installed; {install}")
            continue
        for precision in precisions or get_args(Precision):
            reason = module.unsupported(precision, profile)
            found += [] if reason else [(name, precision)]
            reasons += [f"{name} {precision}: {reason}"] if reason else []
    if not found:
        raise Unsupported(f"nothing to time on this machine: {'; '.join(reasons) or 'no runtime is installed'}")
    return found


def _cell(
    runtime: str, precision: Precision, task: Task, environment: Environment, quick_seconds: float
) -> Calibration:
    stored = store.load(environment, runtime, precision)
    if stored is not None:
        return stored
    return calibrated.calibrate(runtime, precision, environment, quick_seconds, (task.input_kind,))


def _time_preprocessing(dataset: Dataset, task: Task, teacher_tokenizer: str) -> list[float]:
    """Milliseconds of all that a bundle does for a request outside its engine, requests of the training rows in turn:
    raw to tensors, and logits to label and score. The percentiles hold the requests' lengths, too."""
    import numpy as np

    inputs = dataset.train.inputs
    requests = inputs[:: max(1, len(inputs) // REQUESTS)]  # spread over the file, which may be sorted
    prepared = task.prepare(inputs, teacher_tokenizer, task.vocab_sizes(inputs, teacher_tokenizer)[0])
    encode = shipped_encoder(prepared)
    logits = np.linspace(-5.0, 5.0, len(dataset.classes), dtype=np.float32)

    def around_the_engine(i: int) -> object:
        encode(requests[i])
        best = int(logits.argmax())  # as the runner's Predictor.answer
        return 1.0 / float(np.exp(logits - logits[best]).sum())

    timings = interleave(
        {"preprocess": around_the_engine},
        len(requests),
        min_samples=PREPROCESS_SAMPLES,
        max_seconds=PREPROCESS_SECONDS,
    )
    found: list[float] = timings.samples_ms["preprocess"].ravel().tolist()
    return found


def shipped_encoder(prepared: Prepared) -> Callable[[Raw], Any]:
    """The very code that a bundle preprocesses with: raw request -> tensor."""
    with tempfile.TemporaryDirectory() as scratch:
        if prepared.tokenizer_json:
            (Path(scratch) / prepared.preprocessor.tokenizer).write_text(prepared.tokenizer_json, encoding="utf-8")
        encode: Callable[[Raw], Any] = open_encoder(Path(scratch), prepared.preprocessor.model_dump()).encode
    return encode
