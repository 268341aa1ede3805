"""`kdexport purge`: take all that was made from a person's rows out of a run folder.

Each run records which rows it had, as salted hashes (`rows/`), and each stage's folder whose rows it was made from
(`rows.json`): so what a row went into can be told, and no text is kept for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kdexport.bundle.write import GOLDEN, is_bundle
from kdexport.dataset import Dataset
from kdexport.errors import BadInput
from kdexport.nouns.base import Noun
from kdexport.nouns.project import Data, Project
from kdexport.redaction import redact, rules_of
from kdexport.storage.files import read_json, replacing, write_bytes
from kdexport.storage.tables import InputKind, Raw, read_rows
from kdexport.teachers._answers import FOLDER as ANSWERS
from kdexport.teachers._answers import key_of
from kdexport.teachers.chat import QUESTION
from kdexport.workspace import RESULT, ROWS, Workspace

if TYPE_CHECKING:
    import numpy as np

DIGEST_BYTES = 16
SALT = "salt"
ALL = ("train", "dev", "test", "unlabelled", "queries")
LEARNT = ("train", "dev", "unlabelled")
# which rows a stage's folder is made from, by the beginning of its name; any other stage: from all
MADE_FROM: dict[str, tuple[str, ...]] = {
    "environment": (),
    "predict-teacher": ("dev", "test", "queries"),
    "answers-dev": ("dev",),
    "answers-queries": ("queries",),
    **dict.fromkeys(
        ("label", "tune", "distil", "ladder", "engines", "bundle", "baseline-hard-labels", "quantise", "plan"), LEARNT
    ),
}
REPORTS = ("report.json", "report.html", "costs.csv", "costs.xlsx")


class Purged(Noun):
    """What was taken away: counts and places, never a text."""

    rows: int = Field(description="distinct rows of the run folder's data that were meant")
    removed: dict[str, int] = Field(description="folders and files by stage")
    bytes: int
    bundles: tuple[str, ...] = ()
    bundles_kept: tuple[str, ...] = Field(default=(), description="they hold what was learnt from the rows")
    rows_in_bundles: int = Field(default=0, description="rows that stand as they are in the kept bundles' golden.json")
    still_in: tuple[str, ...] = Field(default=(), description="data files and lines that still hold the rows")


# --- what a run writes


def record_rows(workspace: Workspace, dataset: Dataset) -> None:
    """From now on every stage's folder names these rows. Written once for the same rows."""
    workspace.rows = dataset.sha256[:12]
    path = workspace.out / "rows" / f"{workspace.rows}.npz"
    if path.is_file():
        return
    import numpy as np

    salt = _salt(workspace.out / "rows")
    hashes = {role: _hashes(inputs, salt) for role, inputs in _by_role(dataset).items()}
    with replacing(path) as temporary, open(temporary, "wb") as f:
        np.savez(f, **hashes)  # type: ignore[arg-type]


def _by_role(dataset: Dataset) -> dict[str, Sequence[Raw]]:
    splits = (dataset.train.inputs, dataset.dev.inputs, dataset.test.inputs, dataset.unlabelled, dataset.query_test)
    return dict(zip(ALL, splits, strict=True))


def texts_of(dataset: Dataset | None) -> Iterator[str]:
    """Every text of it; none where it has not been read."""
    for inputs in _by_role(dataset).values() if dataset is not None else ():
        yield from (raw for raw in inputs if isinstance(raw, str))


def _salt(folder: Path) -> bytes:
    """One for all rows of a run folder: hashes of another's tell nothing about this one's."""
    if not (folder / SALT).is_file():
        write_bytes(folder / SALT, os.urandom(DIGEST_BYTES))
    return (folder / SALT).read_bytes()


def _hashes(inputs: Sequence[Raw], salt: bytes) -> np.ndarray:
    """uint8 (N, 16). Case and the width of white space tell nothing."""
    import numpy as np

    found = b"".join(hashlib.blake2b(_plain(raw), digest_size=DIGEST_BYTES, key=salt).digest() for raw in inputs)
    return np.frombuffer(found, dtype=np.uint8).reshape(len(inputs), DIGEST_BYTES)


def _plain(raw: Raw) -> bytes:
    return raw if isinstance(raw, bytes) else " ".join(raw.casefold().split()).encode(errors="surrogatepass")


# --- what is taken away


