"""label: the teacher's answers to every row that the student learns from, made once, by the cheapest engine that
changes nothing that matters."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.nouns.measurement import Decision
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.nouns.teacher import TeacherSet
from kdexport.runtimes import load_runtime
from kdexport.storage.tables import Raw
from kdexport.tasks import Asked
from kdexport.teachers._doubts import refuse_constant, refuse_worse_than_chance
from kdexport.teachers._run import Teachers
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels, make_labels

if TYPE_CHECKING:
    import numpy as np

VERSION = 2
REFERENCE = "onnxruntime/fp32"
CHEAPER: tuple[tuple[str, Precision], ...] = (("openvino", "bf16"), ("openvino", "fp32"), ("onnxruntime", "int8"))
CHECK_ROWS = 512  # real rows that an engine must answer alike
CHECK_BATCH = 64  # rows that every engine answers in turn: what else the machine does strikes all alike
MAX_TOTAL_VARIATION = 0.005  # of the probabilities, mean: a good student is off by ten times as much
MIN_AGREEMENT = 0.998  # of the likeliest class, where it leads clearly: one row of 512 may differ
CLEAR_LEAD = 0.05  # of probability over the second: below, a soft label says "either", whichever is ahead
MIN_SPEEDUP = 1.15  # below, the check has cost more than it saves
NEAR = 1.25  # times: among engines as close as this to the fastest, the most exact: labels are learnt from many times
WORTH_S = 60.0  # labelling that ends sooner is not worth a check
CHECKED_ROWS = 20_000  # at most, evenly spread: an answer that is the same everywhere is the same on these


def label(
    teachers: Teachers, rows: TransferSet, folder: Path, key: str, progress: Callable[[int, int], None] | None
) -> SoftLabels:
    """Raises BadInput where the teacher answers every row alike, or is worse than chance on the labelled rows: wrong
    label order, likely."""
    labels = make_labels(folder, key, Asked(rows.inputs), len(teachers.classes), teachers.logits, progress)
    refuse_nonsense(labels, rows.hard, teachers.classes)
    return labels


def refuse_nonsense(labels: SoftLabels, hard: np.ndarray, classes: Sequence[str]) -> None:
    """hard: int64 (N,), -1 where there is no true label. Raises BadInput."""
    import numpy as np

    some = _spread(np.arange(len(hard)))
    refuse_constant(labels.rows(some), "the teacher")
    known = _spread(np.flatnonzero(hard >= 0))
    if len(known):
        predicted = labels.rows(known).argmax(1)
        refuse_worse_than_chance(predicted, hard[known], classes, "the teacher", "training rows")


def _spread(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // CHECKED_ROWS))]


# --- the engine


def cheaper_engines(teachers: TeacherSet, profile: HardwareProfile) -> list[str]:
    """Runtimes and precisions that can run every member's graph here; empty where a member is no graph."""
    if not teachers.is_graph:
        return []
    pictures = any(m.preprocessor and m.preprocessor.kind == "image" for m in teachers.members)
    return [
        f"{name}/{precision}"
        for name, precision in CHEAPER
        if not (load_runtime(name).missing() or load_runtime(name).unsupported(precision, profile))
        and not (pictures and precision == "int8")  # wants calibration: more than a check may cost
    ]


def decide_engine(
    open_by: Callable[[str], Teachers], engines: Sequence[str], rows: TransferSet, worth_s: float = WORTH_S
) -> Decision:
    """The most exact of the fastest engines (NEAR) whose answers to real rows are the reference's, within the bars
    above; the reference itself where none is, or where all is labelled in `worth_s`. open_by: the teachers, run by an
    engine."""
    import numpy as np

    spread = np.linspace(0, len(rows.inputs) - 1, min(CHECK_ROWS, len(rows.inputs)), dtype=np.int64)
    sample = Asked([rows.inputs[i] for i in spread])
    batches = [sample[i : i + CHECK_BATCH] for i in range(0, len(sample), CHECK_BATCH)]
    reference = open_by(REFERENCE)
    seconds = _timed(reference, batches[0]) / len(batches[0]) * len(rows.inputs)
    if seconds < worth_s:
        return Decision(
            name="engine for labelling",
            choice=REFERENCE,
            reason=f"all rows are labelled in about {seconds:.0f} s: not worth a check of cheaper engines",
            candidates={REFERENCE: seconds},
            unit="s",
        )
    opened = {REFERENCE: reference, **{name: open_by(name) for name in engines}}
    for teachers in opened.values():  # the first questions to an engine are slow
        teachers.logits(batches[0])
    times: dict[str, list[float]] = {name: [] for name in opened}
    answers: dict[str, list[np.ndarray]] = {name: [] for name in opened}
    for batch in batches:
        for name, teachers in opened.items():
            started = time.perf_counter()
            answers[name].append(_softmax(teachers.logits(batch)))
            times[name].append(time.perf_counter() - started)
    return chosen_engine(times, {name: np.concatenate(found) for name, found in answers.items()}, len(batches[0]))


def _timed(teachers: Teachers, batch: Sequence[Raw]) -> float:
    teachers.logits(batch)
    started = time.perf_counter()
    teachers.logits(batch)
    return time.perf_counter() - started


def chosen_engine(times: dict[str, list[float]], answers: dict[str, np.ndarray], batch_rows: int) -> Decision:
    """answers: probabilities (N, C) by engine."""
    import numpy as np

    wanted, told = answers[REFERENCE], []
    top_two = np.sort(wanted, axis=1)[:, -2:]
    clear = top_two[:, 1] - top_two[:, 0] >= CLEAR_LEAD
    kept: dict[str, tuple[float, float]] = {}
    for name in times.keys() - {REFERENCE}:
        speedup = float(np.median(np.array(times[REFERENCE]) / np.array(times[name])))
        variation = float(np.abs(answers[name] - wanted).sum(1).mean() / 2)
        agreement = float((answers[name].argmax(1) == wanted.argmax(1))[clear].mean()) if clear.any() else 1.0
        good = variation <= MAX_TOTAL_VARIATION and agreement >= MIN_AGREEMENT
        told.append(
            f"{name}: {speedup:.2f} times as fast, total variation {variation:.4f}, agreement {agreement:.4f}"
            + ("" if good else " (refused)")
        )
        if good and speedup >= MIN_SPEEDUP:
            kept[name] = (speedup, variation)
    fastest = max((speedup for speedup, _ in kept.values()), default=1.0)
    near = [name for name, (speedup, _) in kept.items() if speedup * NEAR >= fastest]
    return Decision(
        name="engine for labelling",
        choice=min(near, key=lambda name: kept[name][1], default=REFERENCE),
        reason=f"{'; '.join(sorted(told))}; wanted on {len(wanted)} rows: at most {MAX_TOTAL_VARIATION}, at least "
        f"{MIN_AGREEMENT}, {MIN_SPEEDUP} times as fast as {REFERENCE}; of those near the fastest, the most exact",
        candidates={name: float(np.median(found)) / batch_rows * 1e3 for name, found in times.items()},
        unit="ms per row",
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return result
