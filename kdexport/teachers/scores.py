"""A teacher that never leaves its team: a JSONL file of scores, one row an input.

`{"text": "...", "scores": {"class": 0.9, ...}}`; pictures: `{"sha256": "...", "scores": {...}}`. Scores are
probabilities where each row is within 0..1 and sums to 1, else logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.errors import BadInput
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import sha256_bytes, sha256_file
from kdexport.storage.tables import Raw
from kdexport.teachers import TeacherContext, columns_for, member_of

if TYPE_CHECKING:
    import numpy as np

SMALLEST_PROBABILITY = 1e-7


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    assert source.scores is not None
    classes = _classes(source, context)
    return member_of(
        source,
        kind="scores",
        name=source.scores.stem,
        classes=classes,
        source=str(source.scores),
        sha256=content(source),
    )


def check(source: TeacherSource, context: TeacherContext) -> None:
    _classes(source, context)


def _classes(source: TeacherSource, context: TeacherContext) -> tuple[str, ...]:
    """Of a file that scores every row of the data for every class. Raises BadInput."""
    assert source.scores is not None
    if context.project.training.augment_per_row:
        raise BadInput(f"{source.scores}: holds no scores of variants; set training.augment_per_row to 0")
    table = _read(source.scores)
    classes = source.labels or tuple(sorted({c for scores in table.values() for c in scores}))
    columns_for(classes, context.classes, str(source.scores))
    _require(table, [*context.train_inputs, *context.dev_inputs, *context.other_inputs], source.scores)
    return classes


def content(source: TeacherSource) -> str:
    assert source.scores is not None
    return sha256_file(source.scores) if source.scores.is_file() else ""


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw]) -> np.ndarray:
    """Raises BadInput for an input that the file has no row for."""
    import numpy as np

    assert source.scores is not None
    table = _read(source.scores)
    _require(table, inputs, source.scores)
    rows = [[table[_key(i)].get(c, 0.0) for c in member.classes] for i in inputs]
    scores = np.array(rows, dtype=np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(1), 1.0, atol=1e-2):
        scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
    return scores.astype(np.float32)


def _key(raw: Raw) -> str:
    return raw if isinstance(raw, str) else sha256_bytes(raw)


def _read(path: Path) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    number = 1  # of a first line that is no text
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):  # noqa: B007 (read where it fails)
                row = json.loads(line)
                key = row["text"] if "text" in row else row["sha256"]
                table[key] = {str(k): float(v) for k, v in row["scores"].items()}
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise BadInput(f'{path}:{number}: a row is {{"text": ..., "scores": {{"class": number}}}} ({e})') from e
    return table


def _require(table: dict[str, dict[str, float]], inputs: Sequence[Raw], path: Path) -> None:
    missing = [i for i in inputs if _key(i) not in table]
    if missing:
        first = str(missing[0])[:60] if isinstance(missing[0], str) else _key(missing[0])
        raise BadInput(
            f"{path}: no scores for {len(missing)} of {len(inputs)} inputs, first: '{first}'; score them too"
        )
