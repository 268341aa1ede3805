"""Write a bundle: all of it or nothing, and the same bytes from the same inputs."""

from __future__ import annotations

import base64
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from kdexport.bundle.runner import verify as runner_verify
from kdexport.errors import BadInput
from kdexport.nouns.manifest import FileEntry, Manifest
from kdexport.runtimes import distribution
from kdexport.storage.files import canonical_json, sha256_bytes, sha256_file, to_plain

logger = getLogger(__name__)

RUNNER = Path(runner_verify.__file__).parent
RUNNER_FILES = tuple(sorted(p.name for p in RUNNER.glob("*.py") if p.name != "__init__.py"))
REQUIREMENTS, GOLDEN = "requirements.txt", "golden.json"
RESERVED = {*RUNNER_FILES, runner_verify.MANIFEST, REQUIREMENTS, GOLDEN}
LOWEST = {
    # a device has its own, older Python; what these do for the runner has not changed since
    "tokenizers": "0.15",
    "numpy": "1.20",
    "Pillow": "9.4",
}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>

Golden = Sequence[tuple[str | bytes, list[float]]]


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, Path | bytes], *, golden: Golden) -> Manifest:
    """Write `files`, the runner, requirements.txt, golden.json and manifest.json; returns the manifest as written.

    golden: (raw request, logits (C,)) pairs that a device must reproduce; a text, or the bytes of an image file.
    A bundle with the same content is left alone, another one is replaced in one step. Raises BadInput for a path that
    is not allowed, a folder that is no bundle, or a disk that cannot be written."""
    contents = _contents(manifest, files, golden)
    with _building(folder) as temporary:
        for path, content in contents.items():
            _put(temporary / path, content)
        entries = [_entry(temporary, path) for path in sorted(contents)]
        written = manifest.model_copy(update={"files": tuple(entries)})
        data = _manifest_bytes(written)
        _put(temporary / runner_verify.MANIFEST, data)
        if is_bundle(folder, sha256_bytes(data)):
            logger.info("bundle=%s unchanged sha256=%s", folder, sha256_bytes(data))
        else:
            _move_over(temporary, folder)
            logger.info("bundle=%s files=%d sha256=%s", folder, len(entries), sha256_bytes(data))
    return Manifest.model_validate(runner_verify.read_manifest(folder))


def bundle_sha256(folder: Path) -> str:
    """The identity of a bundle: SHA-256 of manifest.json, which holds the hash of every other file."""
    return sha256_file(folder / runner_verify.MANIFEST)


def is_bundle(folder: Path, sha256: str) -> bool:
    """Is the bundle of this identity there, and whole?"""
    return _is_whole(folder) and bundle_sha256(folder) == sha256


def _contents(manifest: Manifest, files: Mapping[str, Path | bytes], golden: Golden) -> dict[str, Path | bytes]:
    for path in files:
        if path in RESERVED or not runner_verify.is_safe(path):
            raise BadInput(f"bundle file '{path}': a relative path is wanted that the bundle does not use itself")
    for path in filter(None, (manifest.model, manifest.preprocessor.tokenizer)):
        if path not in files:
            raise BadInput(f"the manifest names '{path}', which is not among the files: {', '.join(sorted(files))}")
    classes = len(manifest.labels)
    wrong = next((len(logits) for _, logits in golden if len(logits) != classes), None)
    if wrong is not None:
        raise BadInput(f"a golden vector has {wrong} logits, the manifest {classes} labels")
    return {
        **files,
        **{name: RUNNER / name for name in RUNNER_FILES},
        REQUIREMENTS: _requirements(manifest).encode(),
        GOLDEN: canonical_json([_golden_row(raw, logits) for raw, logits in golden]) + b"\n",
    }


def _golden_row(raw: str | bytes, logits: list[float]) -> dict[str, Any]:
    if isinstance(raw, bytes):
        return {"image_base64": base64.b64encode(raw).decode(), "logits": logits}
    return {"text": raw, "logits": logits}


def _requirements(manifest: Manifest) -> str:
    """What the runner imports: the runtime at least at the version that the bundle was measured with. Not in a recipe:
    there TensorRT comes with JetPack or from NVIDIA's package index."""
    reads = {"text": "tokenizers", "image": "Pillow"}[manifest.preprocessor.kind]
    versions = [(name, LOWEST[name]) for name in (reads, "numpy")]
    if manifest.artifact == "engine":
        runtime = distribution(manifest.runtime)
        if runtime is None:
            raise BadInput(f"runtime {manifest.runtime} is not installed here, so no engine of it can be bundled")
        versions.insert(0, runtime)
    return "".join(f"{name}>={found}\n" for name, found in versions)


def _manifest_bytes(manifest: Manifest) -> bytes:
    try:
        return runner_verify.serialise(to_plain(manifest))
    except ValueError as e:
        raise BadInput(f"bundle '{manifest.name}': lineage or figures hold what JSON cannot ({e})") from e


def _entry(folder: Path, path: str) -> FileEntry:
    size = (folder / path).stat().st_size
    if size > runner_verify.MAX_FILE_BYTES:
        raise BadInput(f"bundle file '{path}': {size:,} bytes is over the limit of {runner_verify.MAX_FILE_BYTES:,}")
    return FileEntry(path=path, bytes=size, sha256=sha256_file(folder / path))


def _put(path: Path, content: Path | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as target:
        if isinstance(content, bytes):
            target.write(content)
        else:
            with open(content, "rb") as source:
                shutil.copyfileobj(source, target, runner_verify.CHUNK_BYTES)
        target.flush()
        os.fsync(target.fileno())


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, removed in the end with whatever is in it then."""
    if os.path.lexists(folder) and not _may_be_replaced(folder):
        raise BadInput(f"{folder}: exists and is no bundle; it is not overwritten, choose another path")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
    except OSError as e:
        raise BadInput(f"{e.filename or folder}: bundle cannot be written ({e.strerror})") from e
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _may_be_replaced(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / runner_verify.MANIFEST).is_file() or not any(folder.iterdir())


def _is_whole(folder: Path) -> bool:
    try:
        return not runner_verify.problems(folder)
    except (runner_verify.BadManifest, OSError):
        return False


def _move_over(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`. What stood there is under the name `new` afterwards, for the caller to remove."""
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(new, folder)
    elif not _exchange(new, folder):
        aside = new.with_suffix(".old")
        os.replace(folder, aside)
        try:
            os.replace(new, folder)
        except OSError:
            os.replace(aside, folder)
            raise
        os.replace(aside, new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step (Linux, most file systems): no reader ever finds the bundle absent."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return renameat2 is not None and not renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE)
