"""Teachers: `teachers/KIND.py` makes a TeacherSource of that KIND ready to answer, as a TeacherMember.

Each module offers
    check(source, context): raises what can be known to be wrong with it at once, before minutes of work
    ready(source, context, folder) -> TeacherMember, its files written to `folder`
    content(source) -> hash of all that its answers depend on, told before it is made ready
and, where the member is no ONNX graph,
    answer(source, member, inputs, folder) -> logits (N, C) in the member's class order; folder: the run's `stages`
and, where it answers over HTTP, `cost` (EndpointKind).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from kdexport import registry
from kdexport.dataset import Dataset
from kdexport.errors import BadInput
from kdexport.nouns.endpoint import AskingCost
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.tables import Raw

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TeacherContext:
    """What making a teacher may need to know: the project, its classes, its training rows without dev, its dev rows,
    and the other rows that it will be asked: test rows and queries."""

    project: Project
    classes: tuple[str, ...]
    train_inputs: Sequence[Raw]
    train_labels: np.ndarray | None
    dev_inputs: Sequence[Raw]
    dev_labels: np.ndarray | None
    threads: int
    other_inputs: Sequence[Raw] = ()
    train_weights: np.ndarray | None = None  # how often each training row came in production; None: all alike


def context_of(project: Project, dataset: Dataset, threads: int) -> TeacherContext:
    return TeacherContext(
        project=project,
        classes=dataset.classes,
        train_inputs=dataset.train.inputs,
        train_labels=dataset.train.labels,
        dev_inputs=dataset.dev.inputs,
        dev_labels=dataset.dev.labels,
        threads=threads,
        other_inputs=[*dataset.test.inputs, *dataset.unlabelled, *dataset.query_test],
        train_weights=dataset.train.weights,
    )


class TeacherKind(Protocol):
    def check(self, source: TeacherSource, context: TeacherContext) -> None: ...
    def ready(self, source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember: ...
    def content(self, source: TeacherSource) -> str: ...
    def answer(
        self, source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path
    ) -> np.ndarray: ...


class EndpointKind(Protocol):
    """Of a teacher behind an endpoint: what asking these distinct texts takes, before it is asked."""

    def cost(
        self, source: TeacherSource, context: TeacherContext, texts: Sequence[str], run_folder: Path, probe: bool
    ) -> AskingCost: ...


def endpoint_kind(name: str) -> EndpointKind:
    return cast(EndpointKind, registry.load("teachers", name))


def teacher_kind(name: str) -> TeacherKind:
    return cast(TeacherKind, registry.load("teachers", name))


def member_of(given: TeacherSource, /, **fields: Any) -> TeacherMember:
    """A TeacherMember of these fields, and of what the project file says in the same way for each kind."""
    return TeacherMember(weight=given.weight, seen_dev="train" in given.trained_on, licence=given.licence, **fields)


def columns_for(member_classes: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """For each project class its column in the teacher's output, mapped by name.

    Raises BadInput where the teacher does not know a class of the data."""
    index = {name: i for i, name in enumerate(member_classes)}
    unknown = [c for c in classes if c not in index]
    if unknown:
        shown = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        raise BadInput(
            f"{where}: the teacher knows {len(index)} classes and lacks {len(unknown)} of the data's {len(classes)}: "
            f"{shown}; remove those rows, or give 'labels' in the order of the teacher's outputs"
        )
    return [index[c] for c in classes]
