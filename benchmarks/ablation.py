"""What each part of the recipe is worth, in points and in seconds: `python -m benchmarks.ablation`.

One student on short complete schedules, the same rows seen each time, three seeds on two data sets; each part is
taken away, or put in, alone. Judged on dev rows: the test sets stay innocent of the recipe. Teachers and labels are
those of benchmarks.quality (--work)."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import quality
from benchmarks._results import environment, write_result
from benchmarks._sets import prepare_environment
from kdexport import pipeline
from kdexport.backbones import parse_spec
from kdexport.measure.calibration import row_nll
from kdexport.nouns.spec import StudentSpec
from kdexport.nouns.student import Recipe
from kdexport.storage.files import read_json, write_json
from kdexport.tasks import Prepared
from kdexport.tasks.text_classification import ROUNDS, rounds
from kdexport.training import loop
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import Curriculum, quality_on_dev, torch_logits, train_student

SETS = {"banking77": 100, "clinc150": 100}  # and the size whose project holds the teacher's labels
SEEDS = (0, 1, 2)
ROWS_SEEN = 120_000
SIZES = {"backbone": "convolution", "embedding_size": 64, "hidden_size": 192, "num_hidden_layers": 1}
GAIN_POINTS = 0.2  # a part stays if it gains so much ...
GAIN_SECONDS = 0.10  # ... or saves such a share of the training time
UNBUCKETED = 1  # batches sorted by length together: none


@dataclass(frozen=True)
class Lesson:
    """All that a training of one variant needs."""

    rows: TransferSet
    labels: SoftLabels
    recipe: Recipe
    embedding: np.ndarray | None
    rounds: tuple[str, ...]  # what was done to every row, in turn
    bf16: bool = False
    bucket_batches: int = loop.BUCKET_BATCHES


@dataclass(frozen=True)
class Part:
    """undo: the lesson without the part (or, of what is not in the recipe, with it). inside: is it in the recipe?"""

    name: str
    undo: Callable[[Lesson], Lesson]
    inside: bool = True


def without_kinds(*names: str) -> Callable[[Lesson], Lesson]:
    def undo(lesson: Lesson) -> Lesson:
        source, per_row = lesson.rows.source, lesson.recipe.augment_per_row
        num_train = int((source >= 0).sum()) // (1 + per_row)
        kind = np.full(len(source), "row", dtype=object)
        kind[num_train : num_train * (1 + per_row)] = np.repeat(lesson.rounds, num_train)
        return kept(lesson, ~np.isin(kind, names))

    return undo


def kept(lesson: Lesson, mask: np.ndarray) -> Lesson:
    chosen = np.flatnonzero(mask)
    return replace(lesson, rows=lesson.rows.take(chosen), labels=lesson.labels.take(chosen))


def hard_labels_only(lesson: Lesson) -> Lesson:
    """Each labelled row and its variants with the row's own class; no teacher, no unlabelled rows."""
    some = kept(lesson, lesson.rows.source >= 0)
    classes = some.labels.rows(np.arange(1)).shape[1]
    num_train = int((some.rows.hard >= 0).sum())
    true = some.rows.hard[:num_train][some.rows.source]
    sure = np.full((len(true), classes), -30.0, dtype=np.float32)
    sure[np.arange(len(true)), true] = 0.0
    return replace(some, labels=SoftLabels("hard", sure), recipe=some.recipe.model_copy(update={"hard_weight": 0.0}))


def with_recipe(**changes: Any) -> Callable[[Lesson], Lesson]:
    return lambda lesson: replace(lesson, recipe=lesson.recipe.model_copy(update=changes))


PARTS = (
    Part("soft labels", hard_labels_only),
    Part("augmentation", without_kinds(*set(ROUNDS))),
    Part("near words", without_kinds("substitute")),
    Part("typos", without_kinds("mistype")),
    Part("dropped words", without_kinds("drop")),
    Part("splices", without_kinds("splice")),
    Part("swapped neighbours", without_kinds("swap")),
    Part("shuffled order", without_kinds("shuffle")),
    Part("unlabelled text", lambda lesson: kept(lesson, lesson.rows.source >= 0)),
    Part("true labels", with_recipe(hard_weight=0.0)),
    Part("the teacher's embedding", lambda lesson: replace(lesson, embedding=None)),
    Part("averaged weights", with_recipe(averaging=0.0)),
    Part("length buckets", lambda lesson: replace(lesson, bucket_batches=UNBUCKETED)),
    Part("dropout", with_recipe(dropout=0.0)),
    Part("temperature 2", with_recipe(temperature=2.0), inside=False),
    Part("true labels at 0.5", with_recipe(hard_weight=0.5), inside=False),
    Part("loss dkd", with_recipe(loss="dkd"), inside=False),
    Part("loss logit_standardisation", with_recipe(loss="logit_standardisation", temperature=2.0), inside=False),
    Part("bf16", lambda lesson: replace(lesson, bf16=True), inside=False),
)
WHOLE = "the whole recipe"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(SETS), help="one data set")
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the rows")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--work", type=Path, default=quality.WORK)
    arguments = parser.parse_args()
    prepare_environment()
    seeds = (arguments.seed or 0,) if arguments.quick or arguments.seed is not None else SEEDS
    seen = ROWS_SEEN // 10 if arguments.quick else ROWS_SEEN
    trainings = []
    for data in [arguments.only] if arguments.only else sorted(SETS):
        student = _Student(data, arguments.work, seen)
        for seed in seeds:
            for name, undo in [(WHOLE, None), *((p.name, p.undo) for p in PARTS)]:
                trainings.append(student.trained(name, undo, seed))
    document = document_of(trainings)
    for line in document["figures"]["parts"]:
        print(table_line(line), file=sys.stderr)
    if not (arguments.quick or arguments.only or arguments.seed is not None):
        write_result("ablation", document)
    json.dump(document, sys.stdout, indent=1)
    return 0


