"""One peer in one process, in any environment: `python -m benchmarks._peers.worker train|serve PEER ...`.

train PEER TASK.json FOLDER [--quick] [--seed N]   writes the model and trained.json to FOLDER
serve PEER FOLDER                                  one JSON request a line on stdin, one JSON answer a line on stdout:
    {"texts": [...]}                -> {"labels": [...]}
    {"texts": [...], "timed": true} -> {"ns": [...]}      of each call: raw text in, label out, one at a time

Needs the standard library alone; the peer imports what it is."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

TRAINED = "trained.json"


@dataclass(frozen=True)
class Rows:
    """labels: index into the task's classes, one for each text."""

    texts: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Task:
    """What a peer may learn from. The test rows are not in it. teacher, base: Hugging Face folders."""

    classes: list[str]
    train: Rows
    dev: Rows
    teacher: Path
    base: Path


def read_task(path: Path) -> Task:
    found = json.loads(path.read_text())
    return Task(
        classes=found["classes"],
        train=Rows(**found["train"]),
        dev=Rows(**found["dev"]),
        teacher=Path(found["teacher"]),
        base=Path(found["base"]),
    )


def write_task(path: Path, task: Task) -> None:
    document = {
        "classes": task.classes,
        "train": vars(task.train),
        "dev": vars(task.dev),
        "teacher": str(task.teacher),
        "base": str(task.base),
    }
    path.write_text(json.dumps(document))


def accuracy(found: list[int], wanted: list[int]) -> float:
    """Share of equal entries, 0 to 1."""
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def train(peer: Any, task: Path, folder: Path, quick: bool, seed: int) -> None:
    rows = read_task(task)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    facts = peer.train(rows, folder, quick, seed)
    seconds = time.perf_counter() - started
    (folder / TRAINED).write_text(json.dumps({"training_s": seconds, **facts}))  # last: the model is whole


def serve(load: Callable[[Path], Callable[[str], str]], folder: Path, requests: TextIO, answers: TextIO) -> None:
    """Until stdin ends."""
    predict = load(folder)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        if request.get("timed"):
            answer: dict[str, Any] = {"ns": timed(predict, request["texts"])}
        else:
            answer = {"labels": [predict(text) for text in request["texts"]]}
        print(json.dumps(answer), file=answers, flush=True)


def timed(predict: Callable[[str], str], texts: list[str]) -> list[int]:
    """Nanoseconds of each call, the garbage collector held off."""
    clock = time.perf_counter_ns
    samples = []
    gc.collect()
    gc.disable()
    try:
        for text in texts:
            begin = clock()
            predict(text)
            samples.append(clock() - begin)
    finally:
        gc.enable()
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("peer")
    training.add_argument("task", type=Path)
    training.add_argument("folder", type=Path)
    training.add_argument("--quick", action="store_true")
    training.add_argument("--seed", type=int, default=0)
    serving = verbs.add_parser("serve")
    serving.add_argument("peer")
    serving.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    peer = import_module(f"benchmarks._peers.{arguments.peer}")
    if arguments.verb == "train":
        train(peer, arguments.task, arguments.folder, arguments.quick, arguments.seed)
        return 0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    serve(peer.load, arguments.folder, sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
