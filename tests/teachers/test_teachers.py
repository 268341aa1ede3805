"""Teachers of every kind, end to end: made ready, opened, asked; and what each refuses."""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from kdexport import registry
from kdexport.errors import BadInput, Damaged, Unsupported
from kdexport.measure.metrics import softmax
from kdexport.nouns.project import Project, TeacherSource
from kdexport.nouns.teacher import TeacherSet
from kdexport.storage.files import sha256_bytes
from kdexport.teachers import TeacherContext, columns_for, teacher_kind
from kdexport.teachers._run import Teachers, answer_one
from tests.tasks.conftest import picture

CLASSES = ("card", "pay", "refund")
TEXTS = ("card card", "pay", "refund refund card", "pay refund")
WORDS = ("[PAD]", "[UNK]", *CLASSES)


def context(source: TeacherSource, task: str = "text_classification", inputs: Sequence[Any] = TEXTS) -> TeacherContext:
    project = Project.model_validate(
        {"name": "p", "task": task, "teachers": [source], "data": {"train": {"path": "train.csv"}}, "targets": ["l4"]}
    )
    labels = np.arange(len(inputs), dtype=np.int64) % 3
    return TeacherContext(project, CLASSES, inputs, labels, inputs[:2], labels[:2], threads=1)


def opened(folder: Path, *sources: TeacherSource, task: str = "text_classification", inputs: Any = TEXTS) -> Teachers:
    members = []
    for index, source in enumerate(sources):
        own = folder / f"member-{index}"
        own.mkdir(parents=True)
        member = teacher_kind(source.kind).ready(source, context(source, task, inputs), own)
        files = {k: f"{own.name}/{v}" for k in ("graph", "plain_graph", "tokenizer") if (v := getattr(member, k))}
        members.append(member.model_copy(update=files))
    return Teachers(TeacherSet(members=tuple(members)), sources, folder, CLASSES, threads=1)


def counts(inputs: Sequence[str]) -> np.ndarray:
    """How often each class's own word stands in a text: the logits of every teacher here."""
    return np.array([[text.split().count(c) for c in CLASSES] for text in inputs], dtype=np.float32)


# --- every kind


@pytest.mark.parametrize("kind", registry.names("teachers"))
def test_every_kind_offers_what_a_kind_must(kind: str) -> None:
    module = teacher_kind(kind)
    assert all(callable(getattr(module, name)) for name in ("ready", "content", "answer"))


def test_columns_are_found_by_name_in_any_order() -> None:
    assert columns_for(("refund", "loan", "card", "pay"), CLASSES, "t") == [2, 3, 0]


def test_a_class_that_the_teacher_lacks_is_named() -> None:
    with pytest.raises(BadInput, match="t: the teacher knows 2 classes and lacks 1 of the data's 3: refund; remove"):
        columns_for(("pay", "card"), CLASSES, "t")


# --- a Python function


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module whose `answer` has the given body into the working folder; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(body: str) -> str:
        name = f"teacher_{sha256_bytes((body + str(tmp_path)).encode())[:12]}"
        (tmp_path / f"{name}.py").write_text(f"import math\ndef answer(texts):\n    return {body}\n")
        importlib.invalidate_caches()
        return f"{name}:answer"

    yield write
    while str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


COUNT = "[[t.split().count(c) for c in ('card', 'pay', 'refund')] for t in texts]"
REVERSED = "[[t.split().count(c) for c in ('refund', 'pay', 'card')] for t in texts]"


def test_a_function_answers_with_logits(tmp_path: Path, module: Callable[[str], str]) -> None:
    teachers = opened(tmp_path / "out", TeacherSource(function=module(COUNT)))
    np.testing.assert_array_equal(teachers.logits(TEXTS), counts(TEXTS))


