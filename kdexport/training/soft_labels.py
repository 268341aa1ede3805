"""Teacher logits on disk, memory-mapped: made once, in chunks, resumable, refused when stale or damaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import Damaged, StaleCache
from kdexport.storage.files import read_json, sha256_file, write_json
from kdexport.storage.tables import Raw

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
CHUNK_ROWS = 1024  # a kill costs at most one chunk
LOGITS, PROGRESS, DONE = "logits.npy", "progress.json", "labels.json"


@dataclass(frozen=True)
class SoftLabels:
    """logits: float32 (N, C), memory-mapped, in the order of the inputs that the key stands for."""

    key: str
    logits: np.ndarray


def make_labels(
    folder: Path,
    key: str,
    inputs: Sequence[Raw],
    num_classes: int,
    answer: Callable[[Sequence[Raw]], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> SoftLabels:
    """Label `inputs` chunk by chunk; a chunk once written is never asked again. Returns the opened labels."""
    import numpy as np

    if (folder / DONE).is_file():
        return open_labels(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(inputs), num_classes)
    done = _progress(folder, key, shape)
    if done == 0:
        np.lib.format.open_memmap(folder / LOGITS, "w+", np.float32, shape).flush()
        _reserve(folder / LOGITS)
    logits = np.lib.format.open_memmap(folder / LOGITS, "r+")
    for start in range(done, len(inputs), CHUNK_ROWS):
        chunk = inputs[start : start + CHUNK_ROWS]
        logits[start : start + len(chunk)] = answer(chunk)
        logits.flush()
        write_json(folder / PROGRESS, {"key": key, "rows": start + len(chunk)})
        if progress:
            progress(start + len(chunk), len(inputs))
    del logits
    summary = {"key": key, "rows": shape[0], "classes": shape[1], "sha256": sha256_file(folder / LOGITS)}
    write_json(folder / DONE, summary)
    (folder / PROGRESS).unlink(missing_ok=True)
    return open_labels(folder, key)


def _reserve(path: Path) -> None:
    """Claim every block of a sparse file now: on a full disk a write to mapped memory ends the process (SIGBUS),
    here it is an OSError."""
    with open(path, "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, path.stat().st_size)


def open_labels(folder: Path, key: str) -> SoftLabels:
    """Raises StaleCache for labels of another teacher, data or settings, Damaged for altered ones."""
    import numpy as np

    meta = _contents(folder / DONE, "key", "sha256")
    if meta["key"] != key:
        raise StaleCache(
            f"{folder}: made from other inputs ({meta['key'][:8]}) than this project's ({key[:8]}). "
            "Delete the folder; `kdexport run` makes it again."
        )
    path = folder / LOGITS
    if not path.is_file() or sha256_file(path) != meta["sha256"]:
        raise Damaged(f"{path}: truncated or altered since it was written. Delete {folder}; it is made again.")
    return SoftLabels(key, np.load(path, mmap_mode="r"))


def _contents(path: Path, *keys: str) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict) or any(k not in document for k in keys):
        raise Damaged(f"{path}: lacks {' or '.join(keys)}. Delete {path.parent}; it is made again.")
    return document


def _progress(folder: Path, key: str, shape: tuple[int, int]) -> int:
    """Rows already labelled by an earlier, killed run of the same key."""
    import numpy as np

    if not (folder / PROGRESS).is_file():
        return 0
    state = _contents(folder / PROGRESS, "key", "rows")
    if state["key"] != key:
        raise StaleCache(f"{folder}: half-made from other inputs. Delete the folder; `kdexport run` makes it again.")
    try:
        whole = np.load(folder / LOGITS, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        whole = False
    if not whole:
        raise Damaged(f"{folder / LOGITS}: truncated. Delete {folder}; it is made again.")
    log.info("resumed rows=%d of=%d", state["rows"], shape[0])
    return int(state["rows"])
