from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks._sets import SETS
from kdexport.nouns.metric import Metric
from kdexport.storage.files import write_json

LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])


def logits(right: int) -> np.ndarray:
    """(10, 2): the first `right` rows answered right."""
    said = np.where(np.arange(10) < right, LABELS, 1 - LABELS)
    return np.eye(2)[said]


def row(seed: int, right: int, **changes: Any) -> dict[str, Any]:
    found = {
        "data": "banking77", "ratio_wanted": 12, "seed": seed, "metric": "accuracy", "n": 10, "params": 100,
        "params_ratio": 12.5, "student_bytes": 400, "quality": right / 10, "teacher_quality": 0.8,
        "right": quality._packed(logits(right), LABELS), "teacher_right": quality._packed(logits(8), LABELS),
        "calibration_error": 0.02 + seed / 100, "teacher_calibration_error": 0.03, "engine": "onnxruntime/fp32",
        "seconds": {"distil": 60.0}, "shared_seconds": {"label": 120.0},
    }  # fmt: skip
    return found | changes


BAR = next(b for b in quality.BARS if (b.data, b.ratio) == ("banking77", 12))


def test_a_size_is_the_mean_of_its_seeds_against_the_teacher() -> None:
    size = quality.size_of(BAR, [row(0, 8), row(1, 7), row(2, 9)], None)
    assert size["retention_mean"] == pytest.approx(1.0)
    assert size["quality_sd"] == pytest.approx(0.1)
    assert size["calibration_error"] == pytest.approx(0.04)  # of the worst seed
    low, high = size["retention_ci95"]
    assert low < 1.0 < high


def test_a_student_of_the_ensemble_is_held_against_the_single_teacher() -> None:
    bar = next(b for b in quality.BARS if b.data == "banking77-ensemble")
    of_three = row(0, 9, data="banking77-ensemble", teacher_quality=0.95)
    assert quality.size_of(bar, [of_three], row(0, 8))["retention_mean"] == pytest.approx(0.9 / 0.8)
    assert quality.size_of(bar, [of_three], row(0, 8))["own_teacher_quality"] == 0.95


def test_a_size_below_its_floor_fails_and_names_it() -> None:
    rows = [row(0, 7), row(1, 7)]
    failed = {b["name"] for b in quality.document_of(rows)["bars"] if not b["passed"]}
    assert failed == {"banking77 1/12 retention"}


def test_a_student_worse_calibrated_than_its_teacher_by_more_than_a_point_fails() -> None:
    document = quality.document_of([row(0, 8, calibration_error=0.041)])
    assert [b["name"] for b in document["bars"] if not b["passed"]] == ["banking77 1/12 calibration error"]


def test_teachers_and_labels_count_once_a_set_and_trainings_once_a_student() -> None:
    assert quality.minutes([row(0, 8), row(1, 8), row(0, 8, data="clinc150")]) == pytest.approx(3 + 4)


def test_what_a_student_costs_beside_its_training_counts_too() -> None:
    """By the names of the pipeline's stages; a finish for int8 is inside that of the engines, and counts once, as does
    the teacher that is asked inside the stage of quality."""
    stages = {
        "distil": 60.0, "engines-local-cpu": 8.0, "quantise": 5.0, "bundle-local-cpu": 1.0, "bench-local-cpu": 30.0,
        "predict-student-local-cpu": 4.0, "quality-local-cpu": 2.0, "plan": 1.0,
        "teach-1": 20.0, "label": 120.0, "ensemble": 3.0, "answers-dev-1": 6.0, "predict-teacher": 9.0,
        "quantise-teacher": 11.0, "calibrate": 12.0,
    }  # fmt: skip
    own, shared = quality.own_seconds(stages), quality.shared_seconds(stages)
    assert sum(own.values()) == 60 + 8 + 1 + 30 + 4 + 1
    assert sum(shared.values()) == 20 + 120 + 3 + 6 + 9 + 11 + 12


def test_which_rows_are_right_survives_packing() -> None:
    assert quality._unpacked(quality._packed(logits(7), LABELS), 10).tolist() == [1.0] * 7 + [0.0] * 3


def test_about_one_character_in_twenty_is_wrong() -> None:
    text = "could you tell me why my card was declined at the shop this morning " * 30
    wrong = quality.with_typos(text, random.Random(0))
    distance = sum(a != b for a, b in zip(quality.with_typos(text, random.Random(1)), wrong, strict=False))
    assert distance > 0
    assert quality.with_typos(text, random.Random(0)) == wrong
    assert abs(len(wrong) - len(text)) < 0.05 * len(text)
    words = zip(text.split(), wrong.split(), strict=False)
    assert wrong.split()[0] == "could" or any(a != b for a, b in words)


def test_the_share_of_unknown_pieces_is_counted(tmp_path: Path) -> None:
    vocabulary = {"[UNK]": 0, "card": 1, "pay": 2}
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }  # fmt: skip
    write_json(tmp_path / "tokenizer.json", document)
    assert quality.unknown_share(tmp_path / "tokenizer.json", ["card pay", "card xyz"]) == 0.25


def test_marks_that_every_text_gets_are_no_pieces_of_it_and_no_unknown_is_found_by_its_place_too(
    tmp_path: Path,
) -> None:
    """A Unigram model says which piece is unknown by its number, whatever it is called."""
    marks = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
        "post_processor": {"type": "TemplateProcessing", "single": marks, "pair": [*marks, *marks],
                           "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [3], "tokens": ["[CLS]"]}}},
        "model": {"type": "Unigram", "unk_id": 0,
                  "vocab": [["<odd>", 0.0], ["card", -1.0], ["pay", -1.0], ["[CLS]", -9.0]]},
    }  # fmt: skip
    write_json(tmp_path / "tokenizer.json", document)
    assert quality.unknown_share(tmp_path / "tokenizer.json", ["card pay", "card 7"]) == 0.25


def test_what_a_student_keeps_under_noise_is_its_share_of_the_teachers_quality(tmp_path: Path) -> None:
    assert quality.noisy_figures(Metric(), logits(8), logits(6), LABELS, ("a", "b"))["noisy_retention"] == 0.75


def test_the_size_of_the_largest_student_of_the_seeds_is_judged() -> None:
    rows = [row(0, 8), row(1, 8, params_ratio=11.9)]
    failed = {b["name"] for b in quality.document_of(rows)["bars"] if not b["passed"]}
    assert failed == {"banking77 1/12 parameters fewer"}


def test_every_bar_has_its_set() -> None:
    assert {b.data for b in quality.BARS} == set(SETS)
