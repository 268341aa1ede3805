"""Picture teachers that are fitted here: which views they meet, and that a kill changes nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdexport.nouns.project import Fit, Project, TeacherSource
from kdexport.storage.files import sha256_file
from kdexport.storage.tables import Raw
from kdexport.teachers import TeacherContext, fit
from kdexport.training import loop

SPEC = {"backbone": "residual_convolution", "channels": 1, "width": 4, "num_stages": 2}
LABELS = np.arange(48) % 2


def drawing(seed: int, *, one_sided: bool) -> bytes:
    """Noise with a bar: lying for class 0, standing for class 1; where one_sided, lying on the left or the right."""
    pixels = np.random.default_rng(seed).integers(0, 60, (16, 16), dtype=np.uint8)
    if one_sided:
        pixels[:, 12:] += np.uint8(180 * (seed % 2))
        pixels[:, :4] += np.uint8(180 * (1 - seed % 2))
    elif seed % 2:
        pixels[:, 7:9] += 180
    else:
        pixels[7:9] += 180
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def context(inputs: Sequence[Raw]) -> TeacherContext:
    source = TeacherSource(fit=Fit(spec=SPEC))
    data = {"train": {"path": "train.csv"}}
    project = Project.model_validate(
        {"name": "x", "task": "image_classification", "teachers": [source], "data": data, "targets": ["local-cpu"]}
    )
    return TeacherContext(project, ("a", "b"), inputs, LABELS, inputs[:8], LABELS[:8], threads=1)


SYMMETRIC = [drawing(seed, one_sided=False) for seed in range(48)]
ONE_SIDED = [drawing(seed, one_sided=True) for seed in range(48)]


def fitted(folder: Path, inputs: Sequence[Raw], **settings: object) -> str:
    made = fit.fit(Fit.model_validate({"spec": SPEC, "epochs": 3} | settings), context(inputs), folder, None)
    return sha256_file(made / "model.safetensors")


@pytest.mark.parametrize(("inputs", "rows"), [(SYMMETRIC, 48), (ONE_SIDED, 48 * 5)])
def test_pictures_that_may_be_mirrored_are_seen_anew_each_time_others_in_fixed_views(
    inputs: list[Raw], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[int] = []
    train = loop.train
    monkeypatch.setattr(
        fit, "train", lambda network, lengths, *rest: (met.append(len(lengths)), train(network, lengths, *rest))
    )
    fitted(tmp_path, inputs, epochs=1)
    assert met == [rows]


def test_batches_are_of_the_size_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    train = loop.train
    monkeypatch.setattr(
        fit,
        "train",
        lambda n, le, lo, schedule, *rest: (asked.append(schedule.batch_size), train(n, le, lo, schedule, *rest)),
    )
    fitted(tmp_path, SYMMETRIC, batch_size=16, epochs=1)
    assert asked == [16]


def test_a_fit_that_is_killed_in_mid_epoch_meets_the_same_views_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(tmp_path / "whole", SYMMETRIC, batch_size=8)
    save, steps = loop._save, []

    def killed_after_the_eighth_step(path: Path, *rest: object) -> None:
        save(path, *rest)  # type: ignore[arg-type]
        steps.append(path)
        if len(steps) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, "BACKBONE_CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "_save", killed_after_the_eighth_step)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "killed", SYMMETRIC, batch_size=8)
    monkeypatch.undo()
    assert fitted(tmp_path / "killed", SYMMETRIC, batch_size=8) == whole


def test_a_teacher_of_symmetric_pictures_learns_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fitted(tmp_path, SYMMETRIC, epochs=12, learning_rate=0.02, batch_size=8)
    assert "dev 1.0000" in caplog.records[-1].getMessage()


def test_a_row_that_came_more_often_in_production_weighs_more_in_a_fit() -> None:
    given = replace(context(SYMMETRIC), train_weights=np.array([1.0] * 47 + [5.0]))
    weights = fit._weights(given, 2)
    assert weights is not None
    assert (len(weights), float(weights.mean())) == (96, pytest.approx(1.0))
    logits, targets, rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.from_numpy(LABELS), np.array([0, 47])
    plain = [float(fit._loss(logits[i : i + 1], targets, None, rows[i : i + 1], 0.0)["cross-entropy"]) for i in (0, 1)]
    weighed = float(fit._loss(logits, targets, weights, rows, 0.0)["cross-entropy"])
    assert weighed == pytest.approx((plain[0] + 5 * plain[1]) / 2 / (52 / 48), rel=1e-5)


def test_without_weights_all_rows_count_alike() -> None:
    assert fit._weights(context(SYMMETRIC), 2) is None
