"""What a teacher answers, on disk: log-probabilities in float16, made once, chunk by chunk, never whole in memory.

Dense where there are few classes; else the likeliest `TOP_CLASSES` and the mass of all others. Identical inputs are
asked once. A killed labelling goes on at the last chunk written; stale or altered labels are refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, Damaged, StaleCache
from kdexport.storage.files import canonical_json, read_json, sha256_bytes, write_json
from kdexport.storage.tables import Raw
from kdexport.storage.tensor_file import Layout, copy_tensors, create, data_sha256, open_arrays

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
CHUNK_ROWS = 2048  # a kill costs at most one chunk; to write one takes some ms, to answer it 100 at 50 us a row
CHUNK_SCORES = 1 << 24  # fewer rows a chunk where there are many classes: 64 MiB of float32
DENSE_CLASSES = 256  # up to here every class is kept: 512 bytes a row
# of more classes, so many: 258 bytes a row. Fewer would do where the teacher is sure; it is least sure of the augmented
# and unlabelled rows, which come last, when the width of the file is long fixed
TOP_CLASSES = 64
FLOOR = -65504.0  # the least float16
FORMAT = 2  # of the stored labels; enters what an exported file is checked by
LABELS, PROGRESS, DONE = "labels.safetensors", "progress.json", "labels.json"
DIGEST_BYTES = 16
REMEDY = "Delete the folder; `kdexport run` makes it again."


@dataclass(frozen=True)
class TopClasses:
    """classes: (N, K), the likeliest first. log_tail: float16 (N,), log of the mass of the other C - K together."""

    classes: np.ndarray
    log_tail: np.ndarray
    num_classes: int


@dataclass(frozen=True)
class SoftLabels:
    """log_probs: (N, C), or (N, K) of the classes in `top`; memory-mapped, in the order of the inputs that the key
    stands for. Only differences of logits enter a softmax, so log-probabilities serve as logits at any temperature."""

    key: str
    log_probs: np.ndarray
    top: TopClasses | None = None

    def __len__(self) -> int:
        return len(self.log_probs)

    def rows(self, indices: np.ndarray | slice) -> np.ndarray:
        """float32 (n, C) log-probabilities. Where the likeliest are stored, the others share the tail mass evenly: a
        student that is shown the top alone, made to sum to one, is taught to be surer than its teacher."""
        import numpy as np

        found = np.asarray(self.log_probs[indices], np.float32)
        if self.top is None:
            return found
        classes, log_tail = self.top.classes[indices], np.asarray(self.top.log_tail[indices], np.float32)
        share = log_tail - np.log(np.float32(self.top.num_classes - found.shape[1]))
        dense = np.repeat(share[:, None], self.top.num_classes, axis=1)
        np.put_along_axis(dense, classes.astype(np.int64), found, axis=1)
        return dense

    def take(self, indices: np.ndarray) -> SoftLabels:
        """Some of the rows, in memory."""
        import numpy as np

        top = self.top
        if top is not None:
            top = TopClasses(np.array(top.classes[indices]), np.array(top.log_tail[indices]), top.num_classes)
        return SoftLabels(self.key, np.array(self.log_probs[indices]), top)

    @cached_property
    def logits(self) -> np.ndarray:
        """All rows at once, float32 (N, C), in memory: `rows` is meant for large sets."""
        return self.rows(slice(None))


def compressed(logits: np.ndarray, num_top: int | None) -> dict[str, np.ndarray]:
    """(B, C) logits as they are stored. num_top: keep so many of the classes, None all.

    float16 rounds log p by at most |log p| / 2^11, so a probability by at most 1 / (e 2^11) = 1.8e-4, at every
    temperature: half the bytes of float32, for less than any bar on a probability here (1e-3)."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    if num_top is None:
        return {"log_probs": np.maximum(log_probs, FLOOR).astype(np.float16)}
    likeliest = np.argpartition(-log_probs, num_top - 1, axis=1)[:, :num_top]
    order = np.argsort(-np.take_along_axis(log_probs, likeliest, 1), axis=1, kind="stable")
    likeliest = np.take_along_axis(likeliest, order, 1)
    kept = np.take_along_axis(log_probs, likeliest, 1)
    np.put_along_axis(log_probs, likeliest, -np.inf, 1)
    with np.errstate(divide="ignore"):  # a tail too small for float64 becomes the floor
        log_tail = np.log(np.exp(log_probs).sum(1))
    return {
        "log_probs": np.maximum(kept, FLOOR).astype(np.float16),
        "top_classes": likeliest.astype(_class_dtype(logits.shape[1])),
        "log_tail": np.maximum(log_tail, FLOOR).astype(np.float16),
    }


