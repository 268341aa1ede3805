"""`kdexport teacher select`: a project's teachers and their ensembles compared, by what a small student learns too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport import project_file
from kdexport.backbones import backbone_of
from kdexport.nouns.base import Noun
from kdexport.nouns.selection import Candidate, Labelling, Selection
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.pipeline import LabelsDone, ProgressFor, Run, open_run
from kdexport.sizing.ladder import training_seconds
from kdexport.sizing.quality import predict
from kdexport.stages import select
from kdexport.storage.files import replacing
from kdexport.storage.tables import Raw
from kdexport.tasks import Asked
from kdexport.teachers._doubts import doubts
from kdexport.training import soft_labels
from kdexport.training.loop import Progress
from kdexport.training.recipe import AUGMENTATION, TransferSet
from kdexport.training.student import Curriculum

if TYPE_CHECKING:
    import numpy as np

    from kdexport.training.soft_labels import SoftLabels

log = logging.getLogger(__name__)


class Taught(Noun):
    """seconds: measured, of one student's training."""

    seconds: float


def select_teacher(
    project: str | Path,
    out: str | Path = "kdexport-run",
    *,
    students: bool = True,
    progress_for: ProgressFor | None = None,
    on_stage: Callable[[str, float, bool], None] | None = None,
) -> Selection:
    """Every teacher and every sensible ensemble on dev rows and production queries; students: one small student is
    taught by each, on the same rows. The test rows are not touched. Killed, it goes on where it was."""
    run = open_run(Path(project), Path(out), progress_for, on_stage)
    with run.workspace.locked(), run.without_texts():
        project_file.check(run.loaded, run.dataset)
        for cost_of_asking in run.asking_costs():
            log.warning("%s", cost_of_asking.told())
        return _Choice(run).selection(students)


