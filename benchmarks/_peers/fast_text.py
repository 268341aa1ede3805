"""fastText's supervised classifier: n-grams, subwords, epochs and learning rate chosen on dev."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks._peers.worker import Task, accuracy

PREFIX = "__label__"
MODEL, CLASSES, ROWS = "model.bin", "classes.json", "rows.txt"
BUCKETS = 50_000  # rows for hashed n-grams: its default of 2,000,000 makes a file of 800 MB and was no better on dev
DIMENSION = 100


def train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    import fasttext

    rows = folder / ROWS
    pairs = zip(task.train.labels, task.train.texts, strict=True)
    rows.write_text("".join(f"{PREFIX}{label} {normalised(text)}\n" for label, text in pairs))
    grid = list(product((2, 1), (3, 0), (1.0, 0.5, 2.0), (50, 25)))
    tried = []
    best = -1.0
    for ngrams, shortest, rate, epochs in grid[:1] if quick else grid:
        model = fasttext.train_supervised(
            str(rows), dim=DIMENSION, lr=rate, epoch=epochs, wordNgrams=ngrams, minn=shortest,
            maxn=6 if shortest else 0, bucket=BUCKETS, thread=1, seed=seed, verbose=0,
        )  # fmt: skip
        found = accuracy([int(_best(model, text)) for text in task.dev.texts], task.dev.labels)
        tried.append({"wordNgrams": ngrams, "minn": shortest, "lr": rate, "epoch": epochs, "dev_accuracy": found})
        if found > best:
            best = found
            model.save_model(str(folder / MODEL))
    rows.unlink()
    (folder / CLASSES).write_text(json.dumps(task.classes))
    return {"dev_accuracy": best, "tried": tried}


def load(folder: Path) -> Callable[[str], str]:
    import fasttext

    model = fasttext.load_model(str(folder / MODEL))
    classes = json.loads((folder / CLASSES).read_text())
    return lambda text: str(classes[int(_best(model, text))])


def normalised(text: str) -> str:
    """Lower case, punctuation apart: as fastText's own tutorial prepares text."""
    return " ".join(re.sub(r"([.!?,'/()])", r" \1 ", text).lower().split())


def _best(model: Any, text: str) -> str:
    # the binding below the public predict(), which fails on numpy 2 and copies more
    return str(model.f.predict(normalised(text) + "\n", 1, 0.0, "strict")[0][1]).removeprefix(PREFIX)
