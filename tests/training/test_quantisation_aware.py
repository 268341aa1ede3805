from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kdexport.backbones import backbone_of, parse_spec
from kdexport.export.onnx import export_graph
from kdexport.export.quantise import dynamic_int8, static_int8
from kdexport.runtimes.onnxruntime import open_engine
from kdexport.training import quantisation_aware as qa
from kdexport.training.loop import History, Schedule
from tests.stages.test_distil import Case, recipe

TEXT = {"backbone": "convolution", "vocab_size": 50, "embedding_size": 12, "hidden_size": 16}
IMAGE = {"backbone": "image_convolution", "channels": 3, "width": 8, "num_stages": 2, "layers_per_stage": 2}


def module_of(fields: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    spec = parse_spec(fields)
    return backbone_of(spec).build(spec, 5).eval()


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def test_a_dynamic_engine_of_onnx_runtime_rounds_alike(tmp_path: Path) -> None:
    module, ids = module_of(TEXT), torch.randint(1, 50, (64, 9))
    graph = export_graph(module, [ids[:2]], ["input_ids"], tmp_path / "m.onnx", tokens=True)
    engine = open_engine(dynamic_int8(graph, tmp_path / "i.onnx"), 1)
    int8 = np.concatenate([engine.run({"input_ids": row[None].numpy()}) for row in ids])
    with torch.no_grad():
        fp32 = module(ids).numpy()
        qa.attach(module, "dynamic")
        rounded = module(ids).numpy()
    assert distance(rounded, int8) < 0.1 * distance(fp32, int8)


def test_a_static_engine_of_onnx_runtime_is_nearer_to_it_than_fp32(tmp_path: Path) -> None:
    module, pixels = module_of(IMAGE), torch.randn(64, 3, 8, 8)
    module.classifier = torch.nn.Identity()  # ONNX Runtime rounds the logits themselves, too, which changes no answer
    graph = export_graph(module, [pixels[:2]], ["pixels"], tmp_path / "m.onnx", tokens=False)
    engine = open_engine(static_int8(graph, tmp_path / "i.onnx", [{"pixels": pixels.numpy()}]), 1)
    int8 = engine.run({"pixels": pixels.numpy()})
    with torch.no_grad():
        fp32 = module(pixels).numpy()
        qa.attach(module, "static")
        for part in module.modules():
            part.training = hasattr(part, qa.LOW)  # ranges are taken, normalisation stays as it is
        module(pixels)
        rounded = module.eval()(pixels).numpy()
    assert distance(rounded, int8) < 0.85 * distance(fp32, int8)  # what is left: the last feature map is rounded, too


@pytest.mark.parametrize(("fields", "scheme"), [(TEXT, "dynamic"), (TEXT, "static"), (IMAGE, "static")])
def test_taken_off_again_nothing_is_left(fields: dict[str, object], scheme: qa.Scheme) -> None:
    module = module_of(fields)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    detach = qa.attach(module, scheme)
    assert set(module.state_dict()) != set(before)
    detach()
    after = module.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_rounding_is_to_the_grid_of_each_channel_and_gradients_pass_through() -> None:
    weight = torch.tensor([[1.27, 0.004], [100.0, 0.3]], requires_grad=True)
    rounded = qa.rounded_weight(weight)
    torch.testing.assert_close(rounded.detach(), torch.tensor([[1.27, 0.0], [100.0, 0.0]]))
    rounded[:, 1].sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[:, 1], torch.ones(2))


def test_an_outlier_is_told_what_it_costs_the_others() -> None:
    """0.3 is rounded to 0 in steps of 0.787: to come nearer to it the largest weight must shrink."""
    weight = torch.tensor([[100.0, 0.3]], requires_grad=True)
    (-qa.rounded_weight(weight)[0, 1]).backward()
    assert weight.grad is not None
    assert weight.grad[0, 0] > 0


def test_zero_stays_zero_and_values_beyond_the_range_are_clamped() -> None:
    values = torch.tensor([-5.0, 0.0, 0.3, 9.0])
    found = qa.rounded_tensor(values, torch.tensor(-1.0), torch.tensor(2.0))
    assert found[1] == 0.0
    assert found[0] == pytest.approx(-1.0, abs=0.01)
    assert found[3] == pytest.approx(2.0, abs=0.01)
    assert found[2] == pytest.approx(0.3, abs=0.006)


@pytest.mark.parametrize("epochs", [1, 2, 5, 8, 30])
def test_it_never_takes_more_than_a_fifth_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    case, taken = Case("text"), []

    def train(module: object, lengths: np.ndarray, loss_of: object, schedule: Schedule, *rest: object) -> History:
        taken.append((schedule.epochs * len(lengths), schedule.learning_rate))
        return History((), ())

    monkeypatch.setattr(qa, "train", train)
    settings = recipe(epochs=epochs)
    qa.finish(case.module(), case.encoded, case.rows, case.labels, settings, "dynamic", tmp_path / "c", None)
    ((rows_seen, rate),) = taken
    assert math.ceil(rows_seen) <= max(1, 0.2 * epochs * 30)
    assert rate < settings.learning_rate
