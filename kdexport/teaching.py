"""`kdexport teacher fit`: a base model, fine-tuned on labelled text, as a Hugging Face folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from kdexport.dataset import Dataset, Split, read_dataset
from kdexport.errors import BadInput
from kdexport.measure.environment import cores_allowed
from kdexport.nouns.base import Noun
from kdexport.nouns.bench import Quality
from kdexport.nouns.project import Data, Fit, Project, TeacherSource
from kdexport.nouns.target import LOCAL
from kdexport.nouns.teacher import TeacherSet
from kdexport.storage.files import content_key, read_json, write_json
from kdexport.teachers import TeacherContext, context_of, fit, model
from kdexport.teachers._run import Teachers
from kdexport.training.loop import Progress

FITTED = "fitted.json"  # beside the weights: what was measured, and the key of what it was fitted from
ProgressFor = Callable[[str], Progress]


class FittedTeacher(Noun):
    """Qualities are measured: the folder read back, exported and asked like any teacher."""

    path: str
    base: str
    classes: int
    train_rows: int
    dev_rows: int = Field(description="held out of training, by content: the same rows that a project holds out")
    test_rows: int
    dev: Quality
    test: Quality
    seconds: float
    warnings: tuple[str, ...] = ()


def fit_teachers(settings: Fit, data: Data, out: Path, progress_for: ProgressFor | None = None) -> list[FittedTeacher]:
    """A teacher for each of the seeds, as `out`/seed-N: members of an ensemble, dev held out of each by content.

    One that the same command has finished before is not fitted again. Raises BadInput where its folder holds anything
    else."""
    found = []
    for seed in settings.seeds:
        own = settings.model_copy(update={"seed": seed, "seeds": ()})
        path = out / f"seed-{seed}"
        progress = progress_for(path.name) if progress_for else None
        found.append(_finished(own, data, path) or fit_teacher(own, data, path, progress))
    return found


def _finished(settings: Fit, data: Data, path: Path) -> FittedTeacher | None:
    if not (path / FITTED).is_file():
        return None
    document = read_json(path / FITTED)
    same = document["key"] == _key(settings, read_dataset(data, "text", tuple))
    return FittedTeacher.model_validate(document["result"]) if same else None


def _key(settings: Fit, dataset: Dataset) -> str:
    base = fit.content(TeacherSource(fit=settings))  # the path alone does not tell which model lies there
    return content_key(settings, base, dataset.sha256)


def fit_teacher(settings: Fit, data: Data, out: Path, progress: Progress | None = None) -> FittedTeacher:
    """Train, prove that the result reads back, and only then put it at `out`. A killed fit goes on where it was.

    Raises BadInput where `out` is taken."""
    if out.exists():
        raise BadInput(f"{out}: is there already; choose another --out, or remove it")
    started = time.monotonic()
    dataset = read_dataset(data, "text", tuple)
    context = _context(settings, data, dataset)
    fit.check(context.project.teachers[0], context)
    key = _key(settings, dataset)  # other settings must not go on from this checkpoint
    work = out.parent / f".{out.name}.fitting-{key[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    fitted = fit.fit(settings, context, work, progress)
    source = TeacherSource(model=fitted, trained_on=())
    member = model.ready(source, context, work)
    teachers = Teachers(TeacherSet(members=(member,)), [source], work, dataset.classes, context.threads)
    result = FittedTeacher(
        path=str(out),
        base=str(settings.base),
        classes=len(dataset.classes),
        train_rows=len(dataset.train),
        dev_rows=len(dataset.dev),
        test_rows=len(dataset.test),
        dev=_accuracy(teachers, dataset.dev),
        test=_accuracy(teachers, dataset.test),
        seconds=time.monotonic() - started,
        warnings=dataset.warnings,
    )
    write_json(fitted / FITTED, {"key": key, "result": result})
    out.parent.mkdir(parents=True, exist_ok=True)
    fitted.rename(out)
    shutil.rmtree(work)
    return result


def _context(settings: Fit, data: Data, dataset: Dataset) -> TeacherContext:
    assert dataset.train.labels is not None
    assert dataset.dev.labels is not None
    source = TeacherSource(fit=settings)
    project = Project(name="teacher", task="text_classification", teachers=(source,), data=data, targets=(LOCAL,))
    return context_of(project, dataset, max(1, int(cores_allowed())))


def _accuracy(teachers: Teachers, split: Split) -> Quality:
    from kdexport.measure.statistics import wilson

    assert split.labels is not None
    right = int((teachers.logits(split.inputs).argmax(1) == split.labels).sum())
    return Quality(metric="accuracy", value=right / len(split), ci95=wilson(right, len(split)), n=len(split))
