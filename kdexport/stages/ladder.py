"""ladder: a few students on short complete schedules, under a budget, before any full training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kdexport.backbones import InputShape, backbone_of, parse_spec
from kdexport.dataset import Dataset
from kdexport.errors import Damaged
from kdexport.nouns.ladder import Ladder, Rung
from kdexport.nouns.metric import Metric
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.sizing.ladder import better_half, climb, training_seconds
from kdexport.storage.files import content_key, read_json, write_json
from kdexport.tasks import Prepared, Task
from kdexport.training.loop import Progress
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum, shortened, train_student

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
VERSION = 3


@dataclass(frozen=True)
class Schooling:
    """How a rung is trained: everything that the full training of its student would use."""

    prepared_of: Callable[[StudentSpec], Prepared]
    embedding_of: Callable[[Prepared], np.ndarray | None]  # the teacher's (V, D), trimmed
    bf16_of: Callable[[StudentSpec], bool]
    rows: TransferSet
    labels: SoftLabels
    dataset: Dataset
    task: Task
    metric: Metric
    recipe: Recipe


def ladder(
    specs: Sequence[StudentSpec],
    shape: InputShape,
    schooling: Schooling,
    teacher_dev_quality: float | None,
    budget_seconds: float,
    folder: Path,
    progress: Progress | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Ladder:
    """Each finished rung is a file in `folder`: a killed ladder goes on with the next. teacher_dev_quality: None where
    the teacher has seen the dev rows. clock: seconds, what the budget is counted in.

    At least one rung is trained, whatever the budget. Which rungs fit it depends on the clock; what each of them
    finds does not, given seed, threads and ISA."""
    num_params, full_seconds = costs(specs, shape, schooling)
    steps = schooling.recipe.epochs * len(schooling.rows.inputs) / schooling.recipe.batch_size
    planned = climb(specs, num_params, full_seconds, steps, budget_seconds)
    log.info(
        "ladder students=%d shares=%s hours=%.3f (estimated within a factor of three) budget_hours=%.3f",
        len(planned.first), ",".join(f"1/{1 / s:g}" for s in planned.shares), planned.seconds / 3600,
        budget_seconds / 3600,
    )  # fmt: skip
    rungs: list[Rung] = []
    complete = True
    spending = _Spending(budget_seconds, clock)
    climbing = [specs[i] for i in planned.first]
    expected = {specs[i].model_dump_json(): float(full_seconds[i]) for i in planned.first}
    for share in planned.shares:
        wanted = [(spec, expected[spec.model_dump_json()] * share) for spec in climbing]
        found = list(_round(wanted, share, schooling, spending, folder, progress))
        rungs += found
        complete = complete and (len(found) == len(wanted) or share != planned.shares[0])
        if len(found) < len(wanted) or len(found) < 2:
            break
        climbing = [parse_spec(rung.spec) for rung in better_half(found)]
    return Ladder(
        rungs=tuple(rungs),
        teacher_dev_quality=teacher_dev_quality,
        dev_rows=len(schooling.dataset.dev),
        complete=complete,
        seconds=spending.spent_s,
        budget_seconds=budget_seconds,
    )


def costs(specs: Sequence[StudentSpec], shape: InputShape, schooling: Schooling) -> tuple[np.ndarray, np.ndarray]:
    """(parameters, estimated seconds of a full training) of each spec, float64 (N,)."""
    import numpy as np

    recipe, classes = schooling.recipe, len(schooling.dataset.classes)
    seen = len(schooling.rows.inputs) * recipe.epochs
    found = [backbone_of(spec).cost(spec, classes, shape) for spec in specs]
    seconds = [training_seconds(c.flops, seen, recipe.batch_size, recipe.threads) for c in found]
    return np.array([c.num_params for c in found], dtype=np.float64), np.array(seconds)


@dataclass
class _Spending:
    """Seconds spent, and how far the estimates were off so far."""

    budget_s: float
    clock: Callable[[], float]
    spent_s: float = 0.0
    expected_s: float = 0.0

    def allows(self, expected_s: float) -> bool:
        off = self.spent_s / self.expected_s if self.expected_s else 1.0
        return self.spent_s == 0 or self.spent_s + off * expected_s <= self.budget_s

    def add(self, rung: Rung, expected_s: float) -> None:
        self.spent_s += rung.seconds
        self.expected_s += expected_s


def _round(
    wanted: Sequence[tuple[StudentSpec, float]],
    share: float,
    schooling: Schooling,
    spending: _Spending,
    folder: Path,
    progress: Progress | None,
) -> Iterator[Rung]:
    """The rungs of one share that the budget allows; wanted: each student with its estimated seconds."""
    for number, (spec, expected_s) in enumerate(wanted, 1):
        if not spending.allows(expected_s):
            log.info("ladder share=%.4f stopped after=%d of=%d: budget spent", share, number - 1, len(wanted))
            return
        told = _told(progress, f"rung {number}/{len(wanted)} at {share:.3g}")
        rung = _rung(spec, share, schooling, spending.clock, folder, told)
        spending.add(rung, expected_s)
        log.info("rung=%s share=%.4f dev=%.4f seconds=%.1f", spec.backbone, share, rung.dev_quality, rung.seconds)
        yield rung


def _told(progress: Progress | None, which: str) -> Progress | None:
    return (lambda done, total, word: progress(done, total, f"{which}, {word}")) if progress else None


def _rung(
    spec: StudentSpec,
    share: float,
    schooling: Schooling,
    clock: Callable[[], float],
    folder: Path,
    progress: Progress | None,
) -> Rung:
    name = content_key(spec, share)[:12]
    path, checkpoint = folder / f"rung-{name}.json", folder / f"checkpoint-{name}.safetensors"
    if path.is_file():
        return _read(path)
    import torch  # noqa: F401 (loaded before the clock starts)

    bf16 = schooling.bf16_of(spec)
    started = clock()
    rows, labels, recipe, exact_share = shortened(schooling.rows, schooling.labels, schooling.recipe, share)
    prepared = schooling.prepared_of(spec)
    curriculum = Curriculum(
        prepared, rows, labels, schooling.dataset, schooling.task, schooling.metric, recipe,
        schooling.embedding_of(prepared), bf16,
    )  # fmt: skip
    trained = train_student(spec, curriculum, checkpoint, progress)
    from kdexport.backbones import count_params

    rung = Rung(
        spec=spec.model_dump(),
        num_params=count_params(trained.module),
        schedule_share=exact_share,
        dev_quality=trained.history.dev_quality[-1],
        seconds=round(clock() - started, 3),
    )
    write_json(path, rung)
    checkpoint.unlink(missing_ok=True)  # not before the rung is there
    return rung


def _read(path: Path) -> Rung:
    try:
        return Rung.model_validate(read_json(path))
    except ValidationError as e:
        raise Damaged(
            f"{path}: not a rung of this version ({e.errors()[0]['msg']}); delete it, it is made again"
        ) from e
