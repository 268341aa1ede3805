"""Write once, atomically; read only what is whole; hash everything."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdexport.errors import BadInput, Damaged

CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises BadInput if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as f:
            while chunk := f.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    return digest.hexdigest()


def sha256_folder(path: Path) -> str:
    """SHA-256 over the names and bytes of every file below a folder, in name order."""
    lines = [f"{p.relative_to(path).as_posix()} {sha256_file(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
    return sha256_bytes("\n".join(lines).encode())


def to_plain(value: Any) -> Any:
    """A value as JSON-ready dicts, lists and scalars; pydantic nouns are dumped."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def canonical_json(value: Any) -> bytes:
    """The one byte sequence for a value: sorted keys, no NaN; for hashing and for files."""
    return json.dumps(to_plain(value), sort_keys=True, allow_nan=False, ensure_ascii=False).encode()


def content_key(*parts: Any) -> str:
    """A stable 64-digit key of values, for cache folders."""
    return sha256_bytes(canonical_json(parts))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the body ends well, removed if it does not.

    Raises BadInput where the folder cannot be written or the disk is full."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as e:
        raise BadInput(f"{path}: cannot be written ({e.strerror}); free space or choose another --out") from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented, sorted JSON, written atomically. Raises ValueError on NaN."""
    text = json.dumps(to_plain(value), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


MADE_AGAIN = "delete it, it is made again"


def read_json(path: Path, mend: str = MADE_AGAIN) -> Any:
    """Parsed JSON. Raises Damaged where the file is truncated or not JSON; `mend`: what to do then."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise Damaged(f"{path}: not valid JSON ({e}); {mend}") from e


def read_users_json(path: Path) -> Any:
    """A JSON file that kdexport did not write and cannot make again."""
    return read_json(path, "correct it, or copy it again from where it came")


def ensure_writable(folder: Path) -> None:
    """Create a folder and prove that a file can be written in it. Raises BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as f:
            f.write(b"x")
    except (FileExistsError, NotADirectoryError) as e:
        raise BadInput(f"{folder}: cannot be written (a file is in the way); choose another --out") from e
    except OSError as e:
        raise BadInput(f"{folder}: cannot be written ({e.strerror}); free space or choose another --out") from e
