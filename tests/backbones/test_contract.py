"""What every backbone promises, run over every file in kdexport/backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from kdexport import registry
from kdexport.backbones import InputShape, backbone_of, backbones_for, count_params, embedding_to_width, parse_spec
from kdexport.errors import BadInput
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes.onnxruntime import open_engine

CLASSES, VOCABULARY = 5, 40
SHAPES = {"text": InputShape(tokens=9), "image": InputShape(channels=3, height=16, width=12)}
# of each backbone several specs, and by how much each size may grow on its own
SPECS: dict[str, list[dict[str, Any]]] = {
    "convolution": [
        {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 8},
        {"vocab_size": 13, "embedding_size": 2, "hidden_size": 9, "num_hidden_layers": 3},
    ],
    "transformer": [
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 24},
        {"vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
         "max_length": 12},
    ],
    "image_convolution": [
        {"channels": 3, "width": 4},
        {"channels": 1, "width": 3, "num_stages": 3, "layers_per_stage": 2},
    ],
}  # fmt: skip
CASES = [parse_spec({"backbone": name, **fields}) for name, specs in SPECS.items() for fields in specs]
FIRST = [parse_spec({"backbone": name, **specs[0]}) for name, specs in SPECS.items()]
TEXTS = [spec for spec in CASES if backbone_of(spec).input_kind == "text"]


def named(spec: StudentSpec) -> str:
    return spec.backbone


def shape_for(spec: StudentSpec, batch: int = 1) -> InputShape:
    shape = SHAPES[backbone_of(spec).input_kind]
    return shape.model_copy(update={"batch": batch, "channels": getattr(spec, "channels", 0)})


def inputs(spec: StudentSpec, batch: int = 4, tokens: int = 9) -> torch.Tensor:
    chance, shape = torch.Generator().manual_seed(0), shape_for(spec, batch)
    if backbone_of(spec).input_kind == "text":
        vocab_size: int = spec.vocab_size  # type: ignore[attr-defined]
        return torch.randint(1, vocab_size, (batch, tokens), generator=chance)
    return torch.randn(batch, shape.channels, shape.height, shape.width, generator=chance)


def built(spec: StudentSpec, dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    module = backbone_of(spec).build(spec, CLASSES, dropout=dropout)
    for layer in module.modules():  # statistics of a trained network, not the identity
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return module.eval()


def test_every_backbone_has_specs_here() -> None:
    assert set(SPECS) == set(registry.names("backbones"))


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_the_answer_is_float32_logits_of_each_row(spec: StudentSpec) -> None:
    logits = built(spec)(inputs(spec))
    assert (logits.shape, logits.dtype) == ((4, CLASSES), torch.float32)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_a_row_is_answered_the_same_alone_and_in_a_batch(spec: StudentSpec) -> None:
    module, batch = built(spec), inputs(spec)
    alone = torch.cat([module(batch[i : i + 1]) for i in range(len(batch))])
    torch.testing.assert_close(module(batch), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("spec", TEXTS, ids=named)
def test_columns_of_padding_change_no_logit(spec: StudentSpec, columns: int) -> None:
    module, batch = built(spec), inputs(spec)
    padded = torch.nn.functional.pad(batch, (0, columns))
    torch.testing.assert_close(module(padded), module(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", TEXTS, ids=named)
def test_a_row_of_padding_alone_and_a_single_token_give_finite_logits(spec: StudentSpec) -> None:
    for ids in (torch.zeros(2, 4, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)):
        assert torch.isfinite(built(spec)(ids)).all()


@pytest.mark.parametrize("spec", TEXTS, ids=named)
def test_a_text_longer_than_any_foreseen_is_answered(spec: StudentSpec) -> None:
    assert built(spec)(inputs(spec, tokens=200)).shape == (4, CLASSES)


@pytest.mark.parametrize("spec", TEXTS, ids=named)
def test_the_order_of_the_tokens_matters(spec: StudentSpec) -> None:
    module, batch = built(spec), inputs(spec)
    assert (module(batch) - module(batch.flip(1))).abs().max() > 1e-4


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_dropout_acts_in_training_alone(spec: StudentSpec) -> None:
    module, batch = built(spec, dropout=0.5), inputs(spec)
    assert torch.equal(module(batch), module(batch))
    module.train()
    assert not torch.equal(module(batch), module(batch))


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_the_cost_counts_the_parameters_exactly(spec: StudentSpec) -> None:
    cost = backbone_of(spec).cost(spec, CLASSES, shape_for(spec))
    assert cost.num_params == count_params(built(spec))


def grown(spec: StudentSpec) -> list[StudentSpec]:
    """The spec with each size doubled in turn."""
    sizes = [k for k, v in spec.model_dump().items() if isinstance(v, int)]
    return [type(spec).model_validate(spec.model_dump() | {k: 2 * getattr(spec, k)}) for k in sizes]


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_a_larger_size_never_costs_less_and_costs_more_of_something(spec: StudentSpec) -> None:
    small = backbone_of(spec).cost(spec, CLASSES, shape_for(spec))
    for larger in grown(spec):
        large = backbone_of(larger).cost(larger, CLASSES, shape_for(spec))
        changes = [getattr(large, f) - getattr(small, f) for f in GraphCost.model_fields]
        assert min(changes) >= 0
        assert max(changes) > 0


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_more_rows_cost_more_work_and_no_more_parameters(spec: StudentSpec) -> None:
    one, four = (backbone_of(spec).cost(spec, CLASSES, shape_for(spec, b)) for b in (1, 4))
    assert four.flops > 3.9 * one.flops
    assert four.activation_bytes == pytest.approx(4 * one.activation_bytes)
    assert four.num_params == one.num_params


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_the_graph_answers_as_torch_does_at_any_batch_and_length(spec: StudentSpec, tmp_path: Path) -> None:
    backbone, module = backbone_of(spec), built(spec)
    name, is_text = INPUT_NAMES[backbone.input_kind], backbone.input_kind == "text"
    path = export_graph(module, [inputs(spec, batch=2)], [name], tmp_path / "model.onnx", tokens=is_text)
    onnx.checker.check_model(str(path), full_check=True)
    engine = open_engine(path, 1)
    for batch, tokens in ((1, 1), (1, 12), (3, 5), (5, 40)):
        tensor = inputs(spec, batch, tokens)
        with torch.no_grad():
            wanted = module(tensor).numpy()
        np.testing.assert_allclose(engine.run({name: tensor.numpy()}), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", registry.names("backbones"))
def test_candidates_are_legal_distinct_and_span_two_decades(name: str) -> None:
    backbone = registry.load("backbones", name)
    shape = SHAPES[backbone.input_kind]
    specs = list(backbone.candidates(CLASSES, shape, [500, 2000]))
    assert len({str(s) for s in specs}) == len(specs) > 10
    assert all(parse_spec(s.model_dump()) == s for s in specs)
    params = [backbone.cost(s, CLASSES, shape).num_params for s in specs]
    assert max(params) > 50 * min(params)


@pytest.mark.parametrize("name", registry.names("backbones"))
def test_the_smallest_candidate_can_be_built_and_asked(name: str) -> None:
    backbone = registry.load("backbones", name)
    specs = list(backbone.candidates(CLASSES, SHAPES[backbone.input_kind], [500]))
    least = min(specs, key=lambda s: backbone.cost(s, CLASSES, SHAPES[backbone.input_kind]).num_params)
    assert built(least)(inputs(least)).shape == (4, CLASSES)


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_a_size_of_zero_is_no_spec(spec: StudentSpec) -> None:
    for key, value in spec.model_dump().items():
        if isinstance(value, int):
            with pytest.raises(ValidationError):
                type(spec).model_validate(spec.model_dump() | {key: 0})


@pytest.mark.parametrize("spec", TEXTS, ids=named)
def test_the_teachers_embedding_is_where_a_text_student_starts(spec: StudentSpec) -> None:
    module, table = built(spec), np.random.default_rng(0).standard_normal((spec.vocab_size, 12))  # type: ignore[attr-defined]
    backbone_of(spec).initialise(module, table.astype(np.float32))
    weight = module.embedding.weight.detach().numpy()  # type: ignore[operator,union-attr]
    np.testing.assert_allclose(weight[1:], embedding_to_width(table, weight.shape[1])[1:], rtol=1e-4, atol=1e-5)
    padded = torch.nn.functional.pad(inputs(spec), (0, 2))
    torch.testing.assert_close(module(padded), module(inputs(spec)), atol=1e-5, rtol=1e-4)


def test_the_projected_embedding_keeps_the_directions_in_which_tokens_differ_most() -> None:
    chance = np.random.default_rng(0)
    table = chance.standard_normal((60, 8)) * np.array([9, 7, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01])
    projected = embedding_to_width(table, 2)
    before, after = (np.linalg.norm(t[:, None] - t[None], axis=-1).ravel() for t in (table, projected))
    assert np.corrcoef(before, after)[0, 1] > 0.999
    assert projected.std() == pytest.approx(1.0, abs=1e-3)


def test_an_embedding_narrower_than_the_student_is_filled_with_zeros() -> None:
    projected = embedding_to_width(np.random.default_rng(0).standard_normal((20, 3)), 5)
    assert projected.shape == (20, 5)
    assert not projected[:, 3:].any()


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers() -> None:
    with pytest.raises(BadInput, match=r"^p\.yaml: hidden_size 16 is not a multiple of 3 heads"):
        parse_spec({"backbone": "transformer", **SPECS["transformer"][0], "num_attention_heads": 3}, "p.yaml")


def test_an_unknown_backbone_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown backbone 'convolutoin'; did you mean 'convolution'"):
        parse_spec({"backbone": "convolutoin"})


def test_backbones_are_found_by_what_they_read() -> None:
    assert {b.Spec.model_fields["backbone"].default for b in backbones_for("text")} == {"convolution", "transformer"}
    assert {b.Spec.model_fields["backbone"].default for b in backbones_for("image")} == {"image_convolution"}


def test_buffers_that_ship_are_counted_and_counters_are_not() -> None:
    assert count_params(torch.nn.BatchNorm2d(3)) == 4 * 3