def test_a_functions_outputs_are_mapped_by_name(tmp_path: Path, module: Callable[[str], str]) -> None:
    source = TeacherSource(function=module(REVERSED), labels=("refund", "pay", "card"))
    np.testing.assert_array_equal(opened(tmp_path / "out", source).logits(TEXTS), counts(TEXTS))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[[0.0, math.nan, 1.0] for t in texts]", "4 answers are not finite"),
        ("[[0.0, math.inf, 1.0] for t in texts]", "4 answers are not finite"),
        ("[[0.0, 1.0] for t in texts]", r"shape \(4, 3\) are wanted, found \(4, 2\)"),
        ("[[0.0, 1.0, 2.0]]", r"shape \(4, 3\) are wanted, found \(1, 3\)"),
        ("[[0.5, 0.5, 0.5] for t in texts]", "the same score for every class and input; are its weights zero"),
    ],
)
def test_answers_that_are_no_logits_are_refused(
    tmp_path: Path, module: Callable[[str], str], body: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        opened(tmp_path / "out", TeacherSource(function=module(body))).logits(TEXTS)


@pytest.mark.parametrize("name", ["no_such_module_at_all:answer", "json:no_such_function", "json", ":f"])
def test_a_function_that_cannot_be_loaded_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"teacher function '{name}' cannot be loaded .*write it as module:function"):
        opened(tmp_path / "out", TeacherSource(function=name))


def test_a_function_whose_code_changed_is_another_teacher(tmp_path: Path, module: Callable[[str], str]) -> None:
    source = TeacherSource(function=module(COUNT))
    before = teacher_kind("function").content(source)
    path = tmp_path / (str(source.function).partition(":")[0] + ".py")
    path.write_text(path.read_text() + "# changed\n")
    assert teacher_kind("function").content(source) != before


# --- a file of scores


def write_scores(path: Path, rows: Sequence[dict[str, Any]]) -> TeacherSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TeacherSource(scores=path)


def test_scores_are_found_by_text_and_mapped_by_name(tmp_path: Path) -> None:
    rows = [
        {"text": t, "scores": {c: float(v) for c, v in reversed(list(zip(CLASSES, row, strict=True)))}}
        for t, row in zip(TEXTS, counts(TEXTS), strict=True)
    ]
    teachers = opened(tmp_path / "out", write_scores(tmp_path / "s.jsonl", list(reversed(rows))))
    np.testing.assert_array_equal(teachers.logits(TEXTS), counts(TEXTS))


def test_scores_that_are_probabilities_become_their_logarithms(tmp_path: Path) -> None:
    scores = {"card": 0.7, "pay": 0.3, "refund": 0.0}
    source = write_scores(tmp_path / "s.jsonl", [{"text": t, "scores": scores} for t in TEXTS])
    logits = opened(tmp_path / "out", source).logits(TEXTS)
    np.testing.assert_allclose(logits[0], np.log([0.7, 0.3, 1e-7]), rtol=1e-5)


def test_scores_of_pictures_are_found_by_their_hash(tmp_path: Path) -> None:
    pictures = [picture("L", 4, 4, seed) for seed in range(3)]
    rows = [{"sha256": sha256_bytes(p), "scores": {"card": i, "pay": 0, "refund": -i}} for i, p in enumerate(pictures)]
    teachers = opened(
        tmp_path / "out", write_scores(tmp_path / "s.jsonl", rows), task="image_classification", inputs=pictures
    )
    assert teachers.logits(pictures)[:, 0].tolist() == [0, 1, 2]


def test_an_input_without_scores_is_named(tmp_path: Path) -> None:
    source = write_scores(tmp_path / "s.jsonl", [{"text": TEXTS[0], "scores": dict.fromkeys(CLASSES, 1)}])
    with pytest.raises(BadInput, match=r"s\.jsonl: no scores for 4 of 6 inputs, first: 'pay'; score them too"):
        opened(tmp_path / "out", source)