def read_texts(file: Path) -> list[str]:
    """One text a line. Raises BadInput."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{file}: cannot be read as UTF-8 text ({e}); write one text a line") from e


def purge(
    workspace: Workspace, project: Project, kind: InputKind, texts: Sequence[str], keep_bundles: bool = False
) -> Purged:
    """texts: a row is meant whose raw input contains one of them, in any case, or that is one of them as imported.

    Stage by stage; killed, the same call goes on. Raises BadInput for an empty text or a run folder of no run."""
    if not texts or any(not text.strip() for text in texts):
        raise BadInput("no text to look for: give --containing TEXT or --file FILE, and no blank line in it")
    if not (workspace.out / "rows" / SALT).is_file():
        raise BadInput(f"{workspace.out}: holds no record of rows; is it a run folder? An older one: delete it whole")
    _clear(workspace.out / "stages")
    meant = _meant(project.data, kind, texts)
    by_text = dict(zip(meant.inputs, map(bytes, _hashes(meant.inputs, _salt(workspace.out / "rows"))), strict=True))
    wanted = set(by_text.values())
    records = [record for record in _records(workspace.out / "rows", wanted) if record.roles]
    removal = _Removal(workspace.out, keep_bundles, by_text)
    for record in records:
        removal.stages_of(record)
    if records:
        removal.answers(meant.others)
        removal.log_lines(texts)
    found = {row for record in records for row in record.found}
    for record in records:
        removal.forget(record, wanted)
    return Purged(
        rows=len(found),
        removed=dict(sorted(removal.counts.items())),
        bytes=removal.bytes,
        bundles=tuple(removal.bundles),
        bundles_kept=tuple(removal.bundles_kept),
        rows_in_bundles=removal.rows_in_bundles,
        still_in=tuple(meant.places),
    )


@dataclass(frozen=True)
class _Meant:
    """inputs: as imported. places: file and line of those that the data files hold. others: all other rows of them."""

    inputs: tuple[Raw, ...]
    places: tuple[str, ...]
    others: frozenset[Raw]


def _meant(data: Data, kind: InputKind, texts: Sequence[str]) -> _Meant:
    rules = rules_of(data.redact)
    wanted = [" ".join(text.casefold().split()) for text in texts]

    def imported(raw: Raw) -> Raw:
        return redact(raw, rules)[0] if isinstance(raw, str) else raw

    inputs: dict[Raw, None] = dict.fromkeys(redact(text.strip(), rules)[0] for text in texts)
    places, others = [], set()
    tables = [t for t in (data.train, data.test, *data.queries, *data.unlabelled) if t is not None]
    for rows in (read_rows(table, kind, labelled=False) for table in tables):
        for raw, place in zip(rows.inputs, rows.places, strict=True):
            told = " ".join(raw.casefold().split()) if isinstance(raw, str) else place.casefold()
            if any(text in told for text in wanted):
                inputs[imported(raw)] = None
                places.append(place)
            else:
                others.add(imported(raw))
    return _Meant(tuple(inputs), tuple(places), frozenset(others - set(inputs)))


@dataclass(frozen=True)
class _Record:
    """One run's rows. roles: where the rows that are meant stand; found: their hashes."""

    path: Path
    roles: frozenset[str]
    found: frozenset[bytes]


def _records(folder: Path, wanted: set[bytes]) -> Iterator[_Record]:
    import numpy as np

    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as hashes:
            by_role = {role: {bytes(row) for row in hashes[role]} & wanted for role in ALL}
        roles = frozenset(role for role, found in by_role.items() if found)
        yield _Record(path, roles, frozenset().union(*by_role.values()))


