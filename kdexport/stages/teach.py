"""teach: make every teacher ready to answer: fitted where the project says so, exported as a graph where it is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdexport.dataset import Dataset
from kdexport.errors import BadInput
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.teacher import TeacherMember, TeacherSet
from kdexport.teachers import TeacherContext, fit, teacher_kind
from kdexport.training.loop import Progress

VERSION = 1


def teach(
    project: Project, dataset: Dataset, threads: int, folder: Path, progress_for: Callable[[str], Progress] | None
) -> TeacherSet:
    """Members in the project's order, each in a folder of its own below `folder`."""
    context = _context(project, dataset, threads)
    members = []
    for index, source in enumerate(project.teachers):
        own = folder / f"member-{index}"
        own.mkdir(parents=True, exist_ok=True)
        if source.fit is not None:
            progress = progress_for(f"teacher {index + 1} of {len(project.teachers)}") if progress_for else None
            fit.fit(source.fit, context, own, progress)
        members.append(_relative_to(own.name, teacher_kind(source.kind).ready(source, context, own)))
    return TeacherSet(members=tuple(members))


def check(source: TeacherSource, project: Project, dataset: Dataset, threads: int) -> None:
    """Raises what is wrong with a teacher and can be told at once: before the machine is calibrated, and before
    the first of several is fitted for an hour."""
    if source.fit and dataset.train.labels is None:
        raise BadInput("a teacher cannot be fitted on unlabelled data; data.labelled is false")
    teacher_kind(source.kind).check(source, _context(project, dataset, threads))


def _context(project: Project, dataset: Dataset, threads: int) -> TeacherContext:
    return TeacherContext(
        project=project,
        classes=dataset.classes,
        train_inputs=dataset.train.inputs,
        train_labels=dataset.train.labels,
        dev_inputs=dataset.dev.inputs,
        dev_labels=dataset.dev.labels,
        threads=threads,
    )


def _relative_to(folder: str, member: TeacherMember) -> TeacherMember:
    files = {
        k: f"{folder}/{v}" for k in ("graph", "plain_graph", "tokenizer", "embedding") if (v := getattr(member, k))
    }
    return member.model_copy(update=files)
