"""kdexport's own bundle, answered by the files that it holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def load(folder: Path) -> Callable[[str], str]:
    sys.path.insert(0, str(folder))
    from predict import Predictor

    predictor = Predictor(folder)
    return lambda text: str(predictor.predict(text)["label"])
