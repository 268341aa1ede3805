"""A classifier behind the Open Inference Protocol v2: metadata checked first, tensors in, scores out, faults survived.
The server is a real one on loopback; its pages are those of the protocol's schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from kdexport.errors import BadInput, Unsupported
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.teachers import TeacherContext, _asking, open_inference
from kdexport.teachers._answers import answers_of, open_answers
from tests.teachers.loopback import Loopback, Reply, serving

CLASSES = ("card", "pay", "refund")
TEXTS = tuple(f"{word} number {i}" for i in range(8) for word in CLASSES)
TEXT_IN = {"name": "text", "datatype": "BYTES", "shape": [-1, 1]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asking, "FIRST_PAUSE_S", 0.01)


def counts(texts: Sequence[str]) -> list[list[float]]:
    """Three times how often each class's word stands in a text: the logits."""
    return [[3.0 * text.split().count(c) for c in CLASSES] for text in texts]


def softmax(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in rows]


class Triton:
    """One model. Misbehaves as told at its first inferences, then answers with `rows` of the texts."""

    def __init__(
        self,
        *first: Reply,
        inputs: Sequence[Any] = (TEXT_IN,),
        outputs: Sequence[Any] = (SCORES,),
        rows: Any = counts,
        flat: bool = True,
        config: Any = None,
    ) -> None:
        self.first, self.rows, self.flat, self.config = list(first), rows, flat, config
        self.metadata = {"name": "m", "versions": ["1"], "platform": "x", "inputs": inputs, "outputs": outputs}

    def __call__(self, method: str, path: str, body: Any) -> Reply:
        if (method, path) == ("GET", "/v2/models/m"):
            return Reply(self.metadata)
        if (method, path) == ("GET", "/v2/models/m/config") and self.config:
            return Reply(self.config)
        if (method, path) != ("POST", "/v2/models/m/infer"):
            return Reply({"error": "no such page"}, status=404)
        if self.first:
            return self.first.pop(0)
        rows = self.rows(body["inputs"][0]["data"])
        data = [x for row in rows for x in row] if self.flat else rows
        output = {"name": "scores", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": data}
        return Reply({"model_name": "m", "outputs": [output]})


class Asked:
    """A teacher made ready in `folder`, as a run does it."""

    def __init__(self, folder: Path, server: Loopback, labels: Sequence[str] | None = None, **settings: Any) -> None:
        self.stages = folder / "stages"
        given = {"url": server.url, "model": "m", "max_parallel": 1, **settings}
        self.source = TeacherSource.model_validate({"open_inference": given, "labels": labels})
        own = self.stages / "teach-1"
        own.mkdir(parents=True, exist_ok=True)
        member = open_inference.ready(self.source, context_for(self.source), own)
        self.member: TeacherMember = member.model_copy(update={"question": f"teach-1/{member.question}"})
        self.file = answers_of(folder, self.member)
        self.probes = len(server.asked)

    def logits(self, texts: Sequence[str] = TEXTS) -> np.ndarray:
        return open_inference.answer(self.source, self.member, texts, self.stages)


def context_for(source: TeacherSource, task: str = "text_classification") -> TeacherContext:
    project = Project.model_validate(
        {"name": "p", "task": task, "teachers": [source], "data": {"train": {"path": "t.csv"}}, "targets": ["l4"]}
    )
    labels = np.arange(len(TEXTS), dtype=np.int64) % 3
    return TeacherContext(project, CLASSES, TEXTS, labels, TEXTS[:2], labels[:2], threads=1)


def sent(server: Loopback, asked: Asked) -> list[str]:
    return [text for body in server.asked[asked.probes :] for text in body["inputs"][0]["data"]]


# --- what is asked, and what is made of it


@pytest.mark.parametrize("flat", [True, False])
def test_texts_go_in_and_logits_come_out(tmp_path: Path, flat: bool) -> None:
    with serving(Triton(flat=flat)) as server:
        teacher = Asked(tmp_path, server)
        np.testing.assert_array_equal(teacher.logits(), counts(TEXTS))
    assert server.asked[-1]["inputs"][0]["shape"] == [24, 1]
    assert sorted(sent(server, teacher)) == sorted(TEXTS)


def test_probabilities_are_told_by_the_first_answers_and_become_their_logs(tmp_path: Path) -> None:
    with serving(Triton(rows=lambda texts: softmax(counts(texts)))) as server:
        logits = Asked(tmp_path, server).logits()
    np.testing.assert_allclose(np.exp(logits).sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(np.exp(logits), softmax(counts(TEXTS)), rtol=1e-4)


def test_columns_are_in_the_order_of_the_labels(tmp_path: Path) -> None:
    with serving(Triton()) as server:
        assert Asked(tmp_path, server, labels=("refund", "card", "pay")).member.classes == ("refund", "card", "pay")


@pytest.mark.parametrize(
    ("first_axis", "config", "max_batch", "largest"),
    [(-1, None, 5, 5), (-1, {"max_batch_size": 4}, 32, 4), (1, None, 32, 1), (-1, {"max_batch_size": 0}, 7, 7)],
)
def test_no_request_holds_more_texts_than_project_metadata_and_triton_allow(
    tmp_path: Path, first_axis: int, config: Any, max_batch: int, largest: int
) -> None:
    text_in = {**TEXT_IN, "shape": [first_axis, 1]}
    with serving(Triton(inputs=[text_in], config=config)) as server:
        Asked(tmp_path, server, max_batch=max_batch).logits()
    assert max(len(body["inputs"][0]["data"]) for body in server.asked) == largest


def tokenizer_folder(folder: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "number", *CLASSES))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_token_tensors_are_made_by_the_named_tokenizer(tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask")
    inputs = [{"name": n, "datatype": "INT64", "shape": [-1, -1]} for n in names]

    def rows(ids: list[int]) -> list[list[float]]:
        width = len(ids) // shape(server)[0]
        return [
            [float(ids[start : start + width].count(3 + c)) for c in range(3)] for start in range(0, len(ids), width)
        ]

    def shape(server: Loopback) -> list[int]:
        return list(server.asked[-1]["inputs"][0]["shape"])

    with serving(Triton(inputs=inputs, rows=rows)) as server:
        teacher = Asked(tmp_path, server, tokenizer=tokenizer_folder(tmp_path / "tok"), scores="logits")
        np.testing.assert_array_equal(teacher.logits(["card", "pay pay refund"]), [[1, 0, 0], [0, 2, 1]])
    ids, mask = server.asked[-1]["inputs"]
    assert (ids["name"], ids["datatype"], ids["shape"]) == ("input_ids", "INT64", [2, 3])
    assert ids["data"] == [3, 0, 0, 4, 4, 5]
    assert mask["data"] == [1, 0, 0, 1, 1, 1]


# --- what the metadata tells


@pytest.mark.parametrize(
    ("served", "settings", "message"),
    [
        ({"outputs": [{**SCORES, "shape": [-1, 5]}]}, {}, "has 5 columns, but 3 classes are named; give 'labels'"),
        ({"outputs": [SCORES, {**SCORES, "name": "s2"}]}, {}, r"has 2 outputs \(scores, s2\); name one: 'output'"),
        ({}, {"output": "score"}, "unknown output 'score'; did you mean 'scores'"),
        ({"inputs": [TEXT_IN, {**TEXT_IN, "name": "t2"}]}, {}, r"has 2 inputs \(text, t2\); name one: 'input'"),
        (
            {"inputs": [{**TEXT_IN, "datatype": "FP32"}]},
            {},
            r"takes FP32, no raw text \(BYTES\); name the fo",
        ),
        ({"inputs": "text"}, {}, "no metadata of a model"),
        ({}, {"model": "n"}, "no metadata of a model"),
    ],
)
def test_what_the_metadata_contradicts_is_said_before_anything_is_asked(
    tmp_path: Path, served: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with serving(Triton(**served)) as server, pytest.raises(BadInput, match=message):
        Asked(tmp_path, server, **settings)
    assert server.asked == []


@pytest.mark.parametrize(
    ("served", "with_tokenizer", "message"),
    [
        ({"outputs": [{**SCORES, "datatype": "BYTES"}]}, False, "output 'scores' is BYTES; FP32 or FP64"),
        (
            {"inputs": [{"name": "pixels", "datatype": "INT64", "shape": [-1, -1]}]},
            True,
            "input 'pixels' .* is none",
        ),
    ],
)
def test_tensors_that_are_not_supported_are_named(
    tmp_path: Path, served: dict[str, Any], with_tokenizer: bool, message: str
) -> None:
    settings = {"tokenizer": tokenizer_folder(tmp_path / "tok")} if with_tokenizer else {}
    with serving(Triton(**served)) as server, pytest.raises(Unsupported, match=message):
        Asked(tmp_path, server, **settings)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            lambda texts: [[0.0, 1.0]] * len(texts),
            r"output 'scores' of 2 texts has shape \[2, 2\], 4 numbers; \(2, 3\) is wanted",
        ),
        (lambda texts: [[math.nan] * 3] * len(texts), "holds no finite numbers"),
    ],
)
def test_first_answers_of_another_shape_end_it_at_once(tmp_path: Path, rows: Any, message: str) -> None:
    outputs = [{**SCORES, "shape": [-1, -1]}]
    with serving(Triton(outputs=outputs, rows=rows)) as server, pytest.raises(BadInput, match=message):
        Asked(tmp_path, server, max_batch=2)


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with serving(Triton()) as server:
        pass
    with pytest.raises(BadInput, match=r"does not answer .*is the server up\?"):
        Asked(tmp_path, server)


