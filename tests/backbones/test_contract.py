"""What every backbone promises, run over every file in kdexport/backbones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdexport import registry
from kdexport.backbones import (
    Backbone,
    InputShape,
    backbone_of,
    backbones_for,
    count_params,
    embedding_to_width,
    folding_of,
    parse_spec,
)
from kdexport.errors import BadInput
from kdexport.export.graph_cost import graph_cost
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes.onnxruntime import open_engine

CLASSES, VOCABULARY = 5, 40
SHAPES = {"text": InputShape(tokens=9), "image": InputShape(channels=3, height=16, width=12)}
SPECS: dict[str, list[dict[str, Any]]] = {  # several of each backbone
    "bag": [
        {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 8},
        {"vocab_size": 13, "embedding_size": 3},
    ],
    "convolution": [
        {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 8},
        {"vocab_size": 13, "embedding_size": 2, "hidden_size": 9, "num_hidden_layers": 3},
    ],
    "transformer": [
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 24},
        {"vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
         "max_length": 12},
        {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1, "intermediate_size": 8},
    ],
    "image_convolution": [
        {"channels": 3, "width": 4},
        {"channels": 1, "width": 3, "num_stages": 3, "layers_per_stage": 2},
    ],
    "depthwise_convolution": [
        {"channels": 3, "width": 4},
        {"channels": 1, "width": 3, "num_stages": 3, "layers_per_stage": 2, "stem_stride": 2},
    ],
    "residual_convolution": [
        {"channels": 3, "width": 4},
        {"channels": 1, "width": 3, "num_stages": 3, "blocks_per_stage": 2, "stem_stride": 2},
    ],
}  # fmt: skip
CASES = [parse_spec({"backbone": name, **fields}) for name, specs in SPECS.items() for fields in specs]
FIRST = [parse_spec({"backbone": name, **specs[0]}) for name, specs in SPECS.items()]
TEXTS = [spec for spec in CASES if backbone_of(spec).input_kind == "text"]
UNORDERED = ("bag",)
MAX_FLOPS_DIFFERENCE = 0.02  # of the exported graph's; a slice of dynamic length cannot be counted there
MAX_GAP = 1.12  # from one candidate's parameters to the next
GIVEN_BY_THE_TASK = ("vocab_size", "channels")


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
def test_the_order_of_the_tokens_matters_but_to_a_bag(spec: StudentSpec) -> None:
    module, batch = built(spec), inputs(spec)
    difference = (module(batch) - module(batch.flip(1))).abs().max()
    assert difference < 1e-5 if spec.backbone in UNORDERED else difference > 1e-4


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


def raised(spec: StudentSpec, by: dict[str, int]) -> StudentSpec | None:
    """The spec with each field multiplied; None where no such spec is legal."""
    try:
        return type(spec).model_validate(spec.model_dump() | {k: n * getattr(spec, k) for k, n in by.items()})
    except ValidationError:
        return None


def differences(small: GraphCost, large: GraphCost) -> list[float]:
    counted = [f for f in GraphCost.model_fields if f != "num_fused"]
    return [getattr(large, f) - getattr(small, f) for f in (*counted, "fused_operators")]


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_a_larger_size_costs_more_of_something(spec: StudentSpec) -> None:
    backbone, shape = backbone_of(spec), shape_for(spec).model_copy(update={"tokens": 200})
    small = backbone.cost(spec, CLASSES, shape)
    for field in backbone.SIZE_FIELDS:
        larger = raised(spec, {field: 2})
        assert larger, field
        assert max(differences(small, backbone.cost(larger, CLASSES, shape))) > 0, field


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_the_sizes_are_all_that_grows_with_a_spec(spec: StudentSpec) -> None:
    fields = [k for k, v in spec.model_dump().items() if isinstance(v, int)]
    assert set(backbone_of(spec).SIZE_FIELDS) == {k for k in fields if k != "stem_stride"}


@given(data=st.data(), shape=st.builds(InputShape, batch=st.integers(1, 8), tokens=st.integers(1, 300),
       height=st.integers(4, 64), width=st.integers(4, 64)), num_classes=st.integers(1, 300))  # fmt: skip
@pytest.mark.parametrize("name", registry.names("backbones"))
def test_raising_any_size_lowers_no_figure_of_the_cost(
    name: str, data: st.DataObject, shape: InputShape, num_classes: int
) -> None:
    backbone: Backbone = registry.load("backbones", name)
    spec = data.draw(st.sampled_from([s for s in CASES if s.backbone == name]))
    fields = st.sampled_from(backbone.SIZE_FIELDS)
    start = raised(spec, data.draw(st.dictionaries(fields, st.integers(1, 40)))) or spec
    field = data.draw(fields)
    value = data.draw(st.integers(getattr(start, field), 2 * getattr(start, field) + 3))
    try:
        larger = type(start).model_validate(start.model_dump() | {field: value})
    except ValidationError:
        return
    costs = [[backbone.cost(s, num_classes, shape) for s in (start, larger)]]
    if folding := folding_of(start):
        costs.append([folding.folded_cost(s, num_classes, shape) for s in (start, larger)])
    for small, large in costs:
        assert min(differences(small, large)) >= 0


@pytest.mark.parametrize("spec", [s for s in CASES if getattr(s, "num_hidden_layers", 1)], ids=named)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_cost_is_that_of_the_exported_graph(spec: StudentSpec, batch: int, tmp_path: Path) -> None:
    graph, shape = exported(built(spec), spec, tmp_path), shape_for(spec, batch)
    cost, counted = backbone_of(spec).cost(spec, CLASSES, shape), graph_cost(graph, shape)
    assert cost.flops == pytest.approx(counted.flops, rel=MAX_FLOPS_DIFFERENCE)
    assert cost.tokens == counted.tokens
    assert cost.fused_operators == pytest.approx(counted.num_operators, abs=1)


@pytest.mark.parametrize("spec", [s for s in CASES if not hasattr(s, "channels")], ids=named)
def test_the_operators_are_those_that_onnx_runtime_runs(spec: StudentSpec, tmp_path: Path) -> None:
    graph = exported(built(spec), spec, tmp_path)
    assert backbone_of(spec).cost(spec, CLASSES, shape_for(spec)).num_operators == operators_run(graph)


@pytest.mark.parametrize("name", [b.Spec.model_fields["backbone"].default for b in backbones_for("image")])
@pytest.mark.parametrize("stages", [1, 3])
def test_the_operators_of_a_picture_in_whole_tiles_are_those_that_onnx_runtime_runs(
    name: str, stages: int, tmp_path: Path
) -> None:
    """A width that fills no tile costs ONNX Runtime a few reorderings more; which, depends on the instruction set."""
    spec = parse_spec({"backbone": name, "channels": 3, "width": 16, "num_stages": stages})
    graph = exported(built(spec), spec, tmp_path)
    assert backbone_of(spec).cost(spec, CLASSES, shape_for(spec)).num_operators == operators_run(graph)


def operators_run(graph: Path) -> int:
    """Nodes of the graph after all of ONNX Runtime's optimisations for this machine."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(graph.with_suffix(".optimised.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return len(onnx.load(options.optimized_model_filepath).graph.node)


