"""Ask a TeacherSet: raw inputs in, logits in the project's class order out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.bundle.runner.image import ImageEncoder
from kdexport.errors import BadInput, KdexportError
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember, TeacherSet
from kdexport.runtimes.onnxruntime import open_engine
from kdexport.storage.files import content_key
from kdexport.storage.tables import Raw
from kdexport.teachers import columns_for, teacher_kind

if TYPE_CHECKING:
    import numpy as np

BATCH_ROWS = 32  # long enough to fill two cores at 15 tokens a row, short enough to pad little


class MemberEngine:
    """One ONNX member with its preprocessing: what is timed end to end as the teacher."""

    def __init__(self, member: TeacherMember, folder: Path, graph: Path, threads: int) -> None:
        assert member.preprocessor is not None
        self.member = member
        self.engine = open_engine(graph, threads)
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
        return self._text_feeds([e.ids for e in self.tokenizer.encode_batch_fast(list(inputs))])

    def feeds_one(self, raw: Raw) -> dict[str, np.ndarray]:
        """One text, no padding, no batch: the reference path whose latency is quoted."""
        if self.preprocessor.kind == "image":
            return {self.member.input_names[0]: self.images.encode(raw)}
        return self._text_feeds([self.tokenizer.encode(raw).ids])

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

    def logits(self, inputs: Sequence[Raw]) -> np.ndarray:
        return self.engine.run(self.feeds(inputs))


def answer_one(members: Sequence[MemberEngine], raw: Raw) -> list[np.ndarray]:
    """Every member's logits (1, C) of one request; what several members preprocess alike is preprocessed once."""
    feeds: dict[str, dict[str, np.ndarray]] = {}
    for member in members:
        if member.preprocessing not in feeds:
            feeds[member.preprocessing] = member.feeds_one(raw)
    return [member.engine.run(feeds[member.preprocessing]) for member in members]


class Teachers:
    """All members, opened once. `logits` averages probabilities by weight where there are several."""

    def __init__(
        self, teachers: TeacherSet, sources: Sequence[TeacherSource], folder: Path, classes: Sequence[str], threads: int
    ) -> None:
        self.members = teachers.members
        self.sources = sources
        self.classes = classes
        self.engines = [MemberEngine(m, folder, folder / m.graph, threads) if m.graph else None for m in self.members]
        self.columns = [columns_for(m.classes, classes, m.source) for m in self.members]

    def logits(self, inputs: Sequence[Raw], batch_rows: int = BATCH_ROWS) -> np.ndarray:
        """float32 (N, C) in project class order: a single teacher's own logits, or the log of the weighted mean
        probability of an ensemble. Rows are batched by length, so the same list gives the same bits."""
        answers = [self._member_logits(i, inputs, batch_rows) for i in range(len(self.members))]
        for answer, member in zip(answers, self.members, strict=True):
            _require_finite(answer, member, inputs)
        return answers[0] if len(answers) == 1 else combine(answers, [m.weight for m in self.members])

    def _member_logits(self, index: int, inputs: Sequence[Raw], batch_rows: int) -> np.ndarray:
        import numpy as np

        engine, member = self.engines[index], self.members[index]
        if engine is None:
            answer = teacher_kind(member.kind).answer(self.sources[index], member, inputs)
            return np.ascontiguousarray(self._in_order(answer, index))
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        result = np.empty((len(inputs), len(self.classes)), dtype=np.float32)
        for start in range(0, len(order), batch_rows):
            rows = order[start : start + batch_rows]
            result[rows] = self._in_order(self._asked(engine, [inputs[i] for i in rows]), index)
        return result

    def _asked(self, engine: MemberEngine, inputs: Sequence[Raw]) -> np.ndarray:
        """Raises BadInput where the graph cannot take what its own preprocessing gives it."""
        try:
            return engine.logits(inputs)
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


def combine(answers: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """log of the weighted mean of softmax probabilities, float32 (N, C)."""
    import numpy as np

    total = np.zeros(answers[0].shape, dtype=np.float64)
    for logits, weight in zip(answers, weights, strict=True):
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        total += weight / sum(weights) * shifted / shifted.sum(-1, keepdims=True)
    return np.log(np.maximum(total, 1e-12)).astype(np.float32)


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
    if logits.size and float(np.ptp(logits)) == 0.0:
        raise BadInput(
            f"teacher {member.source}: gives the same score for every class and input; are its weights zero?"
        )