def test_pictures_are_refused() -> None:
    source = TeacherSource.model_validate({"open_inference": {"url": "http://h", "model": "m"}})
    with pytest.raises(Unsupported, match="texts are sent, no pictures"):
        open_inference.check(source, context_for(source, "image_classification"))


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = {"url": "http://h", "model": "m", "tokenizer": tmp_path}
    source = TeacherSource.model_validate({"open_inference": settings})
    with pytest.raises(BadInput, match=r"tokenizer\.json: no such tokenizer"):
        open_inference.check(source, context_for(source))


# --- asked once, whatever comes


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(b'{"outputs": [{"na'), "malformed"),
        (Reply({"outputs": []}), "malformed"),
        (Reply({"outputs": [{"name": "scores", "data": ["x"]}]}), "malformed"),
        (Reply({"outputs": []}, truncate=9), "truncated"),
        (Reply(reset=True), "connection"),
        (Reply({"error": "busy"}, status=503), "http 503"),
        (Reply({}, wait_s=5.0), "timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_survived_and_counted(tmp_path: Path, reply: Reply, kind: str) -> None:
    triton = Triton()
    with serving(triton) as server:
        teacher = Asked(tmp_path, server, timeout_s=0.5 if kind == "timeout" else 60)
        triton.first.append(reply)
        np.testing.assert_array_equal(teacher.logits(), counts(TEXTS))
    faults = open_answers(teacher.file).summary("m").faults
    assert set(faults) == {kind}
    assert faults[kind] == 1 or kind == "timeout"  # on a busy machine another answer may be late, too


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with serving(Triton()) as server:
        teacher = Asked(tmp_path, server, max_batch=5)
        teacher.logits(TEXTS[:7])
        teacher.logits([*TEXTS, *TEXTS])
        assert sorted(sent(server, teacher)) == sorted(TEXTS)


def test_one_text_that_the_server_refuses_costs_only_its_own_answer(tmp_path: Path) -> None:
    class Picky(Triton):
        def __call__(self, method: str, path: str, body: Any) -> Reply:
            if method == "POST" and TEXTS[4] in body["inputs"][0]["data"]:
                return Reply({"error": "too long"}, status=400)
            return super().__call__(method, path, body)

    with serving(Picky()) as server:
        logits = Asked(tmp_path, server).logits()
    assert logits[4].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(np.delete(logits, 4, 0), np.delete(np.array(counts(TEXTS)), 4, 0))


def test_requests_are_counted_before_anything_is_asked(tmp_path: Path) -> None:
    source = TeacherSource.model_validate({"open_inference": {"url": "http://nowhere", "model": "m", "max_batch": 10}})
    told = open_inference.cost(source, context_for(source), TEXTS, tmp_path, probe=False)
    assert (told.texts, told.requests, told.usd) == (24, 3, None)
    assert (
        told.told()
        == "teacher m: 24 of 24 texts to ask; 3 requests (estimated: 10 texts a request; no tokens are paid)"
    )


def test_what_is_sent_and_what_the_fake_answers_are_of_the_protocols_schema(tmp_path: Path, shared: Path) -> None:
    """kserve/open-inference-protocol, specification/protocol/open_inference_rest.yaml."""
    path = shared / "data" / "schemas" / "open_inference_rest.yaml"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    document = yaml.safe_load(path.read_text())
    triton = Triton()
    with serving(triton) as server:
        Asked(tmp_path, server).logits()
    answer = triton("POST", "/v2/models/m/infer", server.asked[-1]).body
    for name, value in (
        ("inference_request", server.asked[-1]),
        ("inference_response", answer),
        ("metadata_model_response", {**triton.metadata, "inputs": [TEXT_IN], "outputs": [SCORES]}),
    ):
        jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", "components": document["components"]})