def exported(module: torch.nn.Module, spec: StudentSpec, folder: Path) -> Path:
    kind = backbone_of(spec).input_kind
    return export_graph(module, [inputs(spec, 2)], [INPUT_NAMES[kind]], folder / "model.onnx", tokens=kind == "text")


def test_what_a_transformer_without_layers_costs_can_be_counted_by_hand() -> None:
    """3 tokens of width 8 to 5 classes: 3 x 8 looked up, positions, normalised; the mean and its count; 8 x 5."""
    fields = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1}
    spec = parse_spec({"backbone": "transformer", **fields, "intermediate_size": 8, "max_length": 10})
    cost = backbone_of(spec).cost(spec, CLASSES, InputShape(tokens=3))
    assert cost.flops == 3 * (3 * 8) + 8 + 1 + 2 * 8 * 5
    assert cost.weight_bytes == 4 * (2 * 3 * 8 + 2 * 8 + 8 * 5 + 5)


def test_tokens_past_a_transformers_length_cost_nothing() -> None:
    spec = parse_spec({"backbone": "transformer", **SPECS["transformer"][1]})
    costs = [backbone_of(spec).cost(spec, CLASSES, InputShape(tokens=n)) for n in (11, 12, 300)]
    assert costs[0].flops < costs[1].flops
    assert costs[1] == costs[2]


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_more_rows_cost_more_work_and_no_more_parameters(spec: StudentSpec) -> None:
    one, four = (backbone_of(spec).cost(spec, CLASSES, shape_for(spec, b)) for b in (1, 4))
    assert four.flops > 3.9 * one.flops
    assert four.activation_bytes == pytest.approx(4 * one.activation_bytes)
    assert four.num_params == one.num_params