def test_scores_that_lack_a_class_are_refused(tmp_path: Path) -> None:
    rows = [{"text": t, "scores": {"card": 1, "pay": 0}} for t in TEXTS]
    with pytest.raises(BadInput, match="lacks 1 of the data's 3: refund"):
        opened(tmp_path / "out", write_scores(tmp_path / "s.jsonl", rows))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"text": "a", "scores": {"card": 1}}\n{"text": ', 2),
        (b'{"text": "a"}\n', 1),
        (b'{"scores": {"card": 1}}\n', 1),
        (b'{"text": "a", "scores": {"card": "high"}}\n', 1),
        (b"3\n", 1),
        (b"\xff\xfe\n", 1),
    ],
)
def test_a_row_that_is_no_score_is_named_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    (tmp_path / "s.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=rf"s\.jsonl:{line}: a row is"):
        opened(tmp_path / "out", TeacherSource(scores=tmp_path / "s.jsonl"))


def test_scores_that_are_not_numbers_are_refused_when_asked(tmp_path: Path) -> None:
    scores = dict.fromkeys(CLASSES, float("nan"))
    source = write_scores(tmp_path / "s.jsonl", [{"text": t, "scores": scores} for t in TEXTS])
    with pytest.raises(BadInput, match="4 answers are not finite"):
        opened(tmp_path / "out", source).logits(TEXTS)


def test_probabilities_or_logits_is_a_property_of_the_whole_file(tmp_path: Path) -> None:
    """A batch whose logits happen to sum to 1 is read as logits, like its neighbours."""
    scores = [{"card": 1, "pay": 0, "refund": 0}, *[{"card": 9, "pay": 2, "refund": -1}] * 3]
    rows = [{"text": t, "scores": s} for t, s in zip(TEXTS, scores, strict=True)]
    teachers = opened(tmp_path / "out", write_scores(tmp_path / "s.jsonl", rows))
    assert teachers.logits(TEXTS[:1]).tolist() == [[1, 0, 0]]


def test_a_class_that_a_row_of_probabilities_leaves_out_has_the_smallest_probability(tmp_path: Path) -> None:
    full = {"card": 0.2, "pay": 0.3, "refund": 0.5}
    rows = [{"text": t, "scores": {"card": 0.7, "pay": 0.3} if i else full} for i, t in enumerate(TEXTS)]
    teachers = opened(tmp_path / "out", write_scores(tmp_path / "s.jsonl", rows))
    np.testing.assert_allclose(teachers.logits(TEXTS[1:2]), np.log([[0.7, 0.3, 1e-7]]), rtol=1e-5)


def test_a_row_of_logits_that_lacks_a_class_is_named_with_its_line(tmp_path: Path) -> None:
    full = {"card": 4, "pay": -2, "refund": 1}
    rows = [{"text": t, "scores": {"card": 3, "pay": 1} if i == 2 else full} for i, t in enumerate(TEXTS)]
    with pytest.raises(BadInput, match=r"s\.jsonl:3: no score for class 'refund'; .* so these are logits"):
        opened(tmp_path / "out", write_scores(tmp_path / "s.jsonl", rows))


def test_a_file_of_scores_is_parsed_once_and_again_where_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"card": 4, "pay": -2, "refund": 1}
    source = write_scores(tmp_path / "s.jsonl", [{"text": t, "scores": scores} for t in TEXTS])
    teachers = opened(tmp_path / "out", source)
    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", lambda text: pytest.fail("parsed again"))
        assert teachers.logits(TEXTS)[0].tolist() == [4, -2, 1]
    write_scores(tmp_path / "s.jsonl", [{"text": t, "scores": scores | {"card": 40}} for t in TEXTS])
    assert teachers.logits(TEXTS)[0].tolist() == [40, -2, 1]


# --- an ONNX file


def counting_graph(path: Path, scale: float = 1.0, order: Sequence[str] = CLASSES) -> Path:
    """logits[class] = scale x how many tokens that the mask keeps are the class's own word."""
    table = np.array([[scale * (word == c) for c in order] for word in WORDS], dtype=np.float32)
    table[0] = 100.0  # a padded token that the mask forgets would show
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "first"], ["logits"], keepdims=0),
    ]
    weights = {"table": table, "last": np.array([2]), "first": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "counting",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "T"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(order)])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def write_tokenizer(path: Path, *, padded: bool = False, limit: int | None = None) -> None:
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if padded:
        tokenizer.enable_padding(length=16)
    if limit:
        tokenizer.enable_truncation(limit)
    tokenizer.save(str(path))


