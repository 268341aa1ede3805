"""Check a bundle: every file is there, nothing else is, and every byte is what manifest.json says.

python verify.py [FOLDER]     prints `ok: N files` (exit 0), each difference (exit 1), or why the manifest cannot be
                              read (exit 2). Only the standard library is needed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20  # 16 MiB: hundreds of times the largest manifest written
MAX_FILE_BYTES = 8 << 30  # 8 GiB: no student comes near; a device must not be kept busy hashing more
CHUNK_BYTES = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


class BadManifest(ValueError):
    """manifest.json is altered or not a manifest: nothing can be said of the other files."""


def serialise(document: dict[str, Any]) -> bytes:
    """The one byte sequence of a manifest, with `checksum` set: the SHA-256 over all its other keys.

    The checksum guards against accidents (a bit flip in a label). Who fears a forger compares the SHA-256 of
    manifest.json, which covers every file, with one from elsewhere."""
    body = {k: v for k, v in document.items() if k != "checksum"}
    return _dump({**body, "checksum": hashlib.sha256(_dump(body)).hexdigest()})


def _dump(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json as a dict whose `files` are well formed. Raises BadManifest, or OSError if it cannot be read."""
    path = Path(folder) / MANIFEST
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise BadManifest(f"{path}: is not a plain file")
    with open(path, "rb") as f:
        data = f.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BadManifest(f"{path}: is over {MAX_MANIFEST_BYTES:,} bytes")
    try:
        document = json.loads(data.decode(), object_pairs_hook=_without_duplicates)
        unaltered = isinstance(document, dict) and serialise(document) == data
    except (ValueError, RecursionError) as e:
        raise BadManifest(f"{path}: is not a manifest ({e}); copy the bundle again") from e
    if not unaltered:
        raise BadManifest(f"{path}: was altered (its checksum or layout differs); copy the bundle again")
    if not _well_formed(document.get("files")):
        raise BadManifest(f"{path}: 'files' must list path, bytes and sha256 of each file")
    return dict(document)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key '{next(n for n in names if names.count(n) > 1)}' stands twice")
    return document


def _well_formed(files: Any) -> bool:
    return isinstance(files, list) and all(
        isinstance(f, dict)
        and set(f) == {"path", "bytes", "sha256"}
        and isinstance(f["path"], str)
        and type(f["bytes"]) is int
        and f["bytes"] >= 0
        and isinstance(f["sha256"], str)
        and SHA256.fullmatch(f["sha256"])
        for f in files
    )


def is_safe(path: str) -> bool:
    """Whether a path stays inside the bundle on every system: relative, '/' between names, no '..', no drive."""
    return (
        path.isprintable()
        and re.search(r'[\\:*?"<>|]', path) is None
        and all(name not in ("", ".", "..", "__pycache__") for name in path.split("/"))
    )


def problems(folder: Path) -> list[str]:
    """Each difference between the folder and its manifest; empty: the bundle is whole. Raises BadManifest, OSError.

    Only files that a walk of the folder found are opened, and only where their size is the one declared: no path of
    the manifest leads outside, and nothing large is read for nothing."""
    folder = Path(folder)
    files = read_manifest(folder)["files"]
    found, differences = _walk(folder)
    declared = {f["path"]: f for f in files if is_safe(f["path"]) and f["path"] != MANIFEST}
    differences += [
        f"{f['path']!r}: is not a path that a manifest may name" for f in files if f["path"] not in declared
    ]
    if len({f["path"] for f in files}) != len(files):
        differences.append(f"{MANIFEST}: names a file twice")
    differences += [f"{p}: missing" for p in declared if p not in found]
    differences += [f"{p}: not in the manifest" for p in found if p not in declared and p != MANIFEST]
    for path in declared.keys() & found.keys():
        differences += _compare(folder / path, found[path], declared[path])
    return sorted(differences)


def _walk(folder: Path) -> tuple[dict[str, int], list[str]]:
    """(bytes of each plain file by '/'-separated path, differences): links are named, never followed."""
    found: dict[str, int] = {}
    differences: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as items:
            for item in items:
                path = prefix + item.name
                if item.is_symlink():
                    differences.append(f"{path}: is a link")
                elif item.is_dir(follow_symlinks=False):
                    pending += [path + "/"] if item.name != "__pycache__" else []
                elif item.is_file(follow_symlinks=False):
                    found[path] = item.stat(follow_symlinks=False).st_size
                else:
                    differences.append(f"{path}: is not a plain file")
    return found, differences


def _compare(file: Path, size: int, declared: dict[str, Any]) -> list[str]:
    path = declared["path"]
    if size > MAX_FILE_BYTES:
        return [f"{path}: {size:,} bytes is over the limit of {MAX_FILE_BYTES:,}"]
    if size != declared["bytes"]:
        return [f"{path}: {size:,} bytes, the manifest says {declared['bytes']:,}"]
    digest = _sha256(file, size)
    if digest != declared["sha256"]:
        return [f"{path}: SHA-256 {digest[:12]}..., the manifest says {declared['sha256'][:12]}..."]
    return []


def _sha256(file: Path, size: int) -> str:
    """Of at most size + 1 bytes: a file that grows meanwhile neither passes nor holds us up."""
    digest = hashlib.sha256()
    left = size + 1
    with open(os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as f:
        while left > 0:
            chunk = f.read(min(CHUNK_BYTES, left))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().folder
    try:
        count = len(read_manifest(folder)["files"])
        differences = problems(folder)
    except BadManifest as e:
        print(e, file=sys.stderr)
        return 2
    except OSError as e:
        print(f"{e.filename}: cannot be read ({e.strerror}); is this a whole bundle?", file=sys.stderr)
        return 2
    print("\n".join(differences) if differences else f"ok: {count} files")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
