"""teach: make every teacher ready to answer: fitted where the project says so, exported as a graph where it is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdexport.dataset import Dataset
from kdexport.nouns.project import Project
from kdexport.nouns.teacher import TeacherMember, TeacherSet
from kdexport.teachers import context_of, fit, teacher_kind
from kdexport.training.loop import Progress

VERSION = 1


def teach(
    project: Project, dataset: Dataset, threads: int, folder: Path, progress_for: Callable[[str], Progress] | None
) -> TeacherSet:
    """Members in the project's order, each in a folder of its own below `folder`."""
    context = context_of(project, dataset, threads)
    members = []
    for index, source in enumerate(project.teachers):
        own = folder / f"member-{index}"
        own.mkdir(parents=True, exist_ok=True)
        if source.fit is not None:
            progress = progress_for(f"teacher {index + 1} of {len(project.teachers)}") if progress_for else None
            fit.fit(source.fit, context, own, progress)
        members.append(_relative_to(own.name, teacher_kind(source.kind).ready(source, context, own)))
    return TeacherSet(members=tuple(members))


def _relative_to(folder: str, member: TeacherMember) -> TeacherMember:
    files = {
        k: f"{folder}/{v}" for k in ("graph", "plain_graph", "tokenizer", "embedding") if (v := getattr(member, k))
    }
    return member.model_copy(update=files)
