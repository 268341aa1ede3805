"""`kdexport init`: guess task and columns, write a commented project file, and check it before it is there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from kdexport import project_file
from kdexport.catalogue import SUFFIXES
from kdexport.doctor import read_project_data
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.base import Noun
from kdexport.nouns.project import Table, TeacherSource
from kdexport.storage.files import replacing
from kdexport.storage.tables import IMAGE_SUFFIXES, InputKind, Rows, read_rows
from kdexport.teachers import columns_for, model
from kdexport.teachers._peek import classes_of

TASKS: dict[InputKind, str] = {"text": "text_classification", "image": "image_classification"}
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LOOKED_AT = 100  # rows by which text is told from paths of pictures
Columns = tuple[str, str | None]
TeacherKind = Literal["model", "onnx", "function", "scores"]


class Started(Noun):
    """What was guessed, for a person to confirm, and what was counted."""

    path: str
    teacher_kind: TeacherKind
    task: str
    input: str
    label: str
    classes: int
    train_rows: int
    dev_rows: int
    test_rows: int
    targets: tuple[str, ...]
    notes: tuple[str, ...] = Field(description="what to look at before the first run")


@dataclass(frozen=True)
class Wishes:
    """The command line, as given. Paths are relative to the current folder."""

    teacher: str
    train: str
    test: str | None = None
    queries: str | None = None
    input: str | None = None
    label: str | None = None
    targets: Sequence[str] = ("local-cpu",)


def initialise(wishes: Wishes, out: Path, force: bool = False) -> Started:
    """Write `out`, whole and correct, or not at all. Raises BadInput for whatever `run` would refuse."""
    if out.exists() and not force:
        raise BadInput(f"{out}: is there already; --force writes over it, --out chooses another name")
    teacher_kind = kind_of_teacher(wishes.teacher)
    kind, rows = _guess_rows(_table_of(wishes, wishes.train))
    for name in wishes.targets:
        project_file.load_target(name, "--target")
    test = read_rows(_table_of(wishes, wishes.test), kind, labelled=True) if wishes.test else rows
    text = _project_text(wishes, out, teacher_kind, TASKS[kind], rows.columns, test.columns)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            project = project_file.load_project(temporary).project
            notes = project_file.refuse_forbidden(project, temporary)
            dataset = read_project_data(project)
            notes += _check_teacher(project.teachers[0], dataset.classes)
        except KdexportError as e:
            raise type(e)(str(e).replace(str(temporary), str(out))) from e
    return Started(
        path=str(out),
        teacher_kind=teacher_kind,
        task=project.task,
        input=rows.columns[0],
        label=str(rows.columns[1]),
        classes=len(dataset.classes),
        train_rows=len(dataset.train),
        dev_rows=len(dataset.dev),
        test_rows=len(dataset.test),
        targets=tuple(wishes.targets),
        notes=(*notes, *dataset.warnings),
    )


def _table_of(wishes: Wishes, path: str) -> Table:
    return Table(path=path, input=wishes.input, label=wishes.label)


def kind_of_teacher(teacher: str) -> TeacherKind:
    """By what is there; by the name alone for a function. Raises BadInput."""
    path = Path(teacher)
    if path.is_dir():
        if not any((path / name).is_file() for name in ("config.json", "spec.json")):
            raise BadInput(f"{teacher}: no config.json in it; a teacher folder is a Hugging Face sequence classifier")
        return "model"
    if path.suffix in (".onnx", ".jsonl"):
        if not path.is_file():
            raise BadInput(f"{teacher}: no such file")
        return "onnx" if path.suffix == ".onnx" else "scores"
    if FUNCTION.fullmatch(teacher):
        return "function"
    raise BadInput(
        f"--teacher {teacher}: a model folder, a .onnx file, a .jsonl file of scores, or module:function is wanted"
        + ("" if path.exists() else "; there is no such file or folder")
    )


def _guess_rows(table: Table) -> tuple[InputKind, Rows]:
    """Pictures where the file says so or holds paths of pictures, else text."""
    if Path(table.path).is_dir():
        return "image", read_rows(table, "image", labelled=True)
    try:
        rows = read_rows(table, "text", labelled=True)
    except BadInput as not_text:
        try:
            return "image", read_rows(table, "image", labelled=True)
        except BadInput:
            raise not_text from None
    if all(Path(str(raw)).suffix.lower() in IMAGE_SUFFIXES for raw in rows.inputs[:LOOKED_AT]):
        return "image", read_rows(table, "image", labelled=True)
    return "text", rows


def _check_teacher(source: TeacherSource, classes: Sequence[str]) -> list[str]:
    """What a person must add. Raises BadInput or Unsupported for a model folder that cannot teach these classes."""
    if source.kind == "onnx":
        return ["an ONNX teacher's outputs have no names: if they are not the sorted classes, write labels, in order"]
    if source.model is None:
        return []
    if (source.model / "config.json").is_file():
        model.read_config(source.model)
    names = classes_of(source)
    if names and all(name.startswith("LABEL_") for name in names):
        return ["the teacher's outputs are named LABEL_0, LABEL_1, ...: write their class names, in order, as labels"]
    columns_for(names, classes, str(source.model))
    return []


def _project_text(
    wishes: Wishes, out: Path, teacher_kind: TeacherKind, task: str, columns: Columns, test_columns: Columns
) -> str:
    teacher = wishes.teacher if teacher_kind == "function" else _beside(wishes.teacher, out)
    targets = ", ".join(_quoted(_target(t, out)) for t in wishes.targets)
    lines = [
        "# Written by `kdexport init`. Paths are relative to this file; ${NAME} is replaced from the environment.",
        f"name: {_quoted(_name(out))}",
        _line(f"task: {task}", "guessed from the rows of train"),
        _line("teachers:", "several make an ensemble, each with a `weight`"),
        f"  - {teacher_kind}: {_quoted(teacher)}",
        _line("    # labels: [first, second]", "class names in the order of the outputs, where the model has none"),
        _line("    trained_on: [train]", "rows that the teacher has seen: train, test"),
        '    licence: {distillation: unknown, source: ""}  # allowed or forbidden, and the clause that says so',
        _line("data:", "the columns are guessed: look at them"),
        f"  train: {_table(wishes.train, columns, out)}",
        _line("  # test: {path: test.csv}", "without it a tenth of train is held out")
        if wishes.test is None
        else f"  test: {_table(wishes.test, test_columns, out)}",
        _line("  # queries: [{path: log.jsonl}]", "production requests, unlabelled: the distribution that counts")
        if wishes.queries is None
        else f"  queries: [{{path: {_quoted(_beside(wishes.queries, out))}}}]",
        _line("  # unlabelled: [{path: more.txt}]", "further inputs that the teacher will label"),
        _line(f"targets: [{targets}]", "see them all: kdexport targets list"),
        _line("min_retention: 0.97", "the student's quality over the teacher's"),
        _line("# gate: lower_bound", "judge by the interval's lower end, not by the point"),
        _line("# prefer: quality", "the best student within the limits, not the cheapest that is good enough"),
        _line("# max_params: 1000000", "at most so many numbers in the student"),
        _line("# metric: {name: macro_f1}", "accuracy where nothing is said"),
        _line("# threads: 1", "of every engine"),
    ]
    return "\n".join(lines) + "\n"


def _table(path: str, columns: Columns, out: Path) -> str:
    """In YAML; a folder per class has no columns."""
    named = "" if Path(path).is_dir() else f", input: {_quoted(columns[0])}, label: {_quoted(str(columns[1]))}"
    return f"{{path: {_quoted(_beside(path, out))}{named}}}"


def _line(text: str, comment: str) -> str:
    return f"{text:<36}# {comment}" if len(text) < 36 else f"{text}  # {comment}"


def _target(name: str, out: Path) -> str:
    return _beside(name, out) if name.endswith(SUFFIXES) else name


def _beside(path: str, out: Path) -> str:
    """Relative to the project file where it is below it, else absolute."""
    base = out.parent.resolve()
    whole = Path(path).resolve()
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else os.fspath(whole)


def _quoted(text: str) -> str:
    """As YAML, in quotes only where YAML needs them."""
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", text) and re.match(r"[A-Za-z_/]|\.\.?/", text)
    return text if plain and text not in ("true", "false", "null", "yes", "no") else json.dumps(text)


def _name(out: Path) -> str:
    """The folder's name, as a project may be called."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", out.resolve().parent.name).lstrip("-._")
    return name or "project"
