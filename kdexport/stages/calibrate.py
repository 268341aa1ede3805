"""calibrate: time small graphs on this machine, so that a student can be sized before it exists. At most 20 s."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdexport.backbones import backbones_for
from kdexport.bundle.runner.predict import open_encoder
from kdexport.dataset import Dataset
from kdexport.latency import calibrated
from kdexport.measure.environment import fingerprint
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.measurement import Environment
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task

VERSION = 1
MAX_SECONDS = 15.0
REQUESTS = 200


def calibrate(dataset: Dataset, task: Task, teacher_tokenizer: str, environment: Environment) -> Calibration:
    inputs = dataset.train.inputs
    sizes = task.vocab_sizes(inputs, teacher_tokenizer)
    prepared = task.prepare(inputs, teacher_tokenizer, sizes[0])
    requests = inputs[:REQUESTS]
    shape = task.encode(prepared, requests).shape()
    encode = shipped_encoder(prepared)
    return calibrated.calibrate(
        backbones_for(task.input_kind),
        shape,
        len(dataset.classes),
        sizes,
        lambda i: encode(requests[i % len(requests)]),
        environment,
        fingerprint(environment),
        MAX_SECONDS,
    )


def shipped_encoder(prepared: Prepared) -> Callable[[Raw], Any]:
    """The very code that a bundle preprocesses with: raw request -> tensor."""
    with tempfile.TemporaryDirectory() as scratch:
        if prepared.tokenizer_json:
            (Path(scratch) / prepared.preprocessor.tokenizer).write_text(prepared.tokenizer_json, encoding="utf-8")
        encode: Callable[[Raw], Any] = open_encoder(Path(scratch), prepared.preprocessor.model_dump()).encode
    return encode