@pytest.mark.parametrize("spec", CASES, ids=named)
def test_the_graph_answers_as_torch_does_at_any_batch_and_length(spec: StudentSpec, tmp_path: Path) -> None:
    module, name = built(spec), INPUT_NAMES[backbone_of(spec).input_kind]
    path = exported(module, spec, tmp_path)
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
def test_the_widths_of_candidates_fill_whole_tiles(name: str) -> None:
    """8 lanes at the least, 16 above, 32 from 64 upward; a size that the task gives is as it is."""
    backbone = registry.load("backbones", name)
    for spec in backbone.candidates(CLASSES, SHAPES[backbone.input_kind], [500]):
        for field in set(backbone.SIZE_FIELDS) - set(GIVEN_BY_THE_TASK):
            if field.endswith(("_size", "width")):
                size = getattr(spec, field)
                assert size % (32 if size > 64 else 16) == 0 or size == 8, (field, size)


def test_the_heads_of_candidates_are_32_or_64_wide() -> None:
    specs = registry.load("backbones", "transformer").candidates(CLASSES, SHAPES["text"], [500])
    assert {s.hidden_size / s.num_attention_heads for s in specs} == {32, 64}


@pytest.mark.parametrize(
    ("kind", "shape", "fewest"),
    [
        ("text", InputShape(tokens=16), 2000),
        ("image", InputShape(channels=3, height=32, width=32), 1000),
        ("image", InputShape(channels=1, height=28, width=28), 1000),
        ("image", InputShape(channels=3, height=224, width=224), 1000),
    ],
)
def test_the_search_space_is_dense_from_fifty_thousand_parameters_to_ten_million(
    kind: str, shape: InputShape, fewest: int
) -> None:
    specs = [s for b in backbones_for(kind) for s in b.candidates(77, shape, [4349, 3330, 2500])]
    params = sorted(backbone_of(s).cost(s, 77, shape).num_params for s in specs)
    assert fewest <= len(specs) <= 5000
    assert params[0] < 50_000
    assert params[-1] > 10_000_000
    assert max(b / a for a, b in pairwise(p for p in params if 50_000 <= p <= 10_000_000)) < MAX_GAP


@pytest.mark.parametrize("name", registry.names("backbones"))
def test_the_smallest_candidate_can_be_built_and_asked(name: str) -> None:
    backbone = registry.load("backbones", name)
    specs = list(backbone.candidates(CLASSES, SHAPES[backbone.input_kind], [500]))
    least = min(specs, key=lambda s: backbone.cost(s, CLASSES, SHAPES[backbone.input_kind]).num_params)
    assert built(least)(inputs(least)).shape == (4, CLASSES)


@pytest.mark.parametrize("spec", FIRST, ids=named)
def test_a_size_of_zero_is_no_spec_but_for_what_can_be_left_out(spec: StudentSpec) -> None:
    left_out = {"bag": ["hidden_size"], "transformer": ["num_hidden_layers"]}
    for key, value in spec.model_dump().items():
        if isinstance(value, int) and key not in left_out.get(spec.backbone, []):
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
    found = {kind: {b.Spec.model_fields["backbone"].default for b in backbones_for(kind)} for kind in SHAPES}
    assert found["text"] == {"bag", "convolution", "transformer"}
    assert found["image"] == {"image_convolution", "depthwise_convolution", "residual_convolution"}


def test_buffers_that_ship_are_counted_and_counters_are_not() -> None:
    assert count_params(torch.nn.BatchNorm2d(3)) == 4 * 3