def test_an_onnx_file_answers_in_batches_and_one_by_one(tmp_path: Path) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx")
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    teachers = opened(tmp_path / "out", TeacherSource(onnx=graph))
    np.testing.assert_array_equal(teachers.logits(TEXTS), counts(TEXTS))
    engine = teachers.engines[0]
    assert engine is not None
    one_by_one = np.concatenate([engine.engine.run(engine.feeds_one(t)) for t in TEXTS])
    np.testing.assert_array_equal(one_by_one, counts(TEXTS))


def test_a_text_without_a_single_token_is_asked_as_one_of_padding(tmp_path: Path) -> None:
    """A tokenizer that frames nothing makes none of an empty text, and no graph takes a row without one."""
    graph = counting_graph(tmp_path / "in" / "t.onnx")
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    engine = opened(tmp_path / "out", TeacherSource(onnx=graph)).engines[0]
    assert engine is not None
    batches = [feeds for _, feeds in engine.batches(["", " "], None)]
    for feeds in (engine.feeds(["", " "]), engine.feeds_one(""), *batches):
        assert set(feeds["input_ids"].flat) == {0}
        assert set(feeds["attention_mask"].flat) == {1}


def test_padding_that_a_tokenizer_file_asks_for_reaches_no_logit(tmp_path: Path) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx")
    write_tokenizer(tmp_path / "in" / "tokenizer.json", padded=True)
    np.testing.assert_array_equal(opened(tmp_path / "out", TeacherSource(onnx=graph)).logits(TEXTS), counts(TEXTS))


def test_a_tokenizer_files_own_limit_holds(tmp_path: Path) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx")
    write_tokenizer(tmp_path / "in" / "tokenizer.json", limit=5)
    logits = opened(tmp_path / "out", TeacherSource(onnx=graph)).logits(["pay " * 90])
    assert logits.tolist() == [[0, 5, 0]]


def test_outputs_of_a_graph_are_mapped_by_the_labels_given(tmp_path: Path) -> None:
    order = ("refund", "card", "loan", "pay")
    graph = counting_graph(tmp_path / "in" / "t.onnx", order=order)
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    teachers = opened(tmp_path / "out", TeacherSource(onnx=graph, labels=order))
    np.testing.assert_array_equal(teachers.logits(TEXTS), counts(TEXTS))


