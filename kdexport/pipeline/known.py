"""What is known of a project and this machine before any stage has run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from kdexport import purge as purging
from kdexport.dataset import Dataset, read_dataset
from kdexport.measure.environment import cores_allowed, detect, fingerprint
from kdexport.nouns.measurement import Environment
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.student import Recipe, Tuning
from kdexport.nouns.target import Target
from kdexport.project_file import LoadedProject
from kdexport.redaction import errors_without
from kdexport.stages.detect import local_profile
from kdexport.storage.tables import Raw
from kdexport.tasks import Neighbours, Task, load_task
from kdexport.teachers import teacher_kind
from kdexport.teachers._peek import classes_of, embedding_of, tokenizer_of
from kdexport.training.recipe import TransferSet, recipe, transfer_set
from kdexport.workspace import Workspace

if TYPE_CHECKING:
    pass


log = logging.getLogger(__name__)
QualityFrom = Literal["ladder", "known", "prior"]
ProgressFor = Callable[[str], Callable[[int, int, str], None]]
BUILDERS = ("onnx", "openvino", "nncf", "tensorrt")


@dataclass
class Known:
    """What is known of a project and this machine before any stage has run."""

    loaded: LoadedProject
    workspace: Workspace
    progress_for: ProgressFor | None = None
    warnings: list[str] = field(default_factory=list)
    quality_from: QualityFrom = "ladder"  # trained where it is not there yet; "known": only one that is finished
    training_s: dict[str, float] = field(default_factory=dict)  # by the hash of the student's weights
    tuning: Tuning | None = None  # once searched

    @property
    def project(self) -> Project:
        return self.loaded.project

    @cached_property
    def task(self) -> Task:
        return load_task(self.project.task)

    @cached_property
    def dataset(self) -> Dataset:
        found = read_dataset(self.project.data, self.task.input_kind, lambda: classes_of(self.project.teachers[0]))
        self.workspace.record = lambda: purging.record_rows(self.workspace, found)
        return found

    @contextmanager
    def without_texts(self) -> Iterator[None]:
        """Where the project has texts redacted, no error inside shows one, redacted as it is."""
        if not self.project.data.redact:
            yield
            return
        with errors_without(lambda: purging.texts_of(self.__dict__.get("dataset"))):
            yield

    @cached_property
    def environment(self) -> Environment:
        return detect(self.project.threads)

    def environments(self) -> list[Environment]:
        """All that this run folder has met, each as first met: figures refer to them by id."""
        found = self.environment
        self.workspace.stage("environment", 1, found.id, Environment, lambda folder, key: found)
        return self.workspace.results("environment", Environment)

    @cached_property
    def cores(self) -> float:
        """By affinity and quota."""
        return cores_allowed()

    @cached_property
    def training_threads(self) -> int:
        return max(1, int(self.cores))

    @cached_property
    def recipe(self) -> Recipe:
        return recipe(self.project, self.dataset, self.task.input_kind, self.training_threads)

    @cached_property
    def teacher_tokenizer(self) -> str:
        return next((t for t in map(tokenizer_of, self.project.teachers) if t), "")

    @cached_property
    def local(self) -> HardwareProfile:
        return local_profile(self.environment)

    def profile(self, target: Target) -> HardwareProfile:
        return self.loaded.profiles.get(target.id) or self.local

    @cached_property
    def rows(self) -> TransferSet:
        return transfer_set(self.dataset, self.task, self.recipe.augment_per_row, self.neighbours)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Of words, by the embedding of the teacher whose tokenizer the student's is cut from."""
        source = next((t for t in self.project.teachers if tokenizer_of(t)), None)
        embedding = embedding_of(source) if source and self.recipe.augment_per_row else None
        return self.task.near_words(self.dataset.train.inputs, self.teacher_tokenizer, embedding)

    @cached_property
    def vocabulary_inputs(self) -> list[Raw]:
        """What the student's vocabulary is counted on: train rows, and those variants that hold words worth knowing."""
        train, per_row = self.dataset.train.inputs, self.recipe.augment_per_row
        variants = self.rows.inputs[len(train) : len(train) * (1 + per_row)]
        return [*train, *self.task.worth_pieces(variants, per_row, self.neighbours)]

    @property
    def builders(self) -> dict[str, str]:
        """The packages that make engines, with their versions."""
        return {name: v for name, v in self.environment.packages.items() if name.startswith(BUILDERS)}

    @cached_property
    def wishes(self) -> list[object]:
        """The project by content: no paths, the teachers and rows by hash, licences left out."""
        passes = {"baselines", "quantisation_aware"}  # made after the plan: switched on later, nothing is planned anew
        project = self.project.model_dump(
            mode="json", exclude={"teachers": True, "data": True, "targets": True, "training": passes}
        )
        return [project, [teacher_key(t) for t in self.project.teachers], self.dataset.sha256]

    def facts(self, target: Target) -> HardwareProfile | None:
        """What is known of a target's device, for keys; None for this machine, which is measured."""
        return self.loaded.profiles.get(target.id)

    @cached_property
    def machine_measured(self) -> list[object]:
        """What a timing here depends on besides the code that is timed; --remeasure changes it."""
        return [fingerprint(self.environment), self.workspace.generation]

    @cached_property
    def machine(self) -> list[object]:
        """What bits depend on besides the inputs: threads and ISA."""
        return [self.training_threads, list(self.environment.isa)]

    def _progress(self, name: str) -> Callable[[int, int, str], None] | None:
        return self.progress_for(name) if self.progress_for else None


def teacher_key(source: TeacherSource) -> object:
    """A teacher by its content: no path, and nothing that changes no answer of it."""
    left_out = {"model", "onnx", "scores", "chat", "open_inference", "licence", "weight"}  # by content
    fields = source.model_dump(mode="json", exclude=left_out, exclude_defaults=True)  # a field added later is no change
    if "fit" in fields:
        fields["fit"].pop("base", None)
    return [fields, teacher_kind(source.kind).content(source)]
