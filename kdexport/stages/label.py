"""label: the teacher's logits for every row that the student learns from, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdexport.errors import BadInput
from kdexport.teachers._run import Teachers
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels, make_labels

VERSION = 1


def label(
    teachers: Teachers, rows: TransferSet, folder: Path, key: str, progress: Callable[[int, int], None] | None
) -> SoftLabels:
    """Raises BadInput where the teacher is no better than chance on the labelled rows: wrong label order, likely."""
    labels = make_labels(folder, key, rows.inputs, len(teachers.classes), teachers.logits, progress)
    known = rows.hard >= 0
    if not known.any():
        return labels
    right = float((labels.logits[known].argmax(1) == rows.hard[known]).mean())
    chance = 1.0 / len(teachers.classes)
    if right < chance:
        raise BadInput(
            f"the teacher is right on {right:.1%} of the training rows, chance is {chance:.1%}: "
            "are its labels in another order? give 'labels' for the teacher in the project file"
        )
    return labels
