"""A teacher that is a classifier behind the Open Inference Protocol v2 over HTTP: Triton, KServe, MLServer.

Raw texts go in as BYTES, or token tensors made by a named tokenizer; a tensor of scores (B, C) comes back. The server's
metadata is read and checked before anything is asked; a few texts are asked before anything depends on the answers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kdexport.errors import BadInput, Unsupported, unknown_name
from kdexport.nouns.endpoint import AskingCost, OpenInference, Tensor, TensorQuestion
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import content_key, read_json, sha256_file, write_json
from kdexport.storage.tables import Raw
from kdexport.tasks import load_task
from kdexport.teachers import TeacherContext, columns_for, member_of
from kdexport.teachers._answers import answers_file, key_of, open_answers
from kdexport.teachers._asking import ONE_TEXT, Asker, Fault, Gone, api_key, ask_all, asking, knock
from kdexport.teachers._peek import require_tokenizer

if TYPE_CHECKING:
    import numpy as np

READING = 1  # how answers become logits: a part of the key
QUESTION, TOKENIZER = "question.json", "tokenizer.json"
TOKEN_TENSORS = ("input_ids", "attention_mask", "token_type_ids")
INTEGERS, FLOATS = ("INT64", "INT32"), ("FP32", "FP64")
PROBE_TEXTS = 4
SUM_TOLERANCE, SMALLEST_PROBABILITY = 1e-2, 1e-7


# --- made ready


def check(source: TeacherSource, context: TeacherContext) -> None:
    """What files can tell; the server is asked when the teacher is made ready, not each time that a run goes on."""
    settings = _settings(source)
    if load_task(context.project.task).input_kind != "text":
        raise Unsupported("open_inference: texts are sent, no pictures; for pictures use function")
    columns_for(source.labels or context.classes, context.classes, settings.model)
    if settings.tokenizer is not None:
        require_tokenizer(_tokenizer_file(settings.tokenizer))
    api_key(settings)


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    settings = _settings(source)
    check(source, context)
    question = _question(settings, source.labels or context.classes)
    if settings.tokenizer is not None:
        shutil.copyfile(_tokenizer_file(settings.tokenizer), folder / TOKENIZER)
    question = question.model_copy(update={"are_probabilities": _probed(settings, question, context, folder)})
    write_json(folder / QUESTION, question)
    return member_of(
        source,
        kind="open_inference",
        name=settings.model,
        classes=question.classes,
        question=QUESTION,
        tokenizer=TOKENIZER if settings.tokenizer else None,
        source=_server_name(settings),
        sha256=_hash(question),
    )


def content(source: TeacherSource) -> str:
    settings = _settings(source)
    pace = {"api_key_env", "requests_per_s", "max_parallel", "timeout_s", "max_attempts", "max_batch", "tokenizer"}
    return content_key(READING, settings.model_dump(mode="json", exclude=pace), _tokenizer_hash(settings))


def _settings(source: TeacherSource) -> OpenInference:
    assert source.open_inference is not None
    return source.open_inference


def _server_name(settings: OpenInference) -> str:
    return f"{settings.url} {settings.model}"


def _hash(question: TensorQuestion) -> str:
    return content_key(READING, question.model_dump(mode="json", exclude={"max_batch"}))


def _tokenizer_file(folder: Path) -> Path:
    path = folder / TOKENIZER
    if not path.is_file():
        raise BadInput(f"{path}: no such tokenizer; give the folder that holds it, or leave 'tokenizer' out")
    return path


def _tokenizer_hash(settings: OpenInference) -> str:
    path = settings.tokenizer / TOKENIZER if settings.tokenizer else None
    return sha256_file(path) if path and path.is_file() else ""


def _page(settings: OpenInference) -> str:
    version = f"/versions/{quote(settings.version, safe='')}" if settings.version else ""
    return f"/v2/models/{quote(settings.model, safe='')}{version}"


def _question(settings: OpenInference, classes: Sequence[str]) -> TensorQuestion:
    """From the model's metadata (the protocol's `$metadata_model_response`). Raises BadInput, Unsupported."""
    where = settings.url + _page(settings)
    document = knock(settings, _page(settings))
    inputs, outputs = _tensors(document, "inputs", where), _tensors(document, "outputs", where)
    output = _named(outputs, settings.output, "output", where)
    if output.datatype not in FLOATS:
        raise Unsupported(f"{where}: output '{output.name}' is {output.datatype}; FP32 or FP64 are read from JSON")
    if output.shape and output.shape[-1] not in (-1, len(classes)):
        raise BadInput(
            f"{where}: output '{output.name}' has {output.shape[-1]} columns, but {len(classes)} classes are named; "
            "give 'labels': every output's class, in order"
        )
    if settings.tokenizer is None:
        taken: tuple[Tensor, ...] = (_named(inputs, settings.input, "input", where),)
        if taken[0].datatype != "BYTES":
            raise BadInput(
                f"{where}: input '{taken[0].name}' takes {taken[0].datatype}, no raw text (BYTES); name the folder of "
                "its tokenizer: 'tokenizer'"
            )
    else:
        taken = _token_tensors(inputs, where)
    versions = document.get("versions") or []
    return TensorQuestion(
        url=settings.url,
        model=settings.model,
        version=settings.version,
        served=tuple(map(str, versions)) if isinstance(versions, list) else (),
        classes=tuple(classes),
        inputs=taken,
        output=output.name,
        tokenizer_sha256=_tokenizer_hash(settings),
        max_length=settings.max_length,
        max_batch=_batch_limit(settings, taken),
        are_probabilities=settings.scores == "probabilities",
    )


def _tensors(document: Any, kind: str, where: str) -> dict[str, Tensor]:
    try:
        found = [Tensor(name=t["name"], datatype=t["datatype"], shape=tuple(t["shape"])) for t in document[kind]]
    except (KeyError, TypeError, ValueError) as e:  # pydantic's ValidationError is a ValueError
        raise BadInput(
            f"{where}: no metadata of a model ({kind} with name, datatype and shape); are url, model, version right?"
        ) from e
    return {t.name: t for t in found}


def _named(tensors: dict[str, Tensor], name: str | None, kind: str, where: str) -> Tensor:
    if name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name is None:
        raise BadInput(f"{where}: has {len(tensors)} {kind}s ({', '.join(tensors)}); name one: '{kind}'")
    if name not in tensors:
        raise unknown_name(kind, name, tensors, where)
    return tensors[name]


def _token_tensors(inputs: dict[str, Tensor], where: str) -> tuple[Tensor, ...]:
    for name, tensor in inputs.items():
        if name not in TOKEN_TENSORS or tensor.datatype not in INTEGERS:
            raise Unsupported(
                f"{where}: input '{name}' ({tensor.datatype}) is none that a tokenizer makes: INT64 or INT32, "
                f"named {', '.join(TOKEN_TENSORS)}"
            )
    return tuple(inputs.values())


def _batch_limit(settings: OpenInference, inputs: Sequence[Tensor]) -> int:
    """The project's, the metadata's fixed first axis, and Triton's `max_batch_size`, where it tells one."""
    fixed = [t.shape[0] for t in inputs if t.shape and t.shape[0] > 0]
    config = knock(settings, _page(settings) + "/config")
    own = config.get("max_batch_size") if isinstance(config, dict) else None
    return min([settings.max_batch, *fixed, *([own] if isinstance(own, int) and own > 0 else [])])