class _Student:
    """One data set's student, trained again and again; each training is kept in a file of its own."""

    def __init__(self, data: str, work: Path, rows_seen: int) -> None:
        self.data, self.rows_seen = data, rows_seen
        self.run: pipeline.Run = quality.opened(data, SETS[data], 0, work)
        with self.run.workspace.locked():
            self.labels, self.rows = self.run.labels(), self.run.rows
        self.folder = work / "ablation"
        inputs = self.run.vocabulary_inputs
        self.rounds = tuple(rounds(self.run.recipe.augment_per_row, self.run.neighbours))
        vocab_size = self.run.task.vocab_sizes(inputs, self.run.teacher_tokenizer)[0]
        self.prepared: Prepared = self.run.task.prepare(inputs, self.run.teacher_tokenizer, vocab_size)
        self.spec: StudentSpec = parse_spec({**SIZES, "vocab_size": self.prepared.vocab_size})
        self.embedding = self.run.embedding(self.prepared)

    def trained(self, name: str, undo: Callable[[Lesson], Lesson] | None, seed: int) -> dict[str, Any]:
        path = self.folder / f"{self.data}-{name.replace(' ', '-')}-{seed}-{self.rows_seen}.json"
        if not path.is_file():
            recipe = self.run.recipe.model_copy(update={"seed": seed})
            lesson = Lesson(self.rows, self.labels, recipe, self.embedding, self.rounds)
            found = self._train(undo(lesson) if undo else lesson)
            write_json(path, {"data": self.data, "part": name, "seed": seed, **found})
        found = read_json(path)
        print(
            f"{self.data} {name} seed {seed}: {found['dev']:.4f} {found['seconds']:.0f} s", file=sys.stderr, flush=True
        )
        return dict(found)

    def _train(self, lesson: Lesson) -> dict[str, Any]:
        """On ROWS_SEEN rows, whatever the number of different ones: equal steps for all."""
        count = len(lesson.rows.inputs)
        epochs = max(1, round(self.rows_seen / count))
        chosen = np.random.default_rng([lesson.recipe.seed, count]).permutation(count)[: self.rows_seen // epochs]
        lesson = replace(lesson, rows=lesson.rows.take(chosen), labels=lesson.labels.take(chosen))
        recipe = lesson.recipe.model_copy(update={"epochs": epochs})
        run, before = self.run, loop.BUCKET_BATCHES
        loop.BUCKET_BATCHES = lesson.bucket_batches
        started = time.process_time()
        try:
            with tempfile.TemporaryDirectory() as scratch:
                curriculum = Curriculum(
                    self.prepared, lesson.rows, lesson.labels, run.judged, run.task, run.project.metric, recipe,
                    lesson.embedding, lesson.bf16,
                )  # fmt: skip
                trained = train_student(self.spec, curriculum, Path(scratch) / "checkpoint", None)
        finally:
            loop.BUCKET_BATCHES = before
        seconds = time.process_time() - started
        logits = torch_logits(trained.module, trained.dev)
        dev = run.judged.dev
        assert dev.labels is not None
        return {
            "dev": quality_on_dev(logits, run.judged, run.project.metric),
            "dev_nll": float(row_nll(logits, dev.labels).mean()),
            "dev_rows": len(dev),
            "seconds": round(seconds, 2),
            "rows_seen": epochs * len(lesson.rows.inputs),
        }


def document_of(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [worth(part, trainings) for part in PARTS]
    return {
        "figures": {"parts": parts, "trainings": trainings, "rows_seen": ROWS_SEEN, "student": SIZES},
        "baselines": {},
        "bars": [],
        "environment": environment(),
    }


def worth(part: Part, trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Points (of the metric, 0 to 100) that the recipe with the part has over the recipe without it; paired by data
    set and seed. Seconds are of one core's own time."""
    found = {(t["data"], t["seed"], t["part"]): t for t in trainings}
    pairs = [(t, found[data, seed, part.name]) for (data, seed, name), t in found.items() if name == WHOLE]
    with_part, without = zip(*(pair if part.inside else pair[::-1] for pair in pairs), strict=True)
    gains = [100 * (a["dev"] - b["dev"]) for a, b in zip(with_part, without, strict=True)]
    nll = [b["dev_nll"] - a["dev_nll"] for a, b in zip(with_part, without, strict=True)]
    seconds = statistics.fmean(a["seconds"] / b["seconds"] for a, b in zip(with_part, without, strict=True))
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    gain = statistics.fmean(gains)
    return {
        "part": part.name,
        "in_the_recipe": part.inside,
        "gain_points": gain,
        "gain_points_standard_error": error,
        "gain_nll": statistics.fmean(nll),
        "seconds_ratio": seconds,
        "earns_its_place": gain >= GAIN_POINTS or seconds <= 1 - GAIN_SECONDS,
        "n": len(gains),
    }


def table_line(line: dict[str, Any]) -> str:
    error = line["gain_points_standard_error"]
    spread = f" ± {error:.2f}" if error is not None else ""
    return (
        f"{line['part']:28s} {'in' if line['in_the_recipe'] else 'out':3s} {line['gain_points']:+.2f}{spread} points  "
        f"{line['gain_nll']:+.4f} nats  {line['seconds_ratio']:.2f} of the time  "
        f"{'earns its place' if line['earns_its_place'] else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
