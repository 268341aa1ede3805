"""All stages in order. Knows what depends on what; every key, decision and resume is made here.

A layer a file, each on the one before: known, taught, sized, distilled, measured, compared, whole; verbs.py asks."""

from kdexport.pipeline.known import ProgressFor, QualityFrom
from kdexport.pipeline.taught import LabelsDone, Predictions
from kdexport.pipeline.verbs import (
    Question,
    answers_no,
    calibrate_machine,
    make_labels,
    open_run,
    plan,
    purge,
    run,
    teacher_cost,
)
from kdexport.pipeline.whole import Run

__all__ = [
    "LabelsDone",
    "Predictions",
    "ProgressFor",
    "QualityFrom",
    "Question",
    "Run",
    "answers_no",
    "calibrate_machine",
    "make_labels",
    "open_run",
    "plan",
    "purge",
    "run",
    "teacher_cost",
]