def test_weights_in_a_file_of_their_own_come_along(tmp_path: Path) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx")
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    model = onnx.load(str(graph))
    onnx.save(model, str(graph), save_as_external_data=True, location="t.data", size_threshold=0)
    before = teacher_kind("onnx").content(TeacherSource(onnx=graph))
    np.testing.assert_array_equal(opened(tmp_path / "out", TeacherSource(onnx=graph)).logits(TEXTS), counts(TEXTS))
    data = bytearray((tmp_path / "in" / "t.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "in" / "t.data").write_bytes(bytes(data))
    assert teacher_kind("onnx").content(TeacherSource(onnx=graph)) != before


@pytest.mark.parametrize("changed", ["t.onnx", "tokenizer.json"])
def test_a_graph_or_tokenizer_that_changed_is_another_teacher(tmp_path: Path, changed: str) -> None:
    graph = counting_graph(tmp_path / "t.onnx")
    write_tokenizer(tmp_path / "tokenizer.json")
    before = teacher_kind("onnx").content(TeacherSource(onnx=graph))
    (tmp_path / changed).write_bytes((tmp_path / changed).read_bytes() + b"\n")
    assert teacher_kind("onnx").content(TeacherSource(onnx=graph)) != before


def test_a_text_graph_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tokenizer\.json: a text teacher in ONNX needs its tokenizer\.json beside it"):
        opened(tmp_path / "out", TeacherSource(onnx=counting_graph(tmp_path / "in" / "t.onnx")))


@pytest.mark.parametrize("content", [b"", b"no graph", pickle.dumps({"a": 1})])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(Damaged, match=r"t\.onnx: not a valid ONNX model"):
        opened(tmp_path / "out", TeacherSource(onnx=tmp_path / "t.onnx"))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"t\.onnx: no such ONNX file"):
        opened(tmp_path / "out", TeacherSource(onnx=tmp_path / "t.onnx"))


@pytest.mark.parametrize(("scale", "message"), [(float("nan"), "answers are not finite"), (float("inf"), "not finite")])
def test_a_graph_that_answers_with_no_number_is_refused(tmp_path: Path, scale: float, message: str) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx", scale)
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    with pytest.raises(BadInput, match=message):
        opened(tmp_path / "out", TeacherSource(onnx=graph)).logits(TEXTS)


def test_a_graph_of_zeros_is_refused(tmp_path: Path) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx", scale=0.0)
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    with pytest.raises(BadInput, match="are its weights zero"):
        opened(tmp_path / "out", TeacherSource(onnx=graph)).logits(TEXTS)


# --- ensembles


def test_members_of_several_kinds_answer_as_one(tmp_path: Path, module: Callable[[str], str]) -> None:
    graph = counting_graph(tmp_path / "in" / "t.onnx", scale=2.0)
    write_tokenizer(tmp_path / "in" / "tokenizer.json")
    sources = (TeacherSource(onnx=graph, weight=1.0), TeacherSource(function=module(COUNT), weight=3.0))
    logits = opened(tmp_path / "out", *sources).logits(TEXTS)
    wanted = 0.25 * softmax(2 * counts(TEXTS)) + 0.75 * softmax(counts(TEXTS))
    np.testing.assert_allclose(np.exp(logits), wanted, rtol=1e-6)


def test_a_member_without_weight_is_not_asked(tmp_path: Path, module: Callable[[str], str]) -> None:
    teachers = opened(tmp_path / "out", TeacherSource(function=module(COUNT)), TeacherSource(function=module("1 / 0")))
    teachers.combination = teachers.combination.model_copy(update={"weights": ((1.0,), (0.0,))})
    np.testing.assert_allclose(np.exp(teachers.logits(TEXTS)), softmax(counts(TEXTS)), rtol=1e-6)


# --- a folder


def test_a_folder_whose_weights_are_all_zero_is_refused_with_their_number(tmp_path: Path) -> None:
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "id2label": dict(enumerate(CLASSES)),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    born_so = {"norm.weight": np.ones(8, np.float32)}
    zeros = {"encoder.weight": np.zeros((8, 8), np.float32), "classifier.weight": np.zeros((3, 8), np.float32)}
    save_file(zeros | born_so, tmp_path / "model.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    source = TeacherSource(model=tmp_path)
    with pytest.raises(BadInput, match="all 88 weights of its matrices are 0; save the trained model again"):
        teacher_kind("model").check(source, context(source))
    save_file(zeros | {"classifier.weight": np.eye(3, 8, dtype=np.float32)}, tmp_path / "model.safetensors")
    teacher_kind("model").check(source, context(source))


def test_a_pickle_named_safetensors_is_refused(tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(Damaged, match=r"model\.safetensors: not a safetensors file: a pickle \(refused\)"):
        opened(tmp_path / "out", TeacherSource(model=tmp_path))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, BadInput, r"config\.json: no such file; is this a Hugging Face model folder"),
        ({"architectures": ["BertModel"]}, Unsupported, "'BertModel' is no sequence classifier; fine-tune it first"),
        (
            {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
            Unsupported,
            "multi-label teachers are not supported",
        ),
        ({"architectures": ["BertForSequenceClassification"]}, BadInput, "no model.safetensors"),
    ],
)
def test_a_folder_that_is_no_classifier_is_refused(
    tmp_path: Path, config: dict[str, Any] | None, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        opened(tmp_path / "out", TeacherSource(model=folder))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="in: no such folder; a teacher folder holds"):
        opened(tmp_path / "out", TeacherSource(model=tmp_path / "in"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of some thousand parameters whose classes stand in another order than the data's."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    labels = {0: "refund", 1: "loan", 2: "pay", 3: "card"}
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, id2label=labels, label2id={v: k for k, v in labels.items()}, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).eval().save_pretrained(str(folder), safe_serialization=True)
    write_tokenizer(folder / "tokenizer.json", padded=True)
    return folder


def test_a_model_folder_answers_as_transformers_does_with_classes_by_name(tmp_path: Path, bert: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(str(bert)).eval()
    teachers = opened(tmp_path, TeacherSource(model=bert))
    texts = [*TEXTS, "card " * 40]
    with torch.no_grad():
        ids = [torch.tensor([[WORDS.index(w) for w in t.split()][:20]]) for t in texts]
        wanted = torch.cat([model(i).logits for i in ids]).numpy()[:, [3, 2, 0]]
    np.testing.assert_allclose(teachers.logits(texts), wanted, atol=1e-4)
    (member,) = teachers.members
    assert member.num_params == sum(p.numel() for p in model.parameters())
    assert member.num_embedding_params == 40 * 16


def test_a_truncated_model_is_refused(tmp_path: Path, bert: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for file in bert.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[:-100] if file.suffix == ".safetensors" else data)
    with pytest.raises(Damaged, match=r"model\.safetensors: not a safetensors file: damaged"):
        opened(tmp_path / "out", TeacherSource(model=folder))


# --- fitted here


def fitted_source(**changes: Any) -> TeacherSource:
    spec = {"backbone": "image_convolution", "channels": 1, "width": 2, "num_stages": 1}
    return TeacherSource.model_validate({"fit": {"spec": spec, "epochs": 1, "learning_rate": 0.01} | changes})


def test_a_fitted_backbone_answers_and_has_not_seen_dev(tmp_path: Path) -> None:
    pictures = [picture("L", 8, 8, seed) for seed in range(12)]
    teachers = opened(tmp_path, fitted_source(), task="image_classification", inputs=pictures)
    (member,) = teachers.members
    assert teachers.logits(pictures).shape == (12, 3)
    assert (member.kind, member.seen_dev, member.num_params) == ("fit", False, 9 * 2 + 4 * 2 + 2 * 3 + 3)


def test_the_seed_of_a_fit_decides_its_weights(tmp_path: Path) -> None:
    pictures = [picture("L", 8, 8, seed) for seed in range(12)]
    one, same, other = (
        opened(tmp_path / name, fitted_source(seed=seed), task="image_classification", inputs=pictures)
        .members[0]
        .sha256
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == same != other


def test_logits_are_contiguous_whatever_the_order_of_the_classes(tmp_path: Path, module: Callable[[str], str]) -> None:
    """A file format that writes the buffer as it lies would scramble others."""
    source = TeacherSource(function=module(REVERSED), labels=("refund", "pay", "card"))
    assert opened(tmp_path / "out", source).logits(TEXTS).flags.c_contiguous


def test_an_error_in_the_users_function_is_named_as_theirs(tmp_path: Path, module: Callable[[str], str]) -> None:
    with pytest.raises(BadInput, match=r"teacher .*:answer: raised ZeroDivisionError.*correct it"):
        opened(tmp_path / "out", TeacherSource(function=module("1 / 0"))).logits(TEXTS)


def test_an_ensemble_preprocesses_a_request_once_where_its_members_do_it_alike() -> None:
    class Fake:
        calls = 0

        def __init__(self, preprocessing: str) -> None:
            self.preprocessing, self.engine = preprocessing, self

        def feeds_one(self, raw: str) -> dict[str, str]:
            Fake.calls += 1
            return {"made for": self.preprocessing}

        def run(self, feeds: dict[str, str]) -> str:
            return feeds["made for"]

    members: Any = [Fake("a"), Fake("b"), Fake("a")]
    assert answer_one(members, "x") == ["a", "b", "a"]
    assert Fake.calls == 2
