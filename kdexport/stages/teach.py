"""teach: make a teacher ready to answer: fitted where the project says so, exported as a graph where it is one."""

from __future__ import annotations

from pathlib import Path

from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.teachers import TeacherContext, fit, teacher_kind
from kdexport.training.loop import Progress

VERSION = 3
FILES = ("graph", "plain_graph", "tokenizer", "embedding", "question")  # of a member: paths below the stage's folder


def teach(source: TeacherSource, context: TeacherContext, folder: Path, progress: Progress | None) -> TeacherMember:
    if source.fit is not None:
        fit.fit(source.fit, context, folder, progress)
    return teacher_kind(source.kind).ready(source, context, folder)
