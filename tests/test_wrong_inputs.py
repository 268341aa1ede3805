"""What a user reads who gave something wrong: one line that names file, line and key and says what to change; exit 2;
no traceback; nothing half-written. Through the real command line."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdexport.bundle.write import write_bundle
from kdexport.cli import main
from kdexport.stages import distil
from tests.bundle.conftest import png, text_manifest, text_model, word_piece

CLASSES = ("card", "cash")
PROGRESS = re.compile(r"\d\d:\d\d:\d\d ")  # a log line on stderr
ALWAYS_THERE = {".lock", "log.txt"}  # what a run folder holds before its first stage
TEACHER = """
import os, signal, time
CLASSES = ("card", "cash")
def answer(texts):
    return [[4.0 * (c in t) for c in CLASSES] for t in texts]
def no_number(texts):
    return [[float("nan") if "7" in t else 1.0, 0.0] for t in texts]
def wide(texts):
    return [[0.0, 1.0, 2.0] for t in texts]
def broken(texts):
    raise LookupError("no such model")
def many(texts):
    return [[float(t.split()[0] == f"class{i}") for i in range(600)] for t in texts]
def slow(texts):
    open("asked", "w").close()
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _process_state_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A verb silences libraries for its whole process, which here is the test's."""
    monkeypatch.chdir(tmp_path)
    for name in ("KDEXPORT_DATA", "KDEXPORT_DEBUG", "KDEXPORT_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    environment, raise_exceptions = dict(os.environ), logging.raiseExceptions
    yield
    os.environ.clear()
    os.environ.update(environment)
    logging.raiseExceptions = raise_exceptions


@dataclass
class World:
    """A folder with a text project that is right; a test changes one thing in it."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def project(self, **changes: Any) -> Path:
        """The project file; `None` takes a key out."""
        document: dict[str, Any] = {
            "name": "tiny",
            "task": "text_classification",
            "teachers": [{"function": "wrong_inputs_teacher:answer", "licence": {"distillation": "allowed"}}],
            "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}},
            "targets": ["l4"],
        }
        document |= changes
        lines = [f"{k}: {json.dumps(v)}" for k, v in document.items() if v is not None]
        return self.write("kdexport.yaml", "\n".join(lines) + "\n")

    def files(self) -> set[str]:
        return {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if "__pycache__" not in p.parts}

    def fails(self, *arguments: object, late: bool = False) -> str:
        """The one error line of a call that could not be done. `late`: stages may have been finished before."""
        before = self.files()
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        line = error_line(result)
        new = self.files() - before
        assert not [f for f in new if f.endswith(".tmp")]
        if late:
            assert all(f.startswith("out/") or f == "out" for f in new)
        else:
            assert new <= {"out", *(f"out/{f}" for f in ALWAYS_THERE)}
        return line

    def run_fails(self, *, late: bool = False, **changes: Any) -> str:
        return self.fails("run", self.project(**changes), "--out", self.out, late=late)


def error_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr, result.stderr
    *progress, line = result.stderr.splitlines()
    assert all(PROGRESS.match(p) for p in progress), result.stderr
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_world(tmp_path)


def make_world(folder: Path) -> World:
    this = World(folder)
    this.write("wrong_inputs_teacher.py", TEACHER)
    for name, count in (("train.csv", 30), ("test.csv", 10)):
        rows = [f"{c} {name} number {i},{c}" for i in range(count) for c in CLASSES]
        this.write(name, "\n".join(["text,label", *rows]) + "\n")
    return this


# --- the project file


def test_a_missing_project_file_is_named(world: World) -> None:
    line = world.fails("run", world.folder / "no.yaml", "--out", world.out)
    assert line == f"{world.folder}/no.yaml: cannot be read (No such file or directory)"


def test_bad_yaml_is_named_with_its_line(world: World) -> None:
    world.write("kdexport.yaml", "name: tiny\ntask: [text_classification\nteachers: 3\n")
    line = world.fails("run", world.folder / "kdexport.yaml", "--out", world.out)
    assert re.search(r"kdexport\.yaml:3: not valid YAML: ", line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_retension": 0.9}, r":6: min_retension: unknown key; did you mean 'min_retention'\?"),
        ({"targets": ["l5"]}, r":5: targets\[0\]: unknown target 'l5'; did you mean 'l4'\?"),
        (
            {"task": "text_clasification"},
            r":2: task: unknown task 'text_clasification'; did you mean 'text_classification'\?",
        ),
        ({"task": "multi_label_classification"}, r":2: task: 'multi_label_classification' is not supported; text_"),
        ({"training": {"loss": "k1"}}, r":6: training\.loss: unknown loss 'k1'; did you mean 'kl'\?"),
        ({"min_retention": "high"}, r":6: min_retention: a number is wanted, found 'high'"),
        ({"teachers": None}, r":1: the document: required key 'teachers' is missing"),
        ({"teachers": []}, r":3: teachers: at least one entry is wanted, found none"),
        ({"targets": ["l4", "l4"]}, r":5: targets\[1\]: a second target 'l4'; give it another id"),
        (
            {"teachers": [{"function": "m:f", "labels": ["card", "cash", "card"]}]},
            r":3: teachers\[0\]: labels: 'card' stands twice; name every output",
        ),
        ({"targets": "l4"}, r":5: targets: a list, as in \[a, b\], is wanted, found 'l4'"),
        ({"data": {"train": "a.csv"}}, r":4: data\.train: keys and values, .*, are wanted, found 'a\.csv'"),
        ({"prefer": "fastest"}, r":6: prefer: Input should be 'cheapest' or 'quality'; found 'fastest'"),
        ({"min_retention": 97}, r":6: min_retention: Input should be less than or equal to 1\.5; found 97"),
        ({"max_params": 0}, r":6: max_params: Input should be greater than 0; found 0"),
        ({"teachers": [{"model": "a", "onnx": "b.onnx"}]}, r":3: teachers\[0\]: give exactly one of model, onnx"),
        (
            {"data": {"train": {"path": "${KDEXPORT_DATA}/a.csv"}}},
            r":4: data\.train\.path uses \${KDEXPORT_DATA}.*Banking77 is",
        ),
        (
            {"metric": {"name": "recall_at_false_alarm", "positive": "crad", "max_false_alarm": 0.1}},
            r":6: metric: positive: unknown class 'crad'; did you mean 'card'",
        ),
        (
            {"metric": {"name": "cost_matrix", "costs_usd": {"card": {"chash": 2}}}},
            r":6: metric: .*unknown class 'chash'; did you mean 'cash'",
        ),
    ],
)
def test_a_wrong_key_or_name_is_told_with_line_and_the_nearest_right_one(
    world: World, changes: dict[str, Any], message: str
) -> None:
    assert re.search(message, world.run_fails(**changes))


def test_a_key_that_stands_twice_is_named_with_its_second_line(world: World) -> None:
    path = world.project()
    path.write_text(path.read_text() + "name: other\n")
    assert re.search(r"kdexport\.yaml:6: key 'name' stands twice", world.fails("run", path, "--out", world.out))


def test_a_forbidden_licence_stops_before_the_first_label(world: World) -> None:
    licence = {"distillation": "forbidden", "source": "terms, clause 7"}
    line = world.run_fails(teachers=[{"function": "wrong_inputs_teacher:answer", "licence": licence}])
    assert re.search(r"teachers\[0\]\.licence\.distillation: .* forbids distillation \(terms, clause 7\); use an", line)
    assert not world.out.exists()


# --- targets and profiles


def test_a_misspelt_runtime_in_a_users_target_file_is_named(world: World) -> None:
    text = Path(__file__).parent.parent.joinpath("targets/l4.yaml").read_text()
    world.write("mine.yaml", text.replace("[tensorrt_rtx, tensorrt]", "[tensort]"))
    line = world.run_fails(targets=["mine.yaml"])
    assert re.search(r"mine\.yaml:\d+: runtimes: unknown runtime 'tensort'; did you mean 'tensorrt'\?", line)


def test_an_offering_of_this_machine_is_refused_before_any_work(world: World) -> None:
    text = Path(__file__).parent.parent.joinpath("targets/local-cpu.yaml").read_text()
    world.write("mine.yaml", text.replace("id: local-cpu", "id: mine") + "offering: on-my-desk\n")
    line = world.run_fails(targets=["mine.yaml"])
    number = len(text.splitlines()) + 1
    assert f"mine.yaml:{number}: offering: 'on-my-desk' is wanted, but profile 'local', this machine, has none" in line
    assert "leave `offering` out" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{value: 60,",
            "{value: .nan,",
            r"profiles/mine\.yaml:\d+: facts\.cores\.value is \.nan; a finite number is wanted",
        ),
        (", source: *gpudb", "", r"profiles/mine\.yaml:\d+: facts\.memory_gib: required key 'source' is missing"),
        (
            "id: mine",
            "id: yours",
            r"profiles/mine\.yaml:\d+: id: is 'yours', but the file is named 'mine\.yaml'; rename",
        ),
    ],
)
def test_a_profile_with_a_fault_is_named_with_line_and_key(
    world: World, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    shipped = Path(__file__).parent.parent
    profile = shipped.joinpath("profiles/l4.yaml").read_text().replace("id: l4", "id: mine")
    world.write("catalogue/profiles/mine.yaml", profile.replace(old, new, 1))
    target = shipped.joinpath("targets/l4.yaml").read_text().replace("l4", "mine").replace("offering: ", "# ")
    world.write("catalogue/targets/mine.yaml", target)
    monkeypatch.setenv("KDEXPORT_CATALOGUE", str(world.folder / "catalogue"))
    assert re.search(message, world.run_fails(targets=["mine"]))
    assert re.search(message, world.fails("profiles", "list"))


def test_a_catalogue_that_is_no_folder_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEXPORT_CATALOGUE", "/no/such")
    line = world.run_fails()
    assert line == "KDEXPORT_CATALOGUE: '/no/such' is not a folder; correct the variable or unset it"


# --- data


@pytest.mark.parametrize("verb", ["run", "plan", "doctor"])
def test_a_missing_train_file_is_named(world: World, verb: str) -> None:
    (world.folder / "train.csv").unlink()
    out = [] if verb == "doctor" else ["--out", world.out]
    assert world.fails(verb, world.project(), *out) == f"{world.folder}/train.csv: no such file or folder"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "", r"train\.csv: no rows; at least one row below the header is wanted"),
        ("train.csv", "text,label\n", r"train\.csv: no rows; at least one row below the header is wanted"),
        (
            "train.csv",
            "text,label\na,card\nb,card\n",
            r"train\.csv: only one class \('card'\); add rows of another class",
        ),
        ("train.csv", "text,label\na,card\nb,\nc,cash\n", r"train\.csv:3: column 'label' is empty; every row needs a"),
        ("train.csv", "text,label\na,card\nb\n", r"train\.csv:3: .* header's columns \(text, label\); put a"),
        (
            "train.csv",
            "text,label\na,card\nb,cash\n",
            r"train\.csv: too few rows a class to hold out a dev split; give",
        ),
        (
            "test.csv",
            "text,label\na,card\nb,loan\n",
            r"test\.csv:3: label 'loan' is not in .*train\.csv .* remove them",
        ),
        ("train.csv", b"text,label\n\xff\xfe,card\n", r"train\.csv: is not UTF-8 text .*convert it"),
        ("train.jsonl", '{"text": "a", "label": "card"}\n{"text": \n', r"train\.jsonl:2: not valid JSON"),
        (
            "train.jsonl",
            '{"text": "a", "label": ["card", "cash"]}\n',
            r"train\.jsonl:1: .*multi-label data is not supp",
        ),
        ("train.json", '{"rows": []}', r"train\.json: holds an object, not rows; name its member: train\.json#rows"),
    ],
)
def test_data_with_a_fault_are_named_with_file_and_line(
    world: World, name: str, content: str | bytes, message: str
) -> None:
    world.write(name, content)
    train = name if name.startswith("train") else "train.csv"
    line = world.run_fails(data={"train": {"path": train}, "test": {"path": "test.csv"}})
    assert re.search(message, line)


def test_a_label_column_that_is_not_there_is_told_with_the_nearest(world: World) -> None:
    line = world.run_fails(data={"train": {"path": "train.csv", "label": "lable"}})
    assert line.endswith("train.csv:1: unknown column 'lable'; did you mean 'label'?")


def test_a_folder_of_pictures_is_no_text(world: World) -> None:
    world.write("pictures/card/1.png", png())
    line = world.run_fails(data={"train": {"path": "pictures"}})
    assert line.endswith("pictures: is a folder, which holds pictures; name a file of rows, or set another task")


def test_a_truncated_parquet_file_is_named(world: World) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b"], "label": ["card", "cash"]}), world.folder / "train.parquet")
    path = world.folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    line = world.run_fails(data={"train": {"path": "train.parquet"}})
    assert re.search(r"train\.parquet: not a readable Parquet file", line)


@pytest.mark.parametrize("content", [b"no picture", b"", png()[:-12]], ids=["other", "empty", "truncated"])
def test_a_picture_that_cannot_be_decoded_is_named(world: World, content: bytes) -> None:
    for c in CLASSES:
        for i in range(12):
            world.write(f"pictures/{c}/{i:02}.png", png((i, 10 * (c == "card"), 0)))
    world.write("pictures/cash/03.png", content)
    line = world.run_fails(task="image_classification", data={"train": {"path": "pictures"}})
    assert re.search(r"pictures/cash/03\.png: not a whole picture .* replace it or remove the row", line)


# --- teachers, found wrong before any work


def config(**changes: Any) -> str:
    fields = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    return json.dumps({**fields, "id2label": {"0": "card", "1": "cash"}, **changes})


EMPTY_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # a safetensors file of no tensor


class Hostile:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"teacher: no such folder; a teacher folder holds config\.json and model\.safetensors"),
        ({"tokenizer.json": "{}"}, r"teacher/config\.json: no such file; is this a Hugging Face model folder\?"),
        ({"config.json": "{"}, r"teacher/config\.json: not valid JSON .*; correct it, or copy it again"),
        (
            {"config.json": config(architectures=["BertModel"])},
            "'BertModel' is no sequence classifier; fine-tune it fi",
        ),
        ({"config.json": config(problem_type="multi_label_classification")}, "multi-label teachers are not supported"),
        ({"config.json": "[]"}, r"teacher/config\.json: not a model's configuration; save the model again"),
        ({"config.json": config()}, r"teacher: no model\.safetensors; save the model with safe_serialization"),
        (
            {"config.json": config(), "model.safetensors": pickle.dumps(Hostile())},
            r"teacher/model\.safetensors: not a safetensors file: a pickle \(refused\).*; save it with safetensors",
        ),
        (
            {"config.json": config(), "pytorch_model.bin": pickle.dumps(Hostile())},
            r"teacher/pytorch_model\.bin: does not load with weights_only .*; save it with safetensors",
        ),
        ({"config.json": config(), "model.safetensors": EMPTY_WEIGHTS}, r"teacher/tokenizer\.json: no such file"),
        (
            {"config.json": config(), "model.safetensors": EMPTY_WEIGHTS, "tokenizer.json": "{}"},
            r"teacher/tokenizer\.json: not a tokenizer \(.*\); save it again",
        ),
        (
            {"spec.json": '{"backbone": "convolution", "hidden": 3}', "model.safetensors": EMPTY_WEIGHTS},
            r"teacher/spec\.json: ",
        ),
        (
            {
                "config.json": config(id2label={"0": "card", "1": "loan"}),
                "model.safetensors": EMPTY_WEIGHTS,
                "tokenizer.json": "{}",
            },
            r"teacher: the teacher knows 2 classes and lacks 1 of the data's 2: cash; remove those rows, or give 'labe",
        ),
    ],
)
def test_a_teacher_folder_that_cannot_teach_is_named_before_any_work(
    world: World, files: dict[str, str | bytes], message: str
) -> None:
    for name, content in files.items():
        world.write(f"teacher/{name}", content)
    assert re.search(message, world.run_fails(teachers=[{"model": "teacher"}]))
    assert not (world.folder / "unpickled").exists()


def test_labels_that_do_not_name_every_output_of_a_model_are_refused(world: World) -> None:
    for name, content in (("config.json", config()), ("model.safetensors", EMPTY_WEIGHTS), ("tokenizer.json", "{}")):
        world.write(f"teacher/{name}", content)
    line = world.run_fails(teachers=[{"model": "teacher", "labels": ["cash", "card", "loan"]}])
    assert re.search(r"labels: 3 names are given, the model has 2 outputs; name every output, in order", line)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            {"function": "no_such_module:answer"},
            r"teacher function 'no_such_module:answer' cannot be loaded .*PYTHONPATH",
        ),
        ({"function": "wrong_inputs_teacher:anwser"}, r"'wrong_inputs_teacher:anwser' cannot be loaded .*no attribute"),
        ({"function": "broken_teacher:answer"}, r"'broken_teacher:answer': its module raised NameError\("),
        ({"function": "wrong_inputs_teacher:CLASSES"}, "is not callable"),
        ({"function": "wrong_inputs_teacher:answer", "labels": ["card", "loan"]}, "lacks 1 of the data's 2: cash"),
        ({"onnx": "t.onnx"}, r"t\.onnx: no such ONNX file"),
        ({"onnx": "cut.onnx"}, r"cut\.onnx: not a valid ONNX model .*; export or copy it again"),
        ({"onnx": "whole.onnx"}, r"tokenizer\.json: a text teacher in ONNX needs its tokenizer\.json beside it"),
        ({"scores": "s.jsonl"}, r"s\.jsonl: no scores for \d+ of \d+ inputs, first: '.*'; score them too"),
        ({"scores": "bad.jsonl"}, r"bad\.jsonl:2: a row is "),
        ({"fit": {"base": "base"}}, r"base/config\.json: no such file; the base is a Hugging Face model folder"),
        ({"fit": {"spec": {"backbone": "convolutoin"}}}, "unknown backbone 'convolutoin'; did you mean 'convolution'"),
    ],
)
def test_a_teacher_that_cannot_answer_is_told_before_any_work_even_as_the_second(
    world: World, teacher: dict[str, Any], message: str
) -> None:
    world.write("broken_teacher.py", "answer = no_such_name\n")
    whole = text_model(100)
    world.write("whole.onnx", whole)
    world.write("cut.onnx", whole[: len(whole) // 2])
    row = '{"text": "a", "scores": {"card": 1, "cash": 0}}\n'
    world.write("s.jsonl", row)
    world.write("bad.jsonl", row + '{"text": "b"}\n')
    first = {"function": "wrong_inputs_teacher:answer"}
    line = world.run_fails(teachers=[first, teacher])
    checkup = CliRunner().invoke(main, ["doctor", str(world.folder / "kdexport.yaml"), "--json"])
    assert f"`kdexport run` would refuse this project: {line}" in json.loads(checkup.stdout)["data"]["notes"]
    assert line.startswith(f"{world.folder}/kdexport.yaml:3: teachers[1]: ")
    assert re.search(message, line)


def test_scores_that_lack_the_test_rows_are_told_before_any_work(world: World) -> None:
    texts = [line.rpartition(",")[0] for line in (world.folder / "train.csv").read_text().splitlines()[1:]]
    rows = [json.dumps({"text": t, "scores": {c: float(c in t) for c in CLASSES}}) for t in texts]
    world.write("s.jsonl", "\n".join(rows) + "\n")
    line = world.run_fails(teachers=[{"scores": "s.jsonl"}])
    assert re.search(r"s\.jsonl: no scores for 20 of 80 inputs, first: 'card test\.csv number 0'; score them too", line)
    line = world.run_fails(teachers=[{"scores": "s.jsonl"}], training={"augment_per_row": 2})
    assert re.search(r"s\.jsonl: holds no scores of variants; set training\.augment_per_row to 0", line)


def test_a_base_that_cannot_be_fitted_leaves_no_work_folder(world: World) -> None:
    world.write("base/config.json", "{}")
    line = world.fails("teacher", "fit", "--base", "base", "--train", "train.csv", "--out", world.folder / "new")
    assert line.startswith("base: no model.safetensors")


# --- teachers, found wrong when asked


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_number", r"no_number: \d+ answers are not finite numbers, the first to '.*7.*'; correct the teacher"),
        ("wide", r"wide: logits of shape \(\d+, 2\) are wanted, found \(\d+, 3\)"),
        ("broken", r"broken: raised LookupError\('no such model'\); correct it, KDEXPORT_DEBUG=1 shows where"),
    ],
)
def test_a_function_that_answers_wrongly_is_told_with_what_it_gave(world: World, function: str, message: str) -> None:
    line = world.run_fails(teachers=[{"function": f"wrong_inputs_teacher:{function}"}], late=True)
    assert re.search(message, line)
    assert not list(world.out.glob("stages/label-*/labels.json"))


def test_a_tokenizer_of_another_model_is_told_from_the_first_answer(world: World) -> None:
    world.write("t.onnx", text_model(3))
    word_piece(lowercase=True).save(str(world.folder / "tokenizer.json"))
    line = world.run_fails(teachers=[{"onnx": "t.onnx", "labels": [*CLASSES, "transfer"]}], late=True)
    assert re.search(r"t\.onnx: cannot answer \(.*out of data bounds.*\); do its inputs, its tokenizer\.json", line)


def test_outputs_without_a_name_are_told_from_the_first_answer(world: World) -> None:
    world.write("t.onnx", text_model(200))
    word_piece(lowercase=True).save(str(world.folder / "tokenizer.json"))
    line = world.run_fails(teachers=[{"onnx": "t.onnx"}], late=True)
    assert re.search(r"t\.onnx: answers with shape \(\d+, 3\), but 2 classes are named; give 'labels'", line)


def test_a_model_whose_head_would_be_made_up_or_is_of_zeros_is_refused(world: World) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertForSequenceClassification

    settings = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=24, id2label=dict(enumerate(CLASSES)), label2id={c: i for i, c in enumerate(CLASSES)},
    )  # fmt: skip
    model = BertForSequenceClassification(settings)
    model.save_pretrained(world.folder / "teacher", safe_serialization=True)
    word_piece(lowercase=True).save(str(world.folder / "teacher" / "tokenizer.json"))
    weights = world.folder / "teacher" / "model.safetensors"
    sound = load_file(weights)
    save_file({k: torch.zeros_like(v) for k, v in sound.items()}, weights, {"format": "pt"})
    line = world.run_fails(teachers=[{"model": "teacher"}])
    assert re.search(r"yaml:\d+: teachers\[0\]: .*teacher: all 6,976 weights of its matrices are 0; save the", line)

    save_file({k: v for k, v in sound.items() if not k.startswith("classifier")}, weights, {"format": "pt"})
    line = world.run_fails(teachers=[{"model": "teacher"}], late=True)
    assert re.search(r"model\.safetensors: lacks 2 of the model's tensors, as classifier\.bias; save the whole", line)


# --- the run folder


@pytest.mark.parametrize("out", ["train.csv", "train.csv/below", "/proc/kdexport-run"])
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_out_that_cannot_be_written_is_told_before_the_data_are_read(world: World, verb: str, out: str) -> None:
    world.write("test.csv", "")
    line = world.fails(verb, world.project(), "--out", out)
    reason = "No such file or directory" if out.startswith("/proc") else "a file is in the way"
    assert re.fullmatch(rf"{out}: cannot be written \({reason}\); .*choose another --out", line)


def test_a_second_run_in_the_same_folder_is_refused(world: World) -> None:
    world.out.mkdir()
    with open(world.out / ".lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        line = world.run_fails()
    assert line == f"{world.out}: another kdexport run is working in this folder; wait, or use --out"


@pytest.fixture(scope="module")
def stopped_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Result]:
    """A run that Ctrl-C stopped after its labels were made."""

    def stop(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    this = make_world(tmp_path_factory.mktemp("stopped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(this.folder))
        patch.setattr(distil, "distil", stop)
        result = CliRunner().invoke(main, ["run", str(this.project()), "--out", str(this.out)])
    shutil.copytree(this.out, this.folder / "kept")
    return this, result


@pytest.fixture
def stopped(stopped_source: tuple[World, Result], monkeypatch: pytest.MonkeyPatch) -> World:
    """Its run folder as it was left, in the folder where it was: a plan's key holds the paths of the project."""
    this, _ = stopped_source
    shutil.rmtree(this.out)
    shutil.copytree(this.folder / "kept", this.out)
    monkeypatch.syspath_prepend(str(this.folder))
    return this


def test_ctrl_c_is_one_line_and_130_and_keeps_what_was_finished(stopped_source: tuple[World, Result]) -> None:
    this, result = stopped_source
    assert result.exit_code == 130
    *progress, line = result.stderr.splitlines()
    assert line == "interrupted"
    assert all(PROGRESS.match(p) for p in progress)
    assert len(list(this.out.glob("stages/label-*/result.json"))) == 1
    assert not list(this.out.rglob("*.tmp"))


def test_a_truncated_label_cache_says_which_folder_to_delete(stopped: World) -> None:
    (logits,) = stopped.out.glob("stages/label-*/labels.safetensors")
    logits.write_bytes(logits.read_bytes()[:-8])
    line = stopped.run_fails(late=True)
    assert re.fullmatch(
        rf"{logits}: truncated or altered since it was written\. Delete {logits.parent}; it is made again\.", line
    )


@pytest.mark.parametrize("change", [lambda text: text[:40], lambda text: text.replace('"key": "', '"key": "0')])
@pytest.mark.parametrize("stage", ["teach", "label", "plan"])
def test_an_altered_result_says_what_to_delete(stopped: World, stage: str, change: Callable[[str], str]) -> None:
    (result,) = stopped.out.glob(f"stages/{stage}-*/result.json")
    result.write_text(change(result.read_text()))
    line = stopped.run_fails(late=True)
    assert line.startswith(f"{result}: ")
    assert "delete" in line


def test_an_altered_decision_says_that_it_is_measured_again(stopped: World) -> None:
    (decision,) = stopped.out.glob("decisions/student-*.json")
    decision.write_text('{"choice": 3}')
    line = stopped.run_fails(late=True)
    assert re.match(rf"{decision}: not a decision .*; delete it, it is measured again", line)


# --- a disk that fills, a real signal: in processes of their own


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def start(world: World, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdexport", *map(str, arguments)],
        cwd=world.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_is_full_at_once_is_told_at_once(world: World) -> None:
    with small_disk(world.out, "64k"):
        (world.out / "filler").write_bytes(bytes(60 << 10))
        with pytest.raises(OSError, match="No space left"):
            (world.out / "more").write_bytes(bytes(8 << 10))
        line = world.run_fails()
        assert re.match(rf"{world.out}: cannot be written \(No space left on device\); free space or choose", line)


def test_a_disk_that_fills_under_the_labels_is_one_line_and_no_label(world: World) -> None:
    """3,000 rows of 600 classes: the label cache alone is 774 kB."""
    rows = [f"class{i} {k},class{i}" for i in range(600) for k in range(5)]
    world.write("train.csv", "\n".join(["text,label", *rows]) + "\n")
    world.write("test.csv", "\n".join(["text,label", *rows[:100]]) + "\n")
    labels = [f"class{i}" for i in range(600)]
    project = world.project(
        teachers=[{"function": "wrong_inputs_teacher:many", "labels": labels}], training={"augment_per_row": 0}
    )
    with small_disk(world.out, "500k"):
        process = start(world, "run", project, "--out", world.out)
        stdout, stderr = process.communicate(timeout=120)
        assert (process.returncode, stdout) == (2, "")
        *progress, line = stderr.splitlines()
        assert all(PROGRESS.match(p) for p in progress)
        assert line.startswith("error: ")
        assert re.search("[Nn]o space left", line)
        assert re.search("free (some|space)", line)
        assert not list(world.out.rglob("*.tmp"))
        assert {p.name for p in world.out.glob("stages/label-*/*.json")} <= {"rows.json"}


def test_ctrl_c_while_the_teacher_answers_is_one_line_and_130(world: World) -> None:
    project = world.project(teachers=[{"function": "wrong_inputs_teacher:slow"}])
    process = start(world, "run", project, "--out", world.out)
    try:
        until = time.monotonic() + 100
        while not (world.folder / "asked").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    *progress, line = stderr.splitlines()
    assert (process.returncode, line) == (130, "interrupted")
    assert all(PROGRESS.match(p) for p in progress)
    assert not list(world.out.rglob("*.tmp"))


# --- bundles


@pytest.fixture
def bundle(world: World) -> Path:
    tokenizer = word_piece(lowercase=True)
    files: dict[str, Path | bytes] = {
        "model.onnx": text_model(tokenizer.get_vocab_size()),
        "tokenizer.json": tokenizer.to_str().encode(),
    }
    write_bundle(world.folder / "bundle", text_manifest(), files, golden=[])
    return world.folder / "bundle"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_a_flipped_byte_in_a_bundle_stops_eval_and_bench_and_is_a_no_of_verify(
    world: World, bundle: Path, file: str
) -> None:
    flip_a_byte(bundle / file)
    wanted = rf"{bundle}: {file}: SHA-256 \w+\.\.\., the manifest says \w+\.\.\.\. Copy or write the bundle again"
    assert re.fullmatch(wanted, world.fails("eval", bundle, "--data", world.folder / "test.csv"))
    assert re.fullmatch(wanted, world.fails("bench", bundle, "--data", world.folder / "test.csv"))
    verified = CliRunner().invoke(main, ["verify", str(bundle)])
    assert verified.exit_code == 1
    assert re.fullmatch(rf"no: {file}: SHA-256 .*\n", verified.stderr)


def test_a_flipped_byte_in_the_manifest_is_named(world: World, bundle: Path) -> None:
    flip_a_byte(bundle / "manifest.json")
    for verb in ("eval", "bench"):
        line = world.fails(verb, bundle, "--data", world.folder / "test.csv")
        assert re.match(rf"{bundle}/manifest\.json: .*; copy the bundle again", line)


def test_a_label_that_the_bundle_does_not_know_is_named_with_its_line(world: World, bundle: Path) -> None:
    path = world.write("new.csv", "text,label\na,card\nb,chash\n")
    assert world.fails("eval", bundle, "--data", path) == f"{path}:3: unknown label 'chash'; did you mean 'cash'?"


def test_a_folder_that_is_no_bundle_is_named(world: World) -> None:
    for verb in ("eval", "bench"):
        line = world.fails(verb, world.folder, "--data", world.folder / "test.csv")
        assert line.endswith(f"is {world.folder} a bundle?")


def test_a_minimum_that_is_no_number_is_refused(world: World, bundle: Path) -> None:
    result = CliRunner().invoke(main, ["eval", str(bundle), "--data", "test.csv", "--min", "high"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: Invalid value for '--min': 'high' is not a valid float."
    line = world.fails("eval", bundle, "--data", "test.csv", "--min", "nan")
    assert line == "--min nan: a finite number is wanted"


# --- init


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--teacher", "nothing", "--train", "train.csv"],
            r"--teacher nothing: a model folder, .*no such file or folder",
        ),
        (["--teacher", "m:f", "--train", "no.csv"], r"no\.csv: no such file or folder"),
        (["--teacher", "m:f", "--train", "train.csv", "--target", "l5"], r"unknown target 'l5'; did you mean 'l4'"),
        (["--teacher", "m:f", "--train", "train.csv", "--label", "lable"], r"train\.csv:1: unknown column 'lable'"),
    ],
)
def test_init_with_a_wrong_wish_writes_nothing(world: World, arguments: list[str], message: str) -> None:
    assert re.search(message, world.fails("init", *arguments))
