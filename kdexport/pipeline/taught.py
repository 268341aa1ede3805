"""Teachers, made ready and combined, their answers to every row, and what a student needs to learn from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdexport.dataset import Dataset, split_sha256
from kdexport.errors import Damaged
from kdexport.measure.metrics import fit_threshold, score
from kdexport.nouns.base import Noun
from kdexport.nouns.endpoint import AskingCost
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.nouns.teacher import Combination, TeacherMember, TeacherSet
from kdexport.stages import (
    bench,
    distil,
    ensemble,
    label,
    teach,
)
from kdexport.storage.files import content_key, read_json, replacing, sha256_file, write_json
from kdexport.tasks import Asked, Prepared
from kdexport.teachers import context_of, endpoint_kind
from kdexport.teachers._answers import answers_of, open_answers
from kdexport.teachers._peek import tokenizer_of
from kdexport.training import soft_labels
from kdexport.training.recipe import AUGMENTATION
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum

if TYPE_CHECKING:
    import numpy as np

    from kdexport.teachers._run import Teachers

from kdexport.pipeline.known import Known, teacher_key

log = logging.getLogger(__name__)


class Taught(Known):
    """Teachers, made ready and combined, their answers to every row, and what a student needs to learn from them."""

    @cached_property
    def teachers(self) -> TeacherSet:
        """All members, each a stage of its own, and how several answer as one; paths are relative to `teach_folder`.
        Licence, weight and source are the project's: they may change without a new teacher."""
        found = self.members
        return found.model_copy(update={"combination": self._combination}) if len(found.members) > 1 else found

    @cached_property
    def members(self) -> TeacherSet:
        """Each by itself, not yet combined."""
        return TeacherSet(members=tuple(self._teacher(i, t) for i, t in enumerate(self.project.teachers)))

    @cached_property
    def _combination(self) -> Combination:
        """Before anything is labelled: what is labelled depends on it."""
        members = self.members.members
        known = [(m.sha256, m.weight, m.classes, m.seen_dev) for m in members]
        return self.workspace.stage(
            "ensemble",
            ensemble.VERSION,
            [known, self.dataset.sha256, self.dataset.classes, self.project.ensemble, self.machine],
            Combination,
            lambda folder, key: ensemble.ensemble(
                members,
                [self.member_answers(i, "dev") for i in range(len(members))],
                self.dataset.dev,
                self.dataset.classes,
                self.project.ensemble,
            ),
        )

    def member_answers(self, index: int, split: Literal["dev", "queries"]) -> np.ndarray:
        """One member's logits (N, C) for the dev rows or the held-out queries."""
        from safetensors.numpy import load_file

        self.member_asked(index, split)
        folder = self.workspace.folder_of(*self._asking(index, split))
        return load_file(folder / "logits.safetensors")["logits"]

    def member_asked(self, index: int, split: Literal["dev", "queries"]) -> MemberAsked:
        """Asked once, alone, and timed."""

        def make(folder: Path, key: str) -> MemberAsked:
            from safetensors.numpy import save_file

            raws = self.dataset.dev.inputs if split == "dev" else self.dataset.query_test
            teachers = self.opened(self.members)
            teachers.member_logits(index, raws[:1])  # opens what is opened on a first call
            started = time.perf_counter()
            logits = teachers.member_logits(index, raws)
            seconds = time.perf_counter() - started
            with replacing(folder / "logits.safetensors") as temporary:
                save_file({"logits": logits}, temporary)
            return MemberAsked(rows=len(raws), seconds=round(seconds, 4))

        return self.workspace.stage(*self._asking(index, split), MemberAsked, make)

    def _asking(self, index: int, split: str) -> tuple[str, int, list[object]]:
        """The stage of one member's answers."""
        member = self.members.members[index]
        inputs: list[object] = [member.sha256, member.classes, self.dataset.sha256, self.dataset.classes, self.machine]
        return f"answers-{split}-{index + 1}", 1, inputs

    def _teacher(self, index: int, source: TeacherSource) -> TeacherMember:
        learnt_from = self._labelled_rows_key if source.learns else self.dataset.classes
        inputs = [teacher_key(source), learnt_from, self.project.task, self.machine]
        name = f"teach-{index + 1}"
        made = self.workspace.stage(
            name,
            teach.VERSION,
            inputs,
            TeacherMember,
            lambda folder, key: teach.teach(
                source, context_of(self.project, self.dataset, self.training_threads), folder, self._progress(name)
            ),
        )
        folder = self.workspace.folder_of(name, teach.VERSION, inputs).name
        files = {k: f"{folder}/{v}" for k in teach.FILES if (v := getattr(made, k))}
        return made.model_copy(
            update=files | {"licence": source.licence, "weight": source.weight, "redact": self.project.data.redact}
        )

    @cached_property
    def _labelled_rows_key(self) -> str:
        """Train and dev alone: what a fitted teacher depends on."""
        rows = [
            (split_sha256(s), s.labels.tolist()) for s in (self.dataset.train, self.dataset.dev) if s.labels is not None
        ]
        weights = self.dataset.train.weights
        return content_key(rows, self.dataset.classes, *([] if weights is None else [weights.tolist()]))

    @cached_property
    def teach_inputs(self) -> list[object]:
        """The teachers by content, for keys; of several, how they are combined."""
        members = [(m.sha256, m.weight, m.classes) for m in self.teachers.members]
        combination = self.teachers.combination
        return [*members, combination.numbers] if combination else [*members]

    @property
    def teach_folder(self) -> Path:
        return self.workspace.out / "stages"

    def open_teachers(self) -> Teachers:
        return self.opened(self.teachers)

    def opened(self, teachers: TeacherSet) -> Teachers:
        from kdexport.teachers._run import Teachers

        return Teachers(teachers, self.project.teachers, self.teach_folder, self.dataset.classes, self.training_threads)

    def opened_by(self, engine: str) -> Teachers:
        """The teachers, run by "runtime/precision"; what that builds is kept in the run folder."""
        from kdexport.teachers._run import Teachers, engine_graphs

        built = self.workspace.folder("label-engine", content_key(self.teach_inputs, engine))
        graphs = engine_graphs(self.teachers, self.teach_folder, engine, built)
        runtime = engine.split("/")[0]
        sources, classes = self.project.teachers, self.dataset.classes
        return Teachers(self.teachers, sources, self.teach_folder, classes, self.training_threads, graphs, runtime)

    @cached_property
    def label_engine(self) -> str:
        """What runs the teachers while they label: a decision."""
        cheaper = label.cheaper_engines(self.teachers, self.local)
        if not cheaper:
            return label.REFERENCE
        inputs = [self._labelled, self.machine, self.environment.cpu, self.builders, cheaper]
        decision = self.workspace.decide(
            "label-engine", inputs, lambda: label.decide_engine(self.opened_by, cheaper, self.rows)
        )
        return decision.choice

    @cached_property
    def _labelled(self) -> list[object]:
        """What is labelled, by whom, and stored how."""
        rows = [self.recipe.augment_per_row, AUGMENTATION]
        return [self.teach_inputs, self.dataset.sha256, self.dataset.classes, rows, soft_labels.FORMAT]

    @property
    def imported(self) -> Path:
        """There once labels made elsewhere were taken over; holds their hash."""
        return self.workspace.out / "imported" / f"labels-{content_key(self._labelled)[:12]}.json"

    @cached_property
    def label_inputs(self) -> list[object]:
        """Imported labels are known by their bytes, those made here by the machine and the engine that made them."""
        if self.imported.is_file():
            return [self._labelled, "imported", read_json(self.imported)["sha256"]]
        return [self._labelled, self.machine, self.label_engine]

    @property
    def label_folder(self) -> Path:
        return self.workspace.folder_of("label", label.VERSION, self.label_inputs)

    def labels(self) -> SoftLabels:
        """Soft labels, opened; made chunk by chunk where they are not there yet."""
        made = self.workspace.stage("label", label.VERSION, self.label_inputs, LabelsDone, self._make_labels)
        return soft_labels.open_labels(self.label_folder, made.key)

    @property
    def labels_origin(self) -> dict[str, str]:
        """What labels made elsewhere must have in common with this project's, besides the rows."""
        made_by = {"teacher": content_key(self.teach_inputs), "classes": content_key(self.dataset.classes)}
        return {**made_by, "format": str(soft_labels.FORMAT)}

    def import_labels(self, path: Path) -> SoftLabels:
        """Take labels that were exported elsewhere. Raises StaleCache or Damaged; then nothing is changed here."""
        inputs = [self._labelled, "imported", sha256_file(path)]

        def take(folder: Path, key: str) -> LabelsDone:
            soft_labels.import_labels(path, self.labels_origin, Asked(self.rows.inputs), folder, key)
            found = soft_labels.open_labels(folder, key)
            label.refuse_nonsense(found, self.rows.hard, self.dataset.classes)
            return LabelsDone(key=key, rows=len(found))

        self.workspace.stage("label", label.VERSION, inputs, LabelsDone, take)
        write_json(self.imported, {"sha256": inputs[-1]})
        self.__dict__.pop("label_inputs", None)
        return self.labels()

    def _make_labels(self, folder: Path, key: str) -> LabelsDone:
        progress = self._progress("label")
        tell = (lambda done, total: progress(done, total, "")) if progress else None
        if self.imported.is_file():
            raise Damaged(
                f"{folder}: labels imported from elsewhere are gone; import them again, or delete {self.imported} to "
                "make them here"
            )
        label.label(self.opened_by(self.label_engine), self.rows, folder, key, tell)
        return LabelsDone(key=key, rows=len(self.rows.inputs))

    @cached_property
    def judged(self) -> Dataset:
        """The dataset with labels to be judged by: the true ones, or the teacher's where there are none."""
        dataset = self.dataset
        if dataset.test.labels is not None and dataset.dev.labels is not None:
            return dataset
        found = self.teacher_predictions
        dev, test = (
            split if split.labels is not None else replace(split, labels=logits.argmax(1))
            for split, logits in ((dataset.dev, found.dev), (dataset.test, found.test))
        )
        return replace(dataset, dev=dev, test=test)

    @cached_property
    def teacher_predictions(self) -> Predictions:
        """The teacher's logits on test and dev, asked once."""
        return self._predictions("teacher", self.teach_inputs, lambda raws: self.open_teachers().logits(raws))

    def _predictions(self, name: str, inputs: object, ask: Callable[[Sequence[Any]], np.ndarray]) -> Predictions:
        """Logits on test, and on dev for thresholds, written once."""
        key = [inputs, self.dataset.sha256]

        def make(folder: Path, _: str) -> PredictionsDone:
            import numpy as np
            from safetensors.numpy import save_file

            with replacing(folder / "logits.safetensors") as temporary:
                tensors = {"test": ask(self.dataset.test.inputs), "dev": ask(self.dataset.dev.inputs)}
                if self.dataset.query_test:
                    tensors["queries"] = ask(self.dataset.query_test)
                # safetensors writes the buffer as it lies, whatever the strides
                save_file({name: np.ascontiguousarray(logits) for name, logits in tensors.items()}, temporary)
            return PredictionsDone(rows=len(self.dataset.test))

        self.workspace.stage(f"predict-{name}", 1, key, PredictionsDone, make)
        from safetensors.numpy import load_file

        tensors = load_file(self.workspace.folder_of(f"predict-{name}", 1, key) / "logits.safetensors")
        return Predictions(tensors["test"], tensors["dev"], tensors.get("queries"))

    @property
    def _teacher_dev_quality(self) -> float | None:
        """None where a teacher has seen the dev rows: a retention on them would be flattered."""
        if any(t.fit is None and "train" in t.trained_on for t in self.project.teachers):
            return None
        found, judged, metric = self.teacher_predictions, self.judged, self.project.metric
        assert judged.dev.labels is not None
        weights = bench.weights_of(judged.dev)
        threshold = fit_threshold(metric, found.dev, judged.dev.labels, judged.classes, weights)
        return score(metric, found.dev, judged.dev.labels, judged.classes, threshold, weights) or None

    def prepared(self, spec: StudentSpec) -> Prepared:
        vocab_size = int(getattr(spec, "vocab_size", 0))
        return self.task.prepare(self.vocabulary_inputs, self.teacher_tokenizer, vocab_size)

    def bf16(self, spec: StudentSpec) -> bool:
        """A decision: measured on one batch, before the student's key is made, which holds the choice."""
        decision = self.workspace.decide(
            "training-precision",
            [spec, self.recipe, self.machine, self.environment.cpu],
            lambda: distil.decide_precision(
                spec, self.prepared(spec), self.rows, self.labels(), self.task, len(self.dataset.classes), self.recipe
            ),
        )
        return decision.choice == "bf16"

    def curriculum(self, spec: StudentSpec, recipe: Recipe, bf16: bool) -> Curriculum:
        """All that a student of this project is trained with."""
        prepared = self.prepared(spec)
        return Curriculum(
            prepared,
            self.rows,
            self.labels(),
            self.judged,
            self.task,
            self.project.metric,
            recipe,
            self.embedding(prepared),
            bf16,
        )

    def embedding(self, prepared: Prepared) -> np.ndarray | None:
        """Rows of a teacher's token embedding that the student's vocabulary keeps, (V, D): of the teacher whose
        tokenizer was trimmed, since another's rows mean other pieces."""
        index = next((i for i, t in enumerate(self.project.teachers) if tokenizer_of(t)), None)
        if index is None or not prepared.kept_ids or not self.teachers.members[index].embedding:
            return None
        from safetensors.numpy import load_file

        table = load_file(self.teach_folder / str(self.teachers.members[index].embedding))["embedding"]
        rows: np.ndarray = table[list(prepared.kept_ids)]
        return rows

    def asking_costs(self, probe: bool = False) -> list[AskingCost]:
        """Of every teacher behind an endpoint: what is still to be asked of it. Nothing is asked, unless probe: then up
        to three texts are."""
        sources = [t for t in self.project.teachers if t.endpoint]
        if not sources:
            return []
        rows = [*self.rows.inputs, *self.dataset.dev.inputs, *self.dataset.test.inputs, *self.dataset.query_test]
        texts, context = list(dict.fromkeys(map(str, rows))), context_of(self.project, self.dataset, 1)
        return [endpoint_kind(t.kind).cost(t, context, texts, self.workspace.out, probe) for t in sources]

    @property
    def _endpoint_notes(self) -> list[str]:
        """Of endpoints, in all runs of this folder: what was survived, and what brought no answer."""
        files = [(m, answers_of(self.workspace.out, m)) for m in self.teachers.members if m.question]
        found = [open_answers(path).summary(m.name) for m, path in files]
        return [answers.told() for answers in found if answers.faults or answers.unanswered]

    @property
    def _ensemble_warnings(self) -> tuple[str, ...]:
        combination = self.teachers.combination
        return combination.warnings if combination else ()


class LabelsDone(Noun):
    key: str
    rows: int


class PredictionsDone(Noun):
    rows: int


class MemberAsked(Noun):
    """seconds: measured, to answer that many rows."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class Predictions:
    """logits float32 (N, C) of one model."""

    test: np.ndarray
    dev: np.ndarray
    queries: np.ndarray | None
