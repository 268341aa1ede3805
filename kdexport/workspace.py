"""The run folder: each finished stage in a folder named by the hash of its inputs, each decision in a file.

A stage whose key is there is never redone; a half-done one is taken up where its own files allow it."""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kdexport.errors import BadInput, Damaged
from kdexport.nouns.base import Noun
from kdexport.nouns.measurement import Decision
from kdexport.storage.files import content_key, ensure_writable, read_json, to_plain, write_bytes, write_json

log = logging.getLogger(__name__)
N = TypeVar("N", bound=Noun)
RESULT = "result.json"
ROWS = "rows.json"  # of a stage's folder: whose rows it was made from
GENERATION = "generation.json"


class Workspace:
    """`out` is created. on_stage(name, seconds, cached) is told of every stage that ends."""

    def __init__(self, out: Path, on_stage: Callable[[str, float, bool], None] | None = None) -> None:
        ensure_writable(out)
        self.out = out
        self.on_stage = on_stage or (lambda name, seconds, cached: None)
        self.seconds: dict[str, float] = {}
        self.rows = ""  # name of the record of the rows in use; '' before there is one
        self.record: Callable[[], None] | None = None  # writes it, before the first thing is made from the rows

    def folder(self, name: str, key: str) -> Path:
        return self.out / "stages" / f"{name}-{key[:12]}"

    def stage(self, name: str, version: int, inputs: Any, noun: type[N], make: Callable[[Path, str], N]) -> N:
        """The stage's result: read if its key is finished, else made by make(folder, key) and written last."""
        key = content_key(name, version, inputs)
        folder = self.folder(name, key)
        started = time.monotonic()
        if (folder / RESULT).is_file():
            result, seconds = _read(folder / RESULT, noun, key)
            self._done(name, seconds, True)
            return result
        folder.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(folder)
        if rows := self._recorded_rows():
            write_json(folder / ROWS, {"rows": rows})
        log.info("stage=%s key=%s started", name, key[:12])
        result = make(folder, key)
        seconds = round(time.monotonic() - started, 3)  # the same figure now and on a later run
        write_json(folder / RESULT, {"key": key, "seconds": seconds, "result": result})
        self._done(name, seconds, False)
        return result

    def _recorded_rows(self) -> str:
        if self.record is not None:
            self.record()
            self.record = None
        return self.rows

    def has(self, name: str, version: int, inputs: Any) -> bool:
        """Is this stage finished?"""
        return (self.folder_of(name, version, inputs) / RESULT).is_file()

    def folder_of(self, name: str, version: int, inputs: Any) -> Path:
        return self.folder(name, content_key(name, version, inputs))

    def decide(self, name: str, inputs: Any, make: Callable[[], Decision]) -> Decision:
        """A choice by measurement: written before it is used, read ever after."""
        path = self.out / "decisions" / f"{name}-{content_key(name, inputs)[:12]}.json"
        if path.is_file():
            try:
                return Decision.model_validate(read_json(path))
            except ValidationError as e:
                raise Damaged(
                    f"{path}: not a decision ({e.errors()[0]['msg']}); delete it, it is measured again"
                ) from e
        decision = make()
        if rows := self._recorded_rows():
            write_bytes(path.with_suffix(f".{rows}.rows"), b"")
        write_json(path, decision)
        log.info("decision=%s choice=%s", name, decision.choice)
        return Decision.model_validate(to_plain(decision))

    @cached_property
    def generation(self) -> int:
        """How often everything was measured anew here: part of the key of whatever is measured."""
        path = self.out / "decisions" / GENERATION
        return int(read_json(path)["generation"]) if path.is_file() else 0

    def forget_measurements(self) -> None:
        """--remeasure: every choice and every timing is made again."""
        generation = self.generation + 1
        for path in [*(self.out / "decisions").glob("*.json"), *(self.out / "decisions").glob("*.rows")]:
            path.unlink()
        write_json(self.out / "decisions" / GENERATION, {"generation": generation})
        self.__dict__["generation"] = generation

    def results(self, name: str, noun: type[N]) -> list[N]:
        """All finished results of a stage in this folder, whatever their key."""
        found = sorted((self.out / "stages").glob(f"{name}-*/{RESULT}"))
        return [noun.model_validate(read_json(path)["result"]) for path in found]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time in a folder. The lock ends with the process, however it ends."""
        with open(self.out / ".lock", "w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise BadInput(f"{self.out}: another kdexport run is working in this folder; wait, or use --out") from e
            yield

    def _done(self, name: str, seconds: float, cached: bool) -> None:
        self.seconds[name] = seconds
        log.info("stage=%s seconds=%.1f cached=%s", name, seconds, cached)
        self.on_stage(name, seconds, cached)


def _clear_leftovers(folder: Path) -> None:
    """Half-written files of a killed run; the folder's lock says that no other run is writing them."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(path: Path, noun: type[N], key: str) -> tuple[N, float]:
    document = read_json(path)
    try:
        if document["key"] != key:
            raise Damaged(f"{path}: belongs to another stage; delete {path.parent}, it is made again")
        return noun.model_validate(document["result"]), float(document["seconds"])
    except (ValueError, KeyError, TypeError) as e:  # pydantic's ValidationError is a ValueError
        raise Damaged(f"{path}: not a result of this version; delete {path.parent}, it is made again") from e