@dataclass
class _Choice:
    run: Run

    def selection(self, students: bool) -> Selection:
        run = self.run
        found, warnings = self.candidates, list(run.warnings)
        labelled = run.dataset.dev.labels is not None
        if students and not labelled:
            warnings.append("no student is taught: without labels there is nothing to judge it by")
        taught = students and labelled
        if taught:
            found = self._with_students(found)
        name, sentence = select.recommend(found, run.project.metric)
        rows, recipe = self.lesson
        on_queries = bool(run.dataset.query_test)
        return Selection(
            project=run.project.name,
            dev_rows=len(run.dataset.dev),
            agreement_rows=len(run.dataset.query_test) if on_queries else len(run.dataset.dev),
            agreement_on="production queries" if on_queries else "dev rows",
            student_spec=self.spec.model_dump() if taught else None,
            student_params=self._size(self.spec)[0] if taught else None,
            student_rows=len(rows) if taught else None,
            student_epochs=recipe.epochs if taught else None,
            candidates=tuple(found),
            recommended=name,
            sentence=sentence,
            warnings=(*warnings, *run.dataset.warnings, *self._doubts),
        )

    def _progress(self, name: str) -> Progress | None:
        return self.run.progress_for(name) if self.run.progress_for else None

    # --- teachers

    @cached_property
    def contenders(self) -> list[select.Contender]:
        run, members = self.run, self.run.members.members
        dev, queries = ([run.member_answers(i, split) for i in range(len(members))] for split in ("dev", "queries"))
        return select.contenders(members, dev, queries, run.dataset, run.project.ensemble)

    @cached_property
    def candidates(self) -> list[Candidate]:
        run, everyone = self.run, self.contenders
        members, metric = run.members.members, run.project.metric
        return [select.judge(c, everyone, members, run.dataset, metric, self._labelling(c)) for c in everyone]

    @property
    def _doubts(self) -> list[str]:
        members = self.run.members.members
        dev = [c.dev for c in self.contenders[: len(members)]]
        return doubts(members, dev, self.run.dataset.dev, self.run.dataset.classes)

    def _labelling(self, contender: select.Contender) -> Labelling:
        """Of the whole transfer set, its members one after another."""
        run, rows = self.run, len(self.run.rows.inputs)
        seconds = sum(rows / self._rows_per_s[i] for i in contender.members)
        hour = run.project.training.usd_per_hour
        usd = [v for i in contender.members if (v := self._asking_usd.get(i)) is not None]
        if hour is not None:
            usd.append(seconds / 3600 * hour)
        return Labelling(
            rows=rows, rows_per_s=round(rows / seconds, 2), seconds=round(seconds, 2), usd=sum(usd) if usd else None
        )

    @cached_property
    def _rows_per_s(self) -> list[float]:
        """By member, measured on dev; of a file of scores, which takes no time, a million."""
        asked = [self.run.member_asked(i, "dev") for i in range(len(self.run.members.members))]
        return [min(a.rows / max(a.seconds, 1e-6), 1e6) for a in asked]

    @cached_property
    def _asking_usd(self) -> dict[int, float]:
        """By member: what an endpoint will ask for, estimated by itself."""
        run = self.run
        behind = [i for i, t in enumerate(run.project.teachers) if t.endpoint]
        costs = zip(behind, run.asking_costs(), strict=True)
        return {i: cost.usd.value for i, cost in costs if cost.usd is not None}

    # --- students

    @cached_property
    def lesson(self) -> tuple[np.ndarray, Recipe]:
        return select.short_lesson(self.run.rows, self.run.recipe, self.run.task.input_kind)

    @cached_property
    def spec(self) -> StudentSpec:
        """Of the project's search space the best, by the shipped prior, that is trained in LESSON_SECONDS."""
        import numpy as np

        run = self.run
        specs = run.affordable_specs
        seconds = np.array([self._seconds(spec) for spec in specs])
        quick = [specs[i] for i in np.flatnonzero(seconds <= select.LESSON_SECONDS)] or [specs[int(seconds.argmin())]]
        num_params, flops = np.array([self._size(spec) for spec in quick], dtype=np.float64).T
        side = min(run.sizes.shape.height, run.sizes.shape.width)
        told = predict(None, run.sizes.input_kind, quick, num_params, run.sizes.teacher_params, flops, side)
        return quick[int(told.value.argmax())]

    def _size(self, spec: StudentSpec) -> tuple[int, float]:
        """(parameters, FLOPs of a row)."""
        cost = backbone_of(spec).cost(spec, self.run.sizes.num_classes, self.run.sizes.shape)
        return cost.num_params, cost.flops

    def _seconds(self, spec: StudentSpec) -> float:
        rows, recipe = self.lesson
        return training_seconds(self._size(spec)[1], len(rows) * recipe.epochs, recipe.batch_size, recipe.threads)

    def _with_students(self, candidates: list[Candidate]) -> list[Candidate]:
        run, rows = self.run, self.lesson[0]
        members = range(len(run.members.members))
        seconds = self._seconds(self.spec)
        price = run.project.training.usd_per_hour
        log.warning("%s", select.told_cost(len(rows), self._rows_per_s, seconds, len(candidates), price))
        some = run.rows.take(rows)
        labels = [self._member_labels(i, Asked(some.inputs)) for i in members]
        taught = [self._taught(number, some, labels) for number in range(len(candidates))]
        logits, took = [t[0] for t in taught], [t[1] for t in taught]
        return select.with_lessons(candidates, logits, took, run.dataset, run.project.metric)

    def _member_labels(self, index: int, inputs: Sequence[Raw]) -> SoftLabels:
        run, member = self.run, self.run.members.members[index]
        name, key = f"select-labels-{index + 1}", [member.sha256, member.classes, *self._rows_key]
        progress = self._progress(name)
        tell = (lambda done, total: progress(done, total, "")) if progress else None

        def make(folder: Path, key: str) -> LabelsDone:
            opened = run.opened(run.members)
            made = soft_labels.make_labels(
                folder, key, inputs, len(run.dataset.classes), lambda raws: opened.member_logits(index, raws), tell
            )
            return LabelsDone(key=key, rows=len(made))

        done = run.workspace.stage(name, select.VERSION, key, LabelsDone, make)
        return soft_labels.open_labels(run.workspace.folder_of(name, select.VERSION, key), done.key)

    @property
    def _rows_key(self) -> list[object]:
        run, (rows, recipe) = self.run, self.lesson
        versions = [AUGMENTATION, soft_labels.FORMAT]
        return [run.dataset.sha256, run.dataset.classes, recipe, len(rows), versions, run.machine]

    def _taught(self, number: int, some: TransferSet, labels: list[SoftLabels]) -> tuple[np.ndarray, float]:
        """One candidate's student: its logits on dev and the seconds it took."""
        from safetensors.numpy import load_file, save_file

        run, contender = self.run, self.contenders[number]
        mix = contender.combination.numbers if contender.combination else None
        hashes = [run.members.members[i].sha256 for i in contender.members]
        key = [hashes, mix, self.spec, run.project.metric, *self._rows_key]
        name = "select-student"

        def make(folder: Path, key: str) -> Taught:
            prepared = run.prepared(self.spec)
            curriculum = Curriculum(
                prepared, some, select.as_one(contender, labels), run.dataset, run.task, run.project.metric,
                self.lesson[1], run.embedding(prepared), bf16=False,  # no trial costs less
            )  # fmt: skip
            told = self._progress(f"student of {contender.name}")
            logits, seconds = select.teach_student(self.spec, curriculum, folder / "checkpoint.safetensors", told)
            with replacing(folder / "logits.safetensors") as temporary:
                save_file({"dev": logits}, temporary)
            return Taught(seconds=round(seconds, 3))

        made = run.workspace.stage(name, select.VERSION, key, Taught, make)
        folder = run.workspace.folder_of(name, select.VERSION, key)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return load_file(folder / "logits.safetensors")["dev"], made.seconds
