"""A teacher that never leaves its team: a JSONL file of scores, one row an input.

`{"text": "...", "scores": {"class": 0.9, ...}}`; pictures: `{"sha256": "...", "scores": {...}}`. The whole file holds
probabilities where every row is within 0..1 and sums to 1, else logits. A class that a row leaves out has probability
0; as a logit it cannot be left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.errors import BadInput
from kdexport.nouns.project import Redact, TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.redaction import redact as redacted
from kdexport.redaction import rules_of
from kdexport.storage.files import content_key, sha256_bytes, sha256_file
from kdexport.storage.tables import Raw
from kdexport.teachers import TeacherContext, columns_for, member_of

if TYPE_CHECKING:
    import numpy as np

SMALLEST_PROBABILITY = 1e-7
SUM_TOLERANCE = 1e-2  # scores are often written with few digits
READING = 2  # how numbers become logits: a part of the hash, so that answers read in another way are asked again


@dataclass(frozen=True)
class Scores:
    """A whole file. rows: scores by class, of each text or picture's hash; lines: where a row stands, from 1."""

    rows: dict[str, dict[str, float]]
    lines: dict[str, int]
    are_probabilities: bool


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
    found = _read(source.scores, context.project.data.redact)
    classes = source.labels or tuple(sorted({c for scores in found.rows.values() for c in scores}))
    columns_for(classes, context.classes, str(source.scores))
    _require(found, [*context.train_inputs, *context.dev_inputs, *context.other_inputs], classes, source.scores)
    return classes


def content(source: TeacherSource) -> str:
    assert source.scores is not None
    return content_key(READING, sha256_file(source.scores)) if source.scores.is_file() else ""


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    """Raises BadInput for an input that the file has no row for, or a row of logits that lacks a class."""
    import numpy as np

    assert source.scores is not None
    found = _read(source.scores, member.redact)
    _require(found, inputs, member.classes, source.scores)
    rows = [[found.rows[_key(i)].get(c, 0.0) for c in member.classes] for i in inputs]
    scores = np.array(rows, dtype=np.float64)
    if found.are_probabilities:
        scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
    return scores.astype(np.float32)


def _key(raw: Raw) -> str:
    return raw if isinstance(raw, str) else sha256_bytes(raw)


def _read(path: Path, redact: tuple[Redact, ...]) -> Scores:
    """Parsed once in a process, as long as the file does not change. Its texts are redacted as the project's are."""
    try:
        state = path.stat()
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    return _parsed(path, state.st_mtime_ns, state.st_size, redact)


@lru_cache(maxsize=4)  # of an ensemble each member's file is asked in turn
def _parsed(path: Path, mtime_ns: int, size: int, redact: tuple[Redact, ...]) -> Scores:
    rules = rules_of(redact)
    rows: dict[str, dict[str, float]] = {}
    lines: dict[str, int] = {}
    number = 1  # of a first line that is no text
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                row = json.loads(line)
                key = redacted(row["text"], rules)[0] if "text" in row else row["sha256"]
                rows[key] = {str(k): float(v) for k, v in row["scores"].items()}
                lines[key] = number
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise BadInput(f'{path}:{number}: a row is {{"text": ..., "scores": {{"class": number}}}} ({e})') from e
    return Scores(rows, lines, all(_is_distribution(scores) for scores in rows.values()))


def _is_distribution(scores: dict[str, float]) -> bool:
    return all(0 <= v <= 1 for v in scores.values()) and abs(sum(scores.values()) - 1) <= SUM_TOLERANCE


def _require(found: Scores, inputs: Sequence[Raw], classes: Sequence[str], path: Path) -> None:
    """Raises BadInput for an input without a row, or a row of logits without a class."""
    missing = [i for i in inputs if _key(i) not in found.rows]
    if missing:
        first = str(missing[0])[:60] if isinstance(missing[0], str) else _key(missing[0])
        raise BadInput(
            f"{path}: no scores for {len(missing)} of {len(inputs)} inputs, first: '{first}'; score them too"
        )
    if found.are_probabilities:
        return
    for key in map(_key, inputs):
        lacking = next((c for c in classes if c not in found.rows[key]), None)
        if lacking is not None:
            raise BadInput(
                f"{path}:{found.lines[key]}: no score for class '{lacking}'; a class may be left out of probabilities "
                "only, and not every row here is within 0..1 and sums to 1, so these are logits: score every class"
            )