class _Removal:
    """Counts what it takes away. A folder is renamed before it is emptied: it is there whole, or not at all."""

    def __init__(self, out: Path, keep_bundles: bool, meant: dict[Raw, bytes]) -> None:
        self.out, self.keep_bundles, self.meant = out, keep_bundles, meant
        self.rows_in_bundles = 0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.bundles: list[str] = []
        self.bundles_kept: list[str] = []

    def stages_of(self, record: _Record) -> None:
        """Stages, decisions, bundles and reports of one run's rows; folders without a record are taken for made from
        them."""
        name = record.path.stem
        for folder in sorted((self.out / "stages").glob("*-*"), reverse=True):
            stage = folder.name.rpartition("-")[0]
            if _rows_of(folder) not in ("", name):
                continue
            if record.roles & set(_made_from(stage, folder)) or self._shown_as_example(folder, record):
                if stage.startswith("bundle-"):
                    self._bundle(stage.removeprefix("bundle-"), folder)
                self._folder(stage, folder)
        learnt = bool(record.roles & set(LEARNT))
        for path in sorted((self.out / "decisions").glob(f"*.{name}.rows")) if learnt else ():
            decision = path.with_name(path.name.removesuffix(f".{name}.rows") + ".json")
            self._files("decisions", [decision, path])
        if learnt:
            self._files("imported labels", sorted((self.out / "imported").glob("*.json")))
        if not self.bundles_kept:
            self._files("report", [self.out / report for report in REPORTS])

    def _shown_as_example(self, folder: Path, record: _Record) -> bool:
        """Does a teacher's question to a language model quote one of the rows?"""
        if not (folder / QUESTION).is_file():
            return False
        messages = [_plain(str(m["content"])) for m in read_json(folder / QUESTION).get("messages", ())]
        rows = [_plain(raw) for raw, digest in self.meant.items() if digest in record.found]
        return any(row in message for row in rows for message in messages)

    def _bundle(self, target: str, stage: Path) -> None:
        """Also one that was altered since it was written: its golden.json holds rows all the same."""
        made = self.out / "bundles" / target
        others = [p for p in (self.out / "stages").glob(f"bundle-{target}-*") if p != stage]
        if not made.is_dir() or any(is_bundle(made, _bundle_sha256(other)) for other in others):
            return
        if self.keep_bundles:
            self.bundles_kept.append(str(made))
            golden = (made / GOLDEN).read_text(encoding="utf-8") if (made / GOLDEN).is_file() else ""
            self.rows_in_bundles += sum(
                json.dumps(raw, ensure_ascii=False) in golden for raw in self.meant if isinstance(raw, str)
            )
        else:
            self._folder("bundles", made)
            self.bundles.append(str(made))

    def answers(self, others: frozenset[Raw]) -> None:
        """Of an endpoint, those to rows that remain are kept, and what all cost; answers to the rows themselves, and to
        variants, which may hold words of any row, go."""
        questions = [_question(path) for path in (self.out / "stages").glob(f"teach-*/{RESULT}")]
        for path in sorted((self.out / ANSWERS).glob("*.jsonl")):
            suffix = path.stem.rpartition("-")[2]
            question = next((q for q in questions if q[:12] == suffix), "")
            kept = {key_of(text, question) for text in others if isinstance(text, str)} if question else set()
            self._lines(ANSWERS, path, lambda record, kept=kept: record.get("key") in kept | {None})

    def _lines(self, kind: str, path: Path, stays: Any) -> None:
        """A torn last line was being written at a kill, and goes."""
        lines = path.read_bytes().splitlines(keepends=True)
        left = [line for line in lines if line.endswith(b"\n") and stays(json.loads(line))]
        if len(left) < len(lines):
            self.counts[kind] += len(lines) - len(left)
            self.bytes += sum(map(len, lines)) - sum(map(len, left))
            write_bytes(path, b"".join(left))

    def log_lines(self, texts: Sequence[str]) -> None:
        path = self.out / "log.txt"
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        left = [line for line in lines if not any(text.casefold() in line.casefold() for text in texts)]
        if len(left) < len(lines):
            self.counts["log lines"] += len(lines) - len(left)
            write_bytes(path, "".join(left).encode())

    def forget(self, record: _Record, wanted: set[bytes]) -> None:
        """Last of all: the hashes of the rows themselves."""
        import numpy as np

        with np.load(record.path, allow_pickle=False) as hashes:
            left = {role: [row for row in hashes[role] if bytes(row) not in wanted] for role in ALL}
        with replacing(record.path) as temporary, open(temporary, "wb") as f:
            arrays = {r: np.array(rows, dtype=np.uint8).reshape(len(rows), DIGEST_BYTES) for r, rows in left.items()}
            np.savez(f, **arrays)  # type: ignore[arg-type]

    def _folder(self, kind: str, folder: Path) -> None:
        self.bytes += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        self.counts[kind] += 1
        away = folder.with_name(f".{folder.name}.purged.tmp")
        folder.rename(away)
        shutil.rmtree(away)

    def _files(self, kind: str, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.is_file():
                self.bytes += path.stat().st_size
                self.counts[kind] += path.suffix != ".rows"
                path.unlink()


def _clear(folder: Path) -> None:
    """What a killed purge has renamed, and not emptied yet; and bundles that a killed run was writing or replacing."""
    bundles = folder.parent / "bundles"
    for path in [*folder.glob(".*.purged.tmp"), *bundles.glob(".*.tmp"), *bundles.glob(".*.old")]:
        shutil.rmtree(path)


def _rows_of(folder: Path) -> str:
    return str(read_json(folder / ROWS)["rows"]) if (folder / ROWS).is_file() else ""


def _made_from(stage: str, folder: Path) -> tuple[str, ...]:
    if stage.startswith("teach-"):  # rows make a teacher only where one is fitted on them
        made = read_json(folder / RESULT)["result"]["kind"] if (folder / RESULT).is_file() else "fit"
        return ("train", "dev") if made == "fit" else ()
    known = sorted((name for name in MADE_FROM if stage == name or stage.startswith(f"{name}-")), key=len)
    return MADE_FROM[known[-1]] if known else ALL


def _bundle_sha256(stage: Path) -> str:
    found = read_json(stage / RESULT)["result"] if (stage / RESULT).is_file() else {}
    return str(found.get("sha256", ""))


def _question(path: Path) -> str:
    return str(read_json(path)["result"].get("sha256", ""))


def told(found: Purged, folder: Path) -> list[str]:
    """Lines for people."""
    lines = [f"{found.rows:,} rows; {found.bytes:,} bytes removed from {folder}"]
    lines += [f"removed: {count:,} {kind}" for kind, count in found.removed.items()]
    lines += [f"bundle removed: {bundle}; what was deployed from it lives on there" for bundle in found.bundles]
    lines += [f"bundle kept: {bundle}; it holds what was learnt from the rows" for bundle in found.bundles_kept]
    if found.rows_in_bundles:
        lines.append(
            f"{found.rows_in_bundles:,} rows stand as they are in golden.json of the kept bundles: remove those"
        )
    mend = "remove the row there, then `kdexport run` makes again what is missing"
    return lines + [f"still in {place}: {mend}" for place in found.still_in]
