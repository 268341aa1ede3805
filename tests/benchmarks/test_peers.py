from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks._peers import environments, layers, worker
from benchmarks._peers.fast_text import normalised
from benchmarks.peers import Point, better_than_all, document_of, interleaved, told, undominated

OURS = [Point("small", 0.91, 20.0), Point("large", 0.93, 60.0)]


def test_a_peer_that_beats_each_of_ours_in_both_is_better_than_all() -> None:
    assert better_than_all(OURS, [Point("peer", 0.94, 10.0)]) == [Point("peer", 0.94, 10.0)]


@pytest.mark.parametrize(
    "peer",
    [Point("slow", 0.95, 61.0), Point("between", 0.92, 30.0), Point("poor", 0.85, 5.0), Point("equal", 0.93, 19.0)],
)
def test_a_peer_that_one_of_ours_equals_in_either_is_not_better_than_all(peer: Point) -> None:
    assert better_than_all(OURS, [peer]) == []


def test_a_peer_that_one_of_ours_equals_in_both_is_dominated() -> None:
    assert undominated(OURS, [Point("peer", 0.91, 20.0)]) == []


def test_a_peer_between_two_of_ours_is_ahead_of_each_in_one() -> None:
    (gap,) = undominated(OURS, [Point("peer", 0.92, 30.0)])
    assert (gap.beaten_in_latency, gap.latency_gap_us) == ("large", pytest.approx(30.0))
    assert (gap.beaten_in_accuracy, gap.accuracy_gap) == ("small", pytest.approx(0.01))


def test_a_faster_and_poorer_peer_is_ahead_in_latency_of_the_fastest_of_ours() -> None:
    (gap,) = undominated(OURS, [Point("quick", 0.85, 14.0)])
    assert (gap.beaten_in_latency, gap.latency_gap_us) == ("small", pytest.approx(6.0))
    assert gap.accuracy_gap is None
    assert told(gap) == (
        "quick: 6.0 us faster than small, the fastest of ours that is as accurate; none of ours is as fast"
    )


def test_a_slower_and_better_peer_is_ahead_in_accuracy_of_the_best_of_ours() -> None:
    (gap,) = undominated(OURS, [Point("good", 0.95, 400.0)])
    assert gap.latency_gap_us is None
    assert (gap.beaten_in_accuracy, gap.accuracy_gap) == ("large", pytest.approx(0.02))
    assert told(gap) == "good: none of ours is as accurate; 2.00 points above large, the best of ours that is as fast"


def _row(kind: str, name: str, accuracy: float, p50_us: float) -> dict[str, Any]:
    return {"data": "banking77", "kind": kind, "name": name, "accuracy": accuracy, "p50_us": p50_us}


def test_the_bar_is_missed_where_a_peer_leaves_no_reason_to_use_ours() -> None:
    rows = [_row("ours", "small", 0.91, 20.0), _row("peer", "quick", 0.85, 14.0), _row("teacher", "t", 0.99, 1.0)]
    assert document_of(rows)["bars"][0]["passed"]
    document = document_of([*rows, _row("peer", "best", 0.92, 10.0)])
    assert document["bars"][0] | {"value": 1, "ceiling": 0, "passed": False} == document["bars"][0]


def test_the_teacher_is_no_peer() -> None:
    rows = [_row("ours", "small", 0.91, 20.0), _row("teacher", "t", 0.99, 1.0)]
    assert document_of(rows)["figures"]["undominated"] == {"banking77": []}


def test_blocks_of_all_contestants_see_the_same_texts_in_turn() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def peer(name: str) -> Any:
        def timed_ns(texts: Any) -> list[int]:
            asked.append((name, tuple(texts)))
            return [2_000_000] * len(texts)

        return timed_ns

    texts = [str(i) for i in range(30)]
    found = interleaved({"a": peer("a"), "b": peer("b")}, texts, calls=40)
    assert [name for name, _ in asked] == ["a", "b", "a", "b"]
    assert asked[0][1] == asked[1][1] == tuple(texts[:20])
    assert asked[2][1] == (*texts[20:], *texts[:10])
    assert np.array_equal(found.samples_ms["a"], np.full((2, 20), 2.0))


def test_a_worker_answers_and_times_text_by_text(tmp_path: Path) -> None:
    requests = io.StringIO('{"texts": ["a", "bb"]}\n{"texts": ["a", "bb", "a"], "timed": true}\n')
    answers = io.StringIO()
    worker.serve(lambda folder: lambda text: f"{folder.name}{len(text)}", tmp_path / "x", requests, answers)
    ready, labels, timed = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert ready == {"ready": True}
    assert labels == {"labels": ["x1", "x2"]}
    assert len(timed["ns"]) == 3
    assert all(ns >= 0 for ns in timed["ns"])


