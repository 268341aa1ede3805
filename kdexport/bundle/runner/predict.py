"""Answer raw requests with this bundle.

python predict.py                    one text a line on stdin (images: one file path a line), one JSON object a line
                                     on stdout: {"label": ..., "score": ...}; label null where the score is too low
python predict.py --text "..."       one text;  --image PATH: one image;  --logits adds the logits

Exit 0: answered. 2: the bundle or an image cannot be read. Needs the packages in requirements.txt."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from .cores import cores_allowed
    from .engines import open_engine
    from .image import BadImage, ImageEncoder
    from .tokenizer import TextEncoder
    from .verify import BadManifest, is_safe, read_manifest
else:  # plain files in a bundle, also under `python -I`, which leaves the script's folder out of the path
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # a bundle never changes: compiled files are neither left in it nor, being in no manifest, trusted where found
    _prefix, sys.pycache_prefix = sys.pycache_prefix, os.devnull
    from cores import cores_allowed
    from engines import open_engine
    from image import BadImage, ImageEncoder
    from tokenizer import TextEncoder
    from verify import BadManifest, is_safe, read_manifest

    sys.pycache_prefix = _prefix


class NotFinite(ValueError):
    """The engine gave NaN or infinity."""


class Predictor:
    """A bundle, loaded. It is not verified (see verify.py); one thread at a time may call it."""

    def __init__(self, folder: str | Path, *, root: Path = Path("/")) -> None:
        """Raises BadManifest, NoEngine, OSError. `root` stands in for / where the CPU quota is read."""
        folder = Path(folder)
        self.manifest = read_manifest(folder)
        for path in (self.manifest["model"], self.manifest["preprocessor"]["tokenizer"] or "none"):
            if not is_safe(path):
                raise BadManifest(f"{folder}: {path!r} is not a path that a manifest may name")
        allowed = cores_allowed(root)
        self.threads = max(1, min(self.manifest["threads"], int(allowed)))
        # a spinning thread burns the quota that the working ones need
        self._engine = open_engine(folder, self.manifest, self.threads, spin=allowed >= self.manifest["threads"])
        self.encoder = open_encoder(folder, self.manifest["preprocessor"])
        self._encode = self.encoder.encode
        self._labels = self.manifest["labels"]
        self._abstain_below = self.manifest["abstain_below"]

    def predict(self, raw: str | bytes | Path) -> dict[str, Any]:
        """{"label", "score"} of one text, or of one image (path or bytes). Raises BadImage, NotFinite."""
        return self.answer(self._engine(self._encode(raw))[0])

    def logits(self, raw: list[Any]) -> Any:
        """float32 (B, C), in one call of the engine. Raises BadImage."""
        if not raw:
            return np.zeros((0, len(self._labels)), np.float32)
        return self._engine(self.encoder.encode_batch(raw))

    def answer(self, logits: Any) -> dict[str, Any]:
        """logits (C,) as label and score (softmax of the best class, 0..1); label None below `abstain_below`."""
        best = int(logits.argmax())
        score = 1.0 / float(np.exp(logits - logits[best]).sum())
        if not score > 0.0:  # NaN too
            raise NotFinite("the logits are not finite numbers; run verify.py")
        keep = self._abstain_below is None or score >= self._abstain_below
        return {"label": self._labels[best] if keep else None, "score": score}


def open_encoder(folder: Path, preprocessor: dict[str, Any]) -> Any:
    """TextEncoder or ImageEncoder: `encode(raw)` gives a tensor of batch 1, `encode_batch(list)` one of batch B."""
    if preprocessor["kind"] == "text":
        return TextEncoder(folder / preprocessor["tokenizer"], preprocessor["max_length"], preprocessor["pad_id"])
    return ImageEncoder(preprocessor)


def _requests(given: str | None) -> Iterable[str]:
    """The one request given, or the lines of stdin as they come. Only a line feed ends a line."""
    if given is not None:
        yield given
        return
    for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace", newline="\n"):
        yield line.rstrip("\r\n")


def _answer_line(predictor: Predictor, raw: str, with_logits: bool) -> str:
    if not with_logits:
        return json.dumps(predictor.predict(raw), ensure_ascii=False)
    logits = predictor.logits([raw])[0]
    return json.dumps({**predictor.answer(logits), "logits": logits.tolist()}, ensure_ascii=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--text", help="one text, in place of lines on stdin")
    one.add_argument("--image", help="path of one image, in place of lines on stdin")
    parser.add_argument("--logits", action="store_true", help="add the logits to each answer")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    try:
        predictor = Predictor(Path(__file__).resolve().parent)
    except Exception as e:  # whatever the runtime raises for a file it cannot load: nothing can be answered
        print(f"the bundle cannot be loaded: {e}", file=sys.stderr)
        return 2
    kind = predictor.manifest["preprocessor"]["kind"]
    if getattr(arguments, {"text": "image", "image": "text"}[kind]) is not None:
        print(f"this bundle reads {kind}s: use --{kind}", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        for raw in _requests(getattr(arguments, kind)):
            print(_answer_line(predictor, raw, arguments.logits), flush=True)
    except (BadImage, NotFinite) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
