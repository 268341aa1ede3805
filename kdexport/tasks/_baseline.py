"""What needs no deep learning: logistic regression on TF-IDF of words and characters, or on pixels (a linear probe).

Kept as a table of numbers and a JSON file, and opened from them: what is timed and weighed is what would ship."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.files import read_json, replacing, write_json
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared, Task

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
NAMES = {"text": "TF-IDF + logistic regression", "image": "linear probe on pixels"}
INVERSE_REGULARISATION = {"text": (3.0, 10.0, 30.0), "image": (0.001, 0.03, 1.0)}  # C of scikit-learn, tried on dev
MAX_FEATURES = 10_000  # the most frequent of each kind of n-gram: 15 to 40 s of fitting with 77 to 150 classes
MAX_ROWS = {"text": 50_000, "image": 20_000}  # to learn from, spread over the file
MAX_SIDE = 32  # pictures are shrunk to it for the probe
MAX_ITERATIONS = 30  # of each C, which starts from the last one's weights
MODEL, FEATURES = "model.safetensors", "features.json"
ANALYSERS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 2)},
    {"analyzer": "char_wb", "ngram_range": (2, 5)},  # within a word: over its edge the words' bigrams see
)


@dataclass(frozen=True)
class LinearModel:
    """features(inputs) -> (N, F), sparse or dense. weight: float32 (F, C); bias: float32 (C,)."""

    features: Callable[[Sequence[Raw]], Any]
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, inputs: Sequence[Raw]) -> np.ndarray:
        """float32 (N, C)."""
        import numpy as np

        return np.asarray(self.features(inputs) @ self.weight + self.bias, dtype=np.float32)


def fit(
    task: Task,
    inputs: Sequence[Raw],
    labels: np.ndarray,
    num_classes: int,
    dev: Sequence[Raw],
    quality_of: Callable[[np.ndarray], float],
    threads: int,
    folder: Path,
    weights: np.ndarray | None = None,
) -> list[tuple[float, float]]:
    """(C, quality on dev) of every C tried; the best one's model is written to `folder`, the first one at a tie.

    labels: int64 (N,), of two classes or more. quality_of(logits (N, C) of `dev`) -> quality. weights: float64 (N,),
    of the rows; none: all alike."""
    from threadpoolctl import threadpool_limits

    step = -(-len(inputs) // MAX_ROWS[task.input_kind])
    inputs, labels = inputs[::step], labels[::step]
    if weights is not None:  # of mean 1: C then means what it does without
        weights = weights[::step] / weights[::step].mean()
    with threadpool_limits(threads):
        description, tables = _text_features(inputs) if task.input_kind == "text" else _pixel_features(task, inputs)
        features = _opened(task, description, tables)
        learnt, judged = features(inputs), features(dev)
        tried: list[tuple[float, float]] = []
        best = -1.0
        strengths = INVERSE_REGULARISATION[task.input_kind]
        for c, weight, bias in _regressions(learnt, labels, weights, num_classes, strengths):
            quality = quality_of(judged @ weight + bias)
            tried.append((c, quality))
            log.info("baseline=%r C=%g dev_quality=%.4f", NAMES[task.input_kind], c, quality)
            if quality > best:
                best = quality
                _write(folder, description, {**tables, "weight": weight, "bias": bias})
    return tried


def load(task: Task, folder: Path) -> LinearModel:
    """What `fit` wrote there."""
    from safetensors.numpy import load_file

    tables = load_file(folder / MODEL)
    return LinearModel(_opened(task, read_json(folder / FEATURES), tables), tables["weight"], tables["bias"])


def _regressions(
    features: Any, labels: np.ndarray, weights: np.ndarray | None, num_classes: int, strengths: Sequence[float]
) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(C, weight (F, C), bias (C,)) for each C, each started from the last. A class without a row is never answered."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    found = []
    for c in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is the budget
            model.set_params(C=c).fit(features, labels, sample_weight=weights)
        weight = np.zeros((features.shape[1], num_classes), dtype=np.float32)
        bias = np.full(num_classes, -np.inf, dtype=np.float32)
        two = len(model.classes_) == 2  # scikit-learn then keeps the second class's row alone
        weight[:, model.classes_] = np.concatenate([0 * model.coef_, model.coef_]).T if two else model.coef_.T
        bias[model.classes_] = [0.0, model.intercept_[0]] if two else model.intercept_
        found.append((c, weight, bias))
    return found


def _text_features(inputs: Sequence[Raw]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    vocabularies, tables = [], {}
    for index, analyser in enumerate(ANALYSERS):
        vectoriser = _vectoriser(analyser, max_features=MAX_FEATURES, min_df=1 if len(inputs) < 1000 else 2)
        vectoriser.fit(inputs)
        vocabularies.append(vectoriser.get_feature_names_out().tolist())
        tables[f"idf_{index}"] = vectoriser.idf_.astype("float32")
    return {"vocabularies": vocabularies}, tables


def _vectoriser(analyser: dict[str, Any], **settings: Any) -> Any:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(**analyser, sublinear_tf=True, dtype=np.float32, **settings)


def _pixel_features(task: Task, inputs: Sequence[Raw]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    chosen = task.prepare(inputs, "", 0).preprocessor
    shrink = max(chosen.height, chosen.width, MAX_SIDE) / MAX_SIDE
    size = {"height": max(1, round(chosen.height / shrink)), "width": max(1, round(chosen.width / shrink))}
    return {"preprocessor": chosen.model_copy(update=size).model_dump(mode="json")}, {}


def _opened(task: Task, description: dict[str, Any], tables: dict[str, np.ndarray]) -> Callable[[Sequence[Raw]], Any]:
    if "preprocessor" in description:
        return _pixels(task, Prepared(Preprocessor.model_validate(description["preprocessor"])))
    from scipy.sparse import hstack

    vectorisers = []
    for index, (analyser, terms) in enumerate(zip(ANALYSERS, description["vocabularies"], strict=True)):
        vectoriser = _vectoriser(analyser, vocabulary={term: i for i, term in enumerate(terms)})
        vectoriser.idf_ = tables[f"idf_{index}"]
        vectorisers.append(vectoriser)
    return lambda inputs: hstack([v.transform(inputs) for v in vectorisers], format="csr")


def _pixels(task: Task, prepared: Prepared) -> Callable[[Sequence[Raw]], Any]:
    import numpy as np

    def features(inputs: Sequence[Raw]) -> Any:
        encoded = task.encode(prepared, inputs)
        return encoded.batch(np.arange(len(inputs))).reshape(len(inputs), -1)

    return features


def _write(folder: Path, description: dict[str, Any], tables: dict[str, np.ndarray]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    with replacing(folder / MODEL) as temporary:
        save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, temporary)
    write_json(folder / FEATURES, description)
