"""Ask a TeacherSet: raw inputs in, logits in the project's class order out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdexport.bundle.runner.image import ImageEncoder
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.profile import Precision
from kdexport.nouns.project import Ensemble, TeacherSource
from kdexport.nouns.teacher import TeacherMember, TeacherSet
from kdexport.runtimes import load_runtime
from kdexport.storage.files import content_key
from kdexport.storage.tables import Raw
from kdexport.teachers import columns_for, teacher_kind
from kdexport.teachers._ensemble import as_given, combine

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 32  # pictures a batch
BATCH_TOKENS = 256  # texts a batch, with padding: what a layer makes of them stays in the caches (docs/decisions/0013)
PLAIN_RUNTIME = "onnxruntime"


class MemberEngine:
    """One ONNX member with its preprocessing: what is timed end to end as the teacher."""

    def __init__(
        self, member: TeacherMember, folder: Path, graph: Path, threads: int, runtime: str = PLAIN_RUNTIME
    ) -> None:
        assert member.preprocessor is not None
        self.member = member
        self.engine = load_runtime(runtime).open_engine(graph, threads)
        self.preprocessor = member.preprocessor
        if self.preprocessor.kind == "text":
            from tokenizers import Tokenizer

            self.tokenizer: Any = Tokenizer.from_file(str(folder / str(member.tokenizer)))
            self.tokenizer.no_padding()  # a file may ask for it, and the mask is made from the length
            self.tokenizer.enable_truncation(self.preprocessor.max_length)
        else:
            self.images = ImageEncoder(self.preprocessor.model_dump())

    @cached_property
    def preprocessing(self) -> str:
        """Equal for members that make the same tensors of a request: an ensemble makes them once."""
        tokenizer = self.tokenizer.to_str() if self.preprocessor.kind == "text" else ""
        declared = self.preprocessor.model_copy(update={"tokenizer": ""})
        return content_key(declared, tokenizer, self.member.input_names)

    def feeds(self, inputs: Sequence[Raw]) -> dict[str, np.ndarray]:
        """Raw inputs as the graph's named tensors, padded to the longest."""
        if self.preprocessor.kind == "image":
            return {self.member.input_names[0]: self.images.encode_batch(list(inputs))}
        return self._text_feeds(self.token_ids(inputs))

    def token_ids(self, inputs: Sequence[Raw]) -> list[list[int]]:
        """At least one a text: what has none, empty and not framed, is one of padding."""
        return [e.ids or [self._pad_id()] for e in self.tokenizer.encode_batch_fast(list(inputs))]

    def batches(
        self, inputs: Sequence[Raw], batch_rows: int | None
    ) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """(rows, their feeds): pictures by number; texts, the shortest first, by the tokens that a batch is padded to.
        batch_rows: so many rows of either."""
        if self.preprocessor.kind == "image":
            for start in range(0, len(inputs), batch_rows or BATCH_ROWS):
                rows = list(range(start, min(start + (batch_rows or BATCH_ROWS), len(inputs))))
                yield rows, self.feeds([inputs[i] for i in rows])
            return
        ids = self.token_ids(inputs)
        for rows in by_tokens([len(row) for row in ids], batch_rows):
            yield rows, self._text_feeds([ids[i] for i in rows])

    def feeds_one(self, raw: Raw) -> dict[str, np.ndarray]:
        """One text, no padding, no batch: the reference path whose latency is quoted."""
        if self.preprocessor.kind == "image":
            return {self.member.input_names[0]: self.images.encode(raw)}
        return self._text_feeds([self.tokenizer.encode(raw).ids or [self._pad_id()]])

    def _text_feeds(self, rows: list[list[int]]) -> dict[str, np.ndarray]:
        import numpy as np

        length = max(len(r) for r in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64) + self._pad_id()
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        tensors = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        names = self.member.input_names
        return {n: tensors.get(n, ids) for n in names}

    def _pad_id(self) -> int:
        return self.preprocessor.pad_id


def by_tokens(lengths: Sequence[int], batch_rows: int | None = None) -> Iterator[list[int]]:
    """Rows in batches of at most BATCH_TOKENS, the shortest rows first; a longer row stands alone."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        full = len(batch) == batch_rows if batch_rows else (len(batch) + 1) * lengths[row] > BATCH_TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def engine_graphs(teachers: TeacherSet, folder: Path, engine: str, built: Path) -> list[Path | None]:
    """Every member's graph for `engine` ("runtime/precision"), written to `built` where it is not the member's own. The
    fused graph holds ONNX Runtime's own operators: another runtime gets the plain one."""
    runtime, precision = engine.split("/")
    paths: list[Path | None] = []
    for number, member in enumerate(teachers.members, 1):
        graph = member.graph if runtime == PLAIN_RUNTIME else member.plain_graph or member.graph
        own = built / str(number)
        paths.append(
            load_runtime(runtime).build(folder / graph, cast(Precision, precision), own, []) if graph else None
        )
    return paths


