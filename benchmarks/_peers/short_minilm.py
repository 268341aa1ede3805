"""MiniLM cut to three layers, fine-tuned on the true labels: layers and learning rate chosen on dev by short runs."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks._peers import onnx_classifier
from benchmarks._peers.layers import keep_layers
from benchmarks._peers.worker import Task, accuracy

LAYERS = ((0, 2, 4), (1, 3, 5))
RATES = (2e-4, 5e-4)
TRIAL_EPOCHS, EPOCHS = 1, 6  # of the choice, and of the fine-tuning: the teacher's own number


def train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Leaves the fine-tuned Hugging Face folder at `folder`/fitted, to be exported."""
    grid = list(product(LAYERS, RATES))
    tried = []
    work = folder / "work"
    for number, (layers, rate) in enumerate(grid if not quick else []):
        found = _fitted(task, layers, rate, TRIAL_EPOCHS, seed, work / str(number))[1]
        tried.append({"layers": layers, "learning_rate": rate, "epochs": TRIAL_EPOCHS, "dev_accuracy": found})
    best = max(tried, key=lambda t: t["dev_accuracy"]) if tried else {"layers": LAYERS[0], "learning_rate": RATES[0]}
    epochs = 1 if quick else EPOCHS
    fitted, found = _fitted(task, best["layers"], best["learning_rate"], epochs, seed, work / "chosen")
    shutil.rmtree(folder / "fitted", ignore_errors=True)
    fitted.rename(folder / "fitted")
    shutil.rmtree(work)
    chosen = {"layers": best["layers"], "learning_rate": best["learning_rate"], "epochs": epochs}
    return {"dev_accuracy": found, "chosen": chosen, "tried": tried}


def _fitted(
    task: Task, layers: tuple[int, ...], rate: float, epochs: int, seed: int, folder: Path
) -> tuple[Path, float]:
    """(Hugging Face folder, accuracy on dev), by kdexport's own loop: length buckets, AdamW, cosine decay."""
    import numpy as np

    from kdexport.nouns.project import Data, Fit, Project, Table, TeacherSource
    from kdexport.teachers import TeacherContext, fit

    base = keep_layers(task.base, layers, folder / "base")
    settings = Fit(base=base, epochs=epochs, learning_rate=rate, label_smoothing=0.0, seed=seed)
    source = TeacherSource(fit=settings)
    table = Data(train=Table(path="none"))
    project = Project(name="peer", task="text_classification", teachers=(source,), data=table, targets=("local-cpu",))
    context = TeacherContext(
        project, tuple(task.classes), task.train.texts, np.array(task.train.labels),
        task.dev.texts, np.array(task.dev.labels), threads=1,
    )  # fmt: skip
    fitted = fit.fit(settings, context, folder, None)
    onnx_classifier.export(fitted, folder / "served")
    predict = onnx_classifier.load(folder / "served")
    index = {name: i for i, name in enumerate(task.classes)}
    return fitted, accuracy([index[predict(text)] for text in task.dev.texts], task.dev.labels)