def _probed(settings: OpenInference, question: TensorQuestion, context: TeacherContext, folder: Path) -> bool:
    """Asks a few texts: does it answer, in the right shape? Are its scores probabilities?"""
    import numpy as np

    texts = [str(t) for t in [*context.dev_inputs, *context.train_inputs][:PROBE_TEXTS]]
    found: dict[str, Sequence[float] | str] = {}
    answers = open_answers(folder / "probe.jsonl")
    with asking(settings, answers, ()) as asker:
        for start in range(0, len(texts), question.max_batch):
            talk = _Talk(question, asker, folder, raw=True)
            try:
                found |= talk.scores(dict(enumerate_keys(texts[start : start + question.max_batch], start)))
            except Gone as e:
                raise BadInput(f"{settings.url}: brings no answer to a first text") from e
            except Fault as fault:
                asker.no_answer("", fault)
    (folder / "probe.jsonl").unlink()
    if settings.scores != "auto":
        return settings.scores == "probabilities"
    rows = np.array([row for row in found.values() if not isinstance(row, str)])
    within = bool(rows.size) and bool((rows >= 0).all() and (rows <= 1).all())
    return within and bool((np.abs(rows.sum(1) - 1) <= SUM_TOLERANCE).all())


def enumerate_keys(texts: Sequence[str], start: int) -> list[tuple[str, str]]:
    return [(str(start + i), text) for i, text in enumerate(texts)]


# --- asked


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    """Logits (N, C); zeros where no answer came. Raises BadInput where the server is down, or answers in another shape;
    what was answered stays in the run folder's `answers`."""
    import numpy as np

    settings = _settings(source)
    question = TensorQuestion.model_validate(read_json(folder / str(member.question)))
    sha = _hash(question)
    answers = open_answers(answers_file(folder.parent, "open_inference", _server_name(settings), sha))
    keys = [key_of(str(text), sha) for text in inputs]
    wanted = {key: str(text) for key, text in zip(keys, inputs, strict=True) if key not in answers}
    if wanted:
        with asking(settings, answers, wanted) as asker:
            talk = _Talk(question, asker, (folder / str(member.question)).parent)
            ask_all(_batches(wanted, question.max_batch), talk.label, asker)
    zeros = [0.0] * len(question.classes)
    rows = [(answers.logits(key) if key in answers else None) or zeros for key in keys]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(question.classes))


