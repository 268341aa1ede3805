"""What an endpoint has answered, in one file that only grows: nothing is asked twice, also after a kill.

A line is a JSON object: {"key", "logits"} or {"key", "none"} an answer to one text; {"hold", "usd"} money held for a
request before it is sent; {"paid", "usd", "in", "out"} what it cost; {"fault"} an attempt without an answer. The key is
a hash of text and question: no text stands in the file."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdexport.errors import BadInput, Damaged
from kdexport.nouns.endpoint import EndpointAnswers
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import sha256_bytes

log = logging.getLogger(__name__)
FOLDER = "answers"  # of the run folder
KEY_DIGITS = 32
SYNC_EVERY_S = 1.0  # a line is the kernel's as soon as it is written: a killed process loses none, a power cut a second


class Answers:
    """One file. Written by several threads of one process; the run folder's lock keeps others away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._where: dict[str, tuple[int, int]] = {}
        self._held: dict[int, float] = {}
        self._numbers = 0
        self.bytes_known = 0
        self._paid_usd = 0.0
        self._synced = time.monotonic()
        self.faults: Counter[str] = Counter()
        self.requests = self.requests_told = self.input_tokens = self.output_tokens = self.unanswered = 0
        self._read_all()

    @property
    def spent_usd(self) -> float:
        """Paid, and held by requests of which no outcome is known: they count as dear as they can be."""
        with self._lock:  # else a request is seen as neither, between the two
            return self._paid_usd + sum(self._held.values())

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def logits(self, key: str) -> Sequence[float] | None:
        """None: asked, and no answer came."""
        start, size = self._where[key]
        with open(self.path, "rb") as f:
            f.seek(start)
            record = json.loads(f.read(size))
        found: Sequence[float] | None = record.get("logits")
        return found

    def answer(self, found: Mapping[str, Sequence[float] | str]) -> None:
        """Logits by key, or why there are none: of one response, in one write."""
        self._write(
            [
                {"key": k, "none": v} if isinstance(v, str) else {"key": k, "logits": [round(float(x), 5) for x in v]}
                for k, v in found.items()
            ]
        )

    def hold(self, usd: float) -> int:
        with self._lock:
            self._numbers += 1
            number = self._numbers
        if usd:
            self._write([{"hold": number, "usd": usd}])
        return number

    def settle(self, number: int, usd: float, input_tokens: int, output_tokens: int) -> None:
        self._write([{"paid": number, "usd": usd, "in": input_tokens, "out": output_tokens}])

    def fault(self, kind: str) -> None:
        self._write([{"fault": kind}])

    def sync(self) -> None:
        if self.path.exists():
            with open(self.path, "rb") as f:
                os.fsync(f.fileno())

    def summary(self, name: str) -> EndpointAnswers:
        return EndpointAnswers(
            name=name,
            answered=len(self) - self.unanswered,
            unanswered=self.unanswered,
            faults=dict(self.faults),
            requests=self.requests,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            usd=round(self.spent_usd, 9),
        )

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        lines = [json.dumps(r, allow_nan=False).encode() + b"\n" for r in records]
        try:
            with self._lock, open(self.path, "ab", buffering=0) as f:
                start = f.seek(0, os.SEEK_END)
                data = b"".join(lines)
                if f.write(data) != len(data):
                    os.ftruncate(f.fileno(), start)  # other threads go on writing: not behind half a line
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if time.monotonic() - self._synced > SYNC_EVERY_S:
                    os.fsync(f.fileno())
                    self._synced = time.monotonic()
                for record, line in zip(records, lines, strict=True):
                    self._count(record, start, len(line))
                    start += len(line)
        except OSError as e:
            raise BadInput(f"{self.path}: cannot be written ({e.strerror}); free space and run again") from e

    def _read_all(self) -> None:
        """Raises Damaged for a line that is none; a torn last one is cut off: it was being written at a kill."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return
        start = 0
        with open(self.path, "rb") as f:
            for number, line in enumerate(f, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._count(json.loads(line), start, len(line))
                except (ValueError, KeyError, TypeError, AttributeError) as e:
                    raise Damaged(
                        f"{self.path}:{number}: not a line of answers; remove it, and what it told is asked again"
                    ) from e
                start += len(line)
        if start < self.path.stat().st_size:
            log.info("answers=%s torn last line cut off", self.path.name)
            os.truncate(self.path, start)

    def _count(self, record: Mapping[str, Any], start: int, size: int) -> None:
        self.bytes_known = start + size
        if "key" in record:
            self._where[record["key"]] = (start, size)
            self.unanswered += "none" in record
        elif "hold" in record:
            self._held[record["hold"]] = float(record["usd"])
            self._numbers = max(self._numbers, record["hold"])
        elif "paid" in record:
            self._held.pop(record["paid"], None)
            self._numbers = max(self._numbers, record["paid"])
            self._paid_usd += float(record["usd"])
            self.requests += 1
            self.requests_told += record["in"] > 0  # of which the server has told its usage
            self.input_tokens += record["in"]
            self.output_tokens += record["out"]
        else:
            self.faults[record["fault"]] += 1


def answers_of(run_folder: Path, member: TeacherMember) -> Path:
    """Where a member's answers are: `source` names its server, `sha256` its question."""
    return answers_file(run_folder, member.kind, member.source, member.sha256)


def answers_file(folder: Path, kind: str, server: str, question: str) -> Path:
    """Of the answers of one question; all files of one server begin alike, since they share its cap.

    folder: the run's."""
    return folder / FOLDER / f"{kind}-{sha256_bytes(server.encode())[:8]}-{question[:12]}.jsonl"


def spent_on_other_questions(path: Path) -> float:
    """USD in this run folder on the same server: another prompt is another file, but the same money."""
    same = path.name.rpartition("-")[0]
    return sum(Answers(other).spent_usd for other in path.parent.glob(f"{same}-*.jsonl") if other != path)


def open_answers(path: Path) -> Answers:
    """Read once in a process, as long as it is the same file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = _opened(path)
    if found.bytes_known != path.stat().st_size:  # another file of the same name
        _opened.cache_clear()
        found = _opened(path)
    return found


@lru_cache(maxsize=8)
def _opened(path: Path) -> Answers:
    return Answers(path)


def key_of(text: str, question: str) -> str:
    return sha256_bytes(f"{question}\n{text}".encode())[:KEY_DIGITS]