def test_a_task_reads_back_and_holds_no_test_rows(tmp_path: Path) -> None:
    rows = worker.Rows(["a", "b"], [0, 1])
    task = worker.Task(["no", "yes"], rows, worker.Rows(["c"], [1]), Path("/teacher"), Path("/base"))
    worker.write_task(tmp_path / "task.json", task)
    assert worker.read_task(tmp_path / "task.json") == task
    assert set(json.loads((tmp_path / "task.json").read_text())) == {"classes", "train", "dev", "teacher", "base"}


def test_a_peer_that_fails_leaves_no_trained_model(tmp_path: Path) -> None:
    class Peer:
        @staticmethod
        def train(*_: Any) -> dict[str, Any]:
            raise RuntimeError

    worker.write_task(tmp_path / "t.json", worker.Task([], worker.Rows([], []), worker.Rows([], []), Path(), Path()))
    with pytest.raises(RuntimeError):
        worker.train(Peer, tmp_path / "t.json", tmp_path / "model", quick=False, seed=0)
    assert not (tmp_path / "model" / worker.TRAINED).exists()


def test_kept_layers_are_numbered_from_zero_and_the_rest_keeps_its_name() -> None:
    name = "bert.encoder.layer.{}.output.dense.weight"
    assert layers.renamed(name.format(4), (0, 2, 4)) == name.format(2)
    assert layers.renamed(name.format(3), (0, 2, 4)) is None
    assert layers.renamed("classifier.bias", (0, 2, 4)) == "classifier.bias"


def test_a_shorter_model_is_float32_and_says_how_many_layers_it_has(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    source = tmp_path / "source"
    source.mkdir()
    tensors = {f"encoder.layer.{i}.w": torch.full((2,), float(i), dtype=torch.float16) for i in range(6)}
    save_file(tensors, str(source / "model.safetensors"))
    (source / "config.json").write_text('{"num_hidden_layers": 6, "torch_dtype": "float16"}')
    found = load_file(str(layers.keep_layers(source, (1, 5), tmp_path / "short") / "model.safetensors"))
    assert {name: (t.dtype, t[0].item()) for name, t in found.items()} == {
        "encoder.layer.0.w": (torch.float32, 1.0),
        "encoder.layer.1.w": (torch.float32, 5.0),
    }
    assert layers.num_layers(tmp_path / "short") == 2


def test_bytes_are_those_of_files_that_are_loaded(tmp_path: Path) -> None:
    for name, size in (("model.bin", 10), ("classes.json", 5), (worker.TRAINED, 99), ("README.md", 99)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert peers.bytes_loaded(tmp_path) == 15


def test_of_a_bundle_the_model_and_the_tokenizer_are_loaded(tmp_path: Path) -> None:
    manifest = {"model": "model.xml", "preprocessor": {"tokenizer": "tokenizer.json"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for name, size in (("model.xml", 10), ("model.bin", 100), ("tokenizer.json", 5), ("golden.json", 99)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert peers.bytes_loaded(tmp_path) == 115


def test_fasttext_reads_lower_case_with_punctuation_apart() -> None:
    assert normalised("Where's my card?\nLost!") == "where ' s my card ? lost !"


def test_an_environment_that_is_there_is_not_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEXPORT_PEER_VENVS", str(tmp_path))
    monkeypatch.setattr(environments, "_call", lambda command: pytest.fail(f"ran {command}"))
    (tmp_path / "fasttext").mkdir()
    (tmp_path / "fasttext" / environments.STAMP).write_text(repr(environments.PACKAGES["fasttext"]))
    assert environments.python_of("fasttext") == tmp_path / "fasttext" / "bin" / "python"


def test_an_environment_of_other_versions_is_installed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setenv("KDEXPORT_PEER_VENVS", str(tmp_path))
    monkeypatch.setattr(environments, "_call", ran.append)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / environments.STAMP).write_text("other versions")
    environments.python_of("trainer")
    assert [command[-1] for command in ran[1:]] == [group[-1] for group in environments.PACKAGES["trainer"]]
    assert "torch==2.13.0" in ran[1]  # before all others, so that none of them brings CUDA


def test_tfidf_answers_after_reading_back_as_it_did_when_it_was_fitted(tmp_path: Path) -> None:
    from benchmarks._peers import tfidf

    texts = ["lost my card", "card is lost", "send money", "money sent abroad"]
    rows = worker.Rows(texts * 3, [0, 0, 1, 1] * 3)
    dev = worker.Rows(["the card was lost", "sending money"], [0, 1])
    facts = tfidf.train(worker.Task(["card", "transfer"], rows, dev, Path(), Path()), tmp_path, quick=True, seed=0)
    predict = tfidf.load(tmp_path)
    assert facts["dev_accuracy"] == 1.0
    assert [predict(text) for text in dev.texts] == ["card", "transfer"]