def answer_one(members: Sequence[MemberEngine], raw: Raw) -> list[np.ndarray]:
    """Every member's logits (1, C) of one request; what several members preprocess alike is preprocessed once."""
    feeds: dict[str, dict[str, np.ndarray]] = {}
    for member in members:
        if member.preprocessing not in feeds:
            feeds[member.preprocessing] = member.feeds_one(raw)
    return [member.engine.run(feeds[member.preprocessing]) for member in members]


class Teachers:
    """All members, opened once. `logits` combines them where there are several, as the set says.

    graphs: by member, in place of its own; runtime: what opens them."""

    def __init__(
        self,
        teachers: TeacherSet,
        sources: Sequence[TeacherSource],
        folder: Path,
        classes: Sequence[str],
        threads: int,
        graphs: Sequence[Path | None] = (),
        runtime: str = PLAIN_RUNTIME,
    ) -> None:
        self.members = teachers.members
        self.combination = teachers.combination or as_given([m.weight for m in self.members], Ensemble(), "as asked")
        self.sources = sources
        self.classes = classes
        self.folder = folder
        graphs = graphs or [folder / m.graph if m.graph else None for m in self.members]
        self.engines = [
            MemberEngine(m, folder, g, threads, runtime) if g else None
            for m, g in zip(self.members, graphs, strict=True)
        ]
        self.columns = [columns_for(m.classes, classes, m.source) for m in self.members]

    def logits(self, inputs: Sequence[Raw], batch_rows: int | None = None) -> np.ndarray:
        """float32 (N, C) in project class order: a single teacher's own logits, or the log-probabilities of an
        ensemble; a member without weight is not asked. Rows are batched by length, so the same list gives the same
        bits. batch_rows: so many at a time; None: as many as are fast."""
        if len(self.members) == 1:
            return self.member_logits(0, inputs, batch_rows)
        asked = [any(w) for w in self.combination.weights]
        answers = [self.member_logits(i, inputs, batch_rows) if asked[i] else None for i in range(len(self.members))]
        return combine(answers, self.combination)

    def member_logits(self, index: int, inputs: Sequence[Raw], batch_rows: int | None = None) -> np.ndarray:
        """float32 (N, C) of one member, in project class order. Raises BadInput for answers that are no logits."""
        answer = self._member_logits(index, inputs, batch_rows)
        _require_finite(answer, self.members[index], inputs)
        return answer

    def _member_logits(self, index: int, inputs: Sequence[Raw], batch_rows: int | None) -> np.ndarray:
        import numpy as np

        engine, member = self.engines[index], self.members[index]
        if not len(inputs):  # a user's function need not know what shape no answers have
            return np.empty((0, len(self.classes)), dtype=np.float32)
        if engine is None:
            answer = teacher_kind(member.kind).answer(self.sources[index], member, inputs, self.folder)
            return np.ascontiguousarray(self._in_order(answer, index))
        result = np.empty((len(inputs), len(self.classes)), dtype=np.float32)
        for rows, feeds in engine.batches(inputs, batch_rows):
            result[rows] = self._in_order(self._asked(engine, feeds), index)
        return result

    def _asked(self, engine: MemberEngine, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """Raises BadInput where the graph cannot take what its own preprocessing gives it."""
        try:
            return engine.engine.run(feeds)
        except (KdexportError, MemoryError):
            raise
        except Exception as e:  # the classes of ONNX Runtime have no common base
            raise BadInput(
                f"teacher {engine.member.source}: cannot answer ({' '.join(str(e).split())}); "
                "do its inputs, its tokenizer.json and its weights belong together?"
            ) from e

    def _in_order(self, answer: np.ndarray, index: int) -> np.ndarray:
        """The project's classes of a member's answer. Raises BadInput where it has other outputs than names."""
        member = self.members[index]
        if answer.shape[1:] != (len(member.classes),):
            raise BadInput(
                f"teacher {member.source}: answers with shape {answer.shape}, but {len(member.classes)} classes are "
                "named; give 'labels' in the project file: every output's class, in order"
            )
        return answer[:, self.columns[index]]


def _require_finite(logits: np.ndarray, member: TeacherMember, inputs: Sequence[Raw]) -> None:
    import numpy as np

    wrong = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(wrong):
        first = inputs[wrong[0]]
        raise BadInput(
            f"teacher {member.source}: {len(wrong)} answers are not finite numbers, the first to "
            + (f"'{first[:60]}'" if isinstance(first, str) else f"a picture of {len(first):,} bytes")
            + "; correct the teacher, or leave such rows out"
        )
    if logits.size and member.question is None and float(np.ptp(logits)) == 0.0:  # no answer is no fault of weights
        raise BadInput(
            f"teacher {member.source}: gives the same score for every class and input; are its weights zero?"
        )