def _batches(wanted: dict[str, str], size: int) -> list[dict[str, str]]:
    """Texts of like length together: little padding."""
    order = sorted(wanted.items(), key=lambda item: len(item[1]))
    return [dict(order[start : start + size]) for start in range(0, len(order), size)]


class _Talk:
    """One question to one server. folder: of the tokenizer; raw: scores as they come, for the first look."""

    def __init__(self, question: TensorQuestion, asker: Asker, folder: Path, raw: bool = False) -> None:
        self.question, self.asker, self.raw = question, asker, raw
        self.page = _path(question)
        self.tokenizer: Any = None
        if question.tokenizer_sha256:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self.tokenizer.no_padding()
            self.tokenizer.enable_truncation(question.max_length)

    def label(self, batch: Mapping[str, str]) -> None:
        """batch: texts by key. Writes all answers of it at once. A batch that is refused is asked in halves, down to
        the text that is the cause. Raises Gone."""
        try:
            self.asker.answers.answer(self.scores(batch))
        except Fault as fault:
            if len(batch) == 1 or fault.status not in ONE_TEXT:
                self.asker.no_answer(next(iter(batch)), fault)
                return
            items = list(batch.items())
            self.label(dict(items[: len(items) // 2]))
            self.label(dict(items[len(items) // 2 :]))

    def scores(self, batch: Mapping[str, str]) -> dict[str, Sequence[float] | str]:
        body = {"inputs": self._inputs(list(batch.values())), "outputs": [{"name": self.question.output}]}
        rows = self.asker.request(self.page, body, lambda document: self._rows(document, len(batch)))
        return dict(zip(batch, rows, strict=True))

    def _inputs(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        if self.tokenizer is None:
            tensor = self.question.inputs[0]
            shape = [len(texts), *([1] * (len(tensor.shape) - 1))]
            return [{"name": tensor.name, "shape": shape, "datatype": "BYTES", "data": list(texts)}]
        encoded = [e.ids or [0] for e in self.tokenizer.encode_batch_fast(list(texts))]  # no server takes a row of none
        longest = max(map(len, encoded))
        made = {
            "input_ids": [row + [0] * (longest - len(row)) for row in encoded],
            "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in encoded],
            "token_type_ids": [[0] * longest for _ in encoded],
        }
        return [
            {"name": t.name, "shape": [len(texts), longest], "datatype": t.datatype, "data": _flat(made[t.name])}
            for t in self.question.inputs
        ]

    def _rows(self, document: Any, count: int) -> list[list[float]]:
        """The output's rows, as logits. Raises BadInput for other columns than classes, or no numbers."""
        output = {o["name"]: o for o in document["outputs"]}[self.question.output]
        flat, width = [float(x) for x in _flat(output["data"])], len(self.question.classes)
        if len(flat) != count * width:
            found = f"shape {output.get('shape')}, {len(flat)} numbers"
            raise BadInput(
                f"output '{self.question.output}' of {count} texts has {found}; ({count}, {width}) is wanted: a column "
                "for each class. Give 'labels': every output's class, in order"
            )
        if not all(map(math.isfinite, flat)):
            raise BadInput(f"output '{self.question.output}' holds no finite numbers; correct the teacher")
        if self.question.are_probabilities and not self.raw:
            flat = [math.log(max(p, SMALLEST_PROBABILITY)) for p in flat]
        return [flat[i * width : (i + 1) * width] for i in range(count)]


def _path(question: TensorQuestion) -> str:
    version = f"/versions/{quote(question.version, safe='')}" if question.version else ""
    return f"/v2/models/{quote(question.model, safe='')}{version}/infer"


def _flat(data: Any) -> list[Any]:
    """The protocol allows rows, or all numbers in one list."""
    return [x for part in data for x in _flat(part)] if isinstance(data, list) else [data]


# --- what it costs


def cost(
    source: TeacherSource, context: TeacherContext, texts: Sequence[str], run_folder: Path, probe: bool
) -> AskingCost:
    """Requests alone: such a server is not paid by the token. probe: the server tells its batch limit."""
    settings = _settings(source)
    classes = source.labels or context.classes
    batch = _question(settings, classes).max_batch if probe else settings.max_batch
    requests = math.ceil(len(texts) / batch)
    return AskingCost(
        teacher=settings.model,
        texts=len(texts),
        answered=0,
        requests=requests,
        seconds_at_least=requests / settings.requests_per_s if settings.requests_per_s else None,
        method=f"{batch} texts a request; no tokens are paid",
    )
