"""calibrate: time small graphs on this machine, so that a student can be sized before it exists. At most 20 s."""

from __future__ import annotations

from kdexport.backbones import backbones_for
from kdexport.dataset import Dataset
from kdexport.latency import calibrated
from kdexport.measure.environment import fingerprint
from kdexport.nouns.calibration import Calibration
from kdexport.nouns.measurement import Environment
from kdexport.tasks import Task

VERSION = 1
MAX_SECONDS = 15.0
REQUESTS = 200


def calibrate(dataset: Dataset, task: Task, teacher_tokenizer: str, environment: Environment) -> Calibration:
    inputs = dataset.train.inputs
    sizes = task.vocab_sizes(inputs, teacher_tokenizer)
    prepared = task.prepare(inputs, teacher_tokenizer, sizes[0])
    requests = inputs[:REQUESTS]
    shape = task.encode(prepared, requests).shape()
    return calibrated.calibrate(
        backbones_for(task.input_kind),
        shape,
        len(dataset.classes),
        sizes,
        lambda i: task.encode(prepared, [requests[i % len(requests)]]),
        environment,
        fingerprint(environment),
        MAX_SECONDS,
    )
