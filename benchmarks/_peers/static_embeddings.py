"""Model2Vec: static embeddings distilled from the same teacher, and a head on them, both chosen on dev."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._peers.layers import keep_layers, num_layers
from benchmarks._peers.worker import Task, accuracy

DIMENSION = 256  # the library's default
HEAD, CLASSES, EMBEDDINGS = "head.npz", "classes.json", "embeddings"
STRENGTHS = (1.0, 10.0, 100.0)  # C of the logistic regression
HIDDEN = 512  # of the MLP, as in StaticModelForClassification


def train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    import torch
    from model2vec.distill import distill

    torch.set_num_threads(1)
    # in float32: the library would keep the teacher's fp16, which is a hundred times slower on a CPU
    teacher = keep_layers(task.teacher, tuple(range(num_layers(task.teacher))), folder / "teacher")
    tried = []
    best = -1.0
    for pooling in ("mean",) if quick else ("mean", "first"):
        static = distill(model_name=str(teacher), pca_dims=DIMENSION, pooling=pooling, device="cpu")
        known, asked = static.encode(task.train.texts), static.encode(task.dev.texts)
        for name, head in _heads(quick, seed):
            head.fit(known, task.train.labels)
            found = accuracy(head.predict(asked).tolist(), task.dev.labels)
            tried.append({"pooling": pooling, "head": name, "dev_accuracy": found})
            if found > best:
                best = found
                static.save_pretrained(str(folder / EMBEDDINGS))
                _write(folder, head)
    shutil.rmtree(teacher)
    (folder / CLASSES).write_text(json.dumps(task.classes))
    return {"dev_accuracy": best, "tried": tried}


def load(folder: Path) -> Callable[[str], str]:
    import numpy as np
    from model2vec import StaticModel

    static = StaticModel.from_pretrained(str(folder / EMBEDDINGS))
    classes = json.loads((folder / CLASSES).read_text())
    arrays = np.load(folder / HEAD)
    layers = [(arrays[f"weight{i}"], arrays[f"bias{i}"]) for i in range(len(arrays.files) // 2)]

    def predict(text: str) -> str:
        hidden = static.encode([text])
        for weight, bias in layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        weight, bias = layers[-1]
        return str(classes[int((hidden @ weight + bias)[0].argmax())])

    return predict


def _heads(quick: bool, seed: int) -> list[tuple[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    linear = [(f"logistic, C {c:g}", LogisticRegression(C=c, max_iter=300)) for c in STRENGTHS]
    if quick:
        return linear[1:2]
    mlp = MLPClassifier((HIDDEN,), early_stopping=True, random_state=seed)
    return [*linear, (f"MLP {HIDDEN}", mlp)]


def _write(folder: Path, head: Any) -> None:
    """The head's matrices as float32, applied by numpy: fewer bytes and microseconds than scikit-learn's predict."""
    import numpy as np

    if hasattr(head, "coefs_"):
        weights, biases = head.coefs_, head.intercepts_
    else:
        weights, biases = [head.coef_.T], [head.intercept_]
    arrays = {f"weight{i}": w.astype(np.float32) for i, w in enumerate(weights)}
    np.savez(folder / HEAD, **arrays, **{f"bias{i}": b.astype(np.float32) for i, b in enumerate(biases)})