def _class_dtype(num_classes: int) -> str:
    return "uint16" if num_classes <= 1 << 16 else "uint32"


def _num_top(num_classes: int) -> int | None:
    return None if num_classes <= DENSE_CLASSES else TOP_CLASSES


def _layout(num_rows: int, num_classes: int) -> Layout:
    num_top = _num_top(num_classes)
    if num_top is None:
        return {"log_probs": ("float16", (num_rows, num_classes))}
    return {
        "log_probs": ("float16", (num_rows, num_top)),
        "top_classes": (_class_dtype(num_classes), (num_rows, num_top)),
        "log_tail": ("float16", (num_rows,)),
    }


@dataclass(frozen=True)
class Digest:
    """first: int64 (N,), the first row with the same input. sha256: of all inputs in order."""

    first: np.ndarray
    sha256: str

    @property
    def distinct(self) -> int:
        import numpy as np

        return int((self.first == np.arange(len(self.first))).sum())


def digest(inputs: Sequence[Raw]) -> Digest:
    """Reads every input once, keeps 16 bytes of each."""
    import numpy as np

    raw = np.empty((len(inputs), 2), dtype=np.uint64)
    for i, value in enumerate(inputs):
        data = b"t" + value.encode(errors="surrogatepass") if isinstance(value, str) else b"b" + value
        raw[i] = np.frombuffer(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), np.uint64)
    order = np.lexsort((raw[:, 1], raw[:, 0]))  # equal ones side by side; stable: the first of them first
    ordered = raw[order]
    starts = np.ones(len(raw), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = np.empty(len(raw), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return Digest(first, sha256_bytes(raw.tobytes()))


def make_labels(
    folder: Path,
    key: str,
    inputs: Sequence[Raw],
    num_classes: int,
    answer: Callable[[Sequence[Raw]], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> SoftLabels:
    """Label `inputs` chunk by chunk: a chunk once written is never asked again, nor is an input that stood before.

    inputs: may be read lazily, is sliced and read through twice. answer: (n,) inputs -> logits (n, C). Returns the
    opened labels."""
    if (folder / DONE).is_file():
        return open_labels(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    layout = _layout(len(inputs), num_classes)
    done = _progress(folder, key, layout)
    if done is None:
        create(folder / LABELS, layout)
        done = 0
    found = digest(inputs)
    arrays, _ = open_arrays(folder / LABELS, writable=True)
    step = max(1, min(CHUNK_ROWS, CHUNK_SCORES // num_classes))
    for start in range(done, len(inputs), step):
        end = min(start + step, len(inputs))
        _label_chunk(arrays, inputs[start:end], found.first[start:end], start, answer, _num_top(num_classes))
        write_json(folder / PROGRESS, {"key": key, "rows": end})
        if progress:
            progress(end, len(inputs))
    del arrays
    contents = {"rows": len(inputs), "distinct_rows": found.distinct, "classes": num_classes}
    _seal(folder, key, {**contents, "inputs_sha256": found.sha256})
    return open_labels(folder, key)


def _label_chunk(
    arrays: Mapping[str, np.ndarray],
    chunk: Sequence[Raw],
    first: np.ndarray,
    start: int,
    answer: Callable[[Sequence[Raw]], np.ndarray],
    num_top: int | None,
) -> None:
    """Ask what has not stood before, copy the rest from where it stood, and put all of it on disk."""
    import numpy as np

    rows = start + np.arange(len(chunk))
    new = first == rows
    asked = [raw for raw, is_new in zip(chunk, new, strict=True) if is_new]
    if asked:
        for name, values in compressed(answer(asked), num_top).items():
            arrays[name][rows[new]] = values
    for array in arrays.values():
        if not new.all():
            array[rows[~new]] = array[first[~new]]
        if isinstance(array, np.memmap):
            array.flush()


def _seal(folder: Path, key: str, contents: Mapping[str, object]) -> None:
    write_json(folder / DONE, {**contents, "key": key, "sha256": data_sha256(folder / LABELS)})
    (folder / PROGRESS).unlink(missing_ok=True)


def open_labels(folder: Path, key: str) -> SoftLabels:
    """Raises StaleCache for labels of another teacher, data or settings, Damaged for altered ones."""
    contents = _contents(folder / DONE, "key", "sha256", "rows", "classes")
    if contents["key"] != key:
        raise StaleCache(
            f"{folder}: made from other inputs ({contents['key'][:8]}) than this project's ({key[:8]}). {REMEDY}"
        )
    path = folder / LABELS
    arrays = _whole(path, _layout(contents["rows"], contents["classes"]))
    if arrays is None or data_sha256(path) != contents["sha256"]:
        raise Damaged(f"{path}: truncated or altered since it was written. Delete {folder}; it is made again.")
    return _opened(key, arrays, contents["classes"])


def distinct_rows(folder: Path) -> int:
    """How many of the finished labels in `folder` were asked for: the others are copies of these."""
    return int(_contents(folder / DONE, "distinct_rows")["distinct_rows"])


def _opened(key: str, arrays: Mapping[str, np.ndarray], num_classes: int) -> SoftLabels:
    if "top_classes" not in arrays:
        return SoftLabels(key, arrays["log_probs"])
    return SoftLabels(key, arrays["log_probs"], TopClasses(arrays["top_classes"], arrays["log_tail"], num_classes))


def _whole(path: Path, layout: Layout) -> dict[str, np.ndarray] | None:
    """The arrays of a file that holds what the layout says; None for any other."""
    try:
        arrays, _ = open_arrays(path)
    except (BadInput, Damaged):
        return None
    return arrays if {name: (str(a.dtype), a.shape) for name, a in arrays.items()} == dict(layout) else None


def _contents(path: Path, *keys: str) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict) or any(k not in document for k in keys):
        raise Damaged(f"{path}: lacks {' or '.join(keys)}. Delete {path.parent}; it is made again.")
    return document


def _progress(folder: Path, key: str, layout: Layout) -> int | None:
    """Rows already labelled by an earlier, killed run of the same key; None where there was none."""
    if not (folder / PROGRESS).is_file():
        return None
    state = _contents(folder / PROGRESS, "key", "rows")
    if state["key"] != key:
        raise StaleCache(f"{folder}: half-made from other inputs. {REMEDY}")
    if _whole(folder / LABELS, layout) is None:
        raise Damaged(f"{folder / LABELS}: truncated. Delete {folder}; it is made again.")
    log.info("resumed rows=%d of=%d", state["rows"], layout["log_probs"][1][0])
    return int(state["rows"])


# --- labels that travel


def export_labels(folder: Path, key: str, origin: Mapping[str, str], path: Path) -> int:
    """The labels in `folder` as one safetensors file that says what they were made from; returns its bytes.

    origin: what was labelled and by whom, each as a hash or a name; the rows' own hash is added."""
    open_labels(folder, key)
    contents = _contents(folder / DONE, "inputs_sha256")
    told = {**origin, "rows": contents["inputs_sha256"]}
    del contents["key"]
    copy_tensors(folder / LABELS, path, {"origin": canonical_json(told).decode(), "labels": _text(contents)})
    return path.stat().st_size


def import_labels(path: Path, origin: Mapping[str, str], inputs: Sequence[Raw], folder: Path, key: str) -> None:
    """Take an exported file as the labels in `folder`.

    Raises StaleCache with what differs where it was made by another teacher, from other rows, classes or settings;
    Damaged where it is not whole."""
    import json

    arrays, metadata = open_arrays(path)
    try:
        found, contents = json.loads(metadata["origin"]), json.loads(metadata["labels"])
        layout, sealed = _layout(contents["rows"], contents["classes"]), contents["sha256"]
    except (KeyError, ValueError, TypeError) as e:
        raise BadInput(
            f"{path}: no labels exported by kdexport; make them: kdexport label PROJECT --export FILE"
        ) from e
    wanted = {**origin, "rows": digest(inputs).sha256}
    if differing := sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)):
        told = ", ".join(f"{k} ({str(found.get(k))[:12]}, wanted {str(wanted.get(k))[:12]})" for k in differing)
        raise StaleCache(f"{path}: not this project's labels, other {told}; export them again from this project file")
    if _whole(path, layout) is None or data_sha256(path) != sealed:
        raise Damaged(f"{path}: truncated or altered since it was exported; copy it again")
    del arrays
    folder.mkdir(parents=True, exist_ok=True)
    copy_tensors(path, folder / LABELS, {})
    _seal(folder, key, contents)


def _text(value: object) -> str:
    return canonical_json(value).decode()
