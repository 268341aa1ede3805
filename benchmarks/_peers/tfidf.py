"""TF-IDF + logistic regression (scikit-learn): word and character n-grams, C and n-grams chosen on dev."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._peers.worker import Task, accuracy

WORDS = {"analyzer": "word", "ngram_range": (1, 2), "sublinear_tf": True}
CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True, "min_df": 2}
FEATURES = {"words": (WORDS,), "words and characters": (WORDS, CHARACTERS)}
# (features, C of the logistic regression); fewer with characters, where one fit takes minutes
GRID = (
    *(("words", strength) for strength in (3.0, 10.0, 30.0, 100.0)),
    *(("words and characters", strength) for strength in (10.0, 30.0)),
)
MAX_ITERATIONS = 200


def train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    tried = []
    best: tuple[float, Any, Any] | None = None
    vectorisers: dict[str, tuple[Any, Any, Any]] = {}
    for features, strength in GRID[2:3] if quick else GRID:
        if features not in vectorisers:
            vectoriser = vectoriser_of([dict(f) for f in FEATURES[features]])
            known = vectoriser.fit_transform(task.train.texts)
            vectorisers = {features: (vectoriser, known, vectoriser.transform(task.dev.texts))}
        vectoriser, known, asked = vectorisers[features]
        model = _regression(strength, seed).fit(known, task.train.labels)
        found = accuracy(model.predict(asked).tolist(), task.dev.labels)
        tried.append({"features": features, "C": strength, "dev_accuracy": found})
        if best is None or found > best[0]:
            best = (found, vectoriser, model)
    assert best is not None
    _write(folder, best[1], best[2], task.classes)
    return {"dev_accuracy": best[0], "tried": tried}


def load(folder: Path) -> Callable[[str], str]:
    import numpy as np

    document = json.loads((folder / "vectorisers.json").read_text())
    arrays = np.load(folder / "model.npz")
    vectoriser = vectoriser_of(document["settings"], document["vocabularies"])
    parts = [transformer for _, transformer in vectoriser.transformer_list]
    for part, idf in zip(parts, [arrays[f"idf{i}"] for i in range(len(parts))], strict=True):
        part.idf_ = idf
    model = _regression(1.0, 0)
    model.coef_, model.intercept_ = arrays["coef"], arrays["intercept"]
    model.classes_ = np.array(arrays["classes"])
    classes = document["classes"]
    return lambda text: str(classes[int(model.predict(vectoriser.transform([text]))[0])])


def vectoriser_of(settings: list[dict[str, Any]], vocabularies: list[list[str]] | None = None) -> Any:
    """FeatureUnion of TfidfVectorizers; vocabularies: features in order of their columns."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    given = [None] * len(settings) if vocabularies is None else vocabularies
    parts = []
    for index, (setting, features) in enumerate(zip(settings, given, strict=True)):
        known = {feature: i for i, feature in enumerate(features)} if features is not None else None
        setting = setting | {"ngram_range": tuple(setting["ngram_range"]), "vocabulary": known}
        parts.append((str(index), TfidfVectorizer(**setting)))
    return FeatureUnion(parts)


def _regression(strength: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, random_state=seed)


def _write(folder: Path, vectoriser: Any, model: Any, classes: list[str]) -> None:
    """JSON and float32 arrays: no pickle, and the fewest bytes."""
    import numpy as np

    parts = [transformer for _, transformer in vectoriser.transformer_list]
    vocabularies = [sorted(part.vocabulary_, key=part.vocabulary_.__getitem__) for part in parts]
    features = [WORDS, CHARACTERS][: len(parts)]
    document = {"settings": features, "vocabularies": vocabularies, "classes": classes}
    (folder / "vectorisers.json").write_text(json.dumps(document))
    arrays = {f"idf{i}": part.idf_.astype(np.float32) for i, part in enumerate(parts)}
    weights = {"coef": model.coef_.astype(np.float32), "intercept": model.intercept_.astype(np.float32)}
    np.savez(folder / "model.npz", classes=model.classes_, **weights, **arrays)
