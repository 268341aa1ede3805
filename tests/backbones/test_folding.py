"""What every backbone that can be folded promises of the folded student, and what folding does to a convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kdexport import registry
from kdexport.backbones import Folding, InputShape, backbone_of, count_params, folding_of, parse_spec
from kdexport.export.graph_cost import graph_cost
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.export.quantise import dynamic_int8
from kdexport.nouns.spec import StudentSpec
from kdexport.runtimes.onnxruntime import open_engine

CLASSES, VOCABULARY = 5, 60
SPECS = {
    "convolution": [
        {"vocab_size": VOCABULARY, "embedding_size": 6, "hidden_size": 16},
        {"vocab_size": VOCABULARY, "embedding_size": 16, "hidden_size": 12, "num_hidden_layers": 2},
        {"vocab_size": VOCABULARY, "embedding_size": 8, "hidden_size": 9, "num_hidden_layers": 4},
    ]
}
CASES = [parse_spec({"backbone": name, **fields}) for name, specs in SPECS.items() for fields in specs]
IDS = [str(i) for i in range(len(CASES))]


def student(spec: StudentSpec) -> torch.nn.Module:
    """With every bias away from zero, as after training."""
    torch.manual_seed(0)
    module = backbone_of(spec).build(spec, CLASSES)
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(weight, -1, 1)
    return module.eval()


def folding(spec: StudentSpec) -> Folding:
    found = folding_of(spec)
    assert found
    return found


def ids(batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Rows of all lengths from `tokens` down to 0, then again."""
    rows = torch.randint(1, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    lengths = tokens - torch.arange(batch) % (tokens + 1)
    return rows * (torch.arange(tokens) < lengths[:, None])


def exported(module: torch.nn.Module, folder: Path) -> Path:
    return export_graph(module, [ids(2, 6)], [INPUT_NAMES["text"]], folder / "folded.onnx", tokens=True)


def test_every_backbone_that_can_be_folded_has_specs_here() -> None:
    foldable = [name for name in registry.names("backbones") if isinstance(registry.load("backbones", name), Folding)]
    assert foldable == list(SPECS)


def test_a_backbone_without_folding_is_told_apart() -> None:
    assert folding_of(parse_spec({"backbone": "bag", "vocab_size": 5, "embedding_size": 4})) is None


@pytest.mark.parametrize("spec", CASES, ids=IDS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 2), (8, 7), (40, 30)])
def test_the_folded_student_gives_the_same_logits_padded_or_not(spec: StudentSpec, batch: int, tokens: int) -> None:
    module = student(spec)
    with torch.no_grad():
        wanted, found = module(ids(batch, tokens)), folding(spec).fold(module, spec)(ids(batch, tokens))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert wanted.std() > 1e-2  # logits that could differ


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_folding_leaves_the_student_as_it_was_and_shares_nothing_with_it(spec: StudentSpec) -> None:
    module = student(spec)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    folded = folding(spec).fold(module, spec)
    for tensor in (*folded.parameters(), *folded.buffers()):
        tensor.data.fill_(7.0)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_the_folded_graph_answers_at_any_batch_and_length(spec: StudentSpec, tmp_path: Path) -> None:
    module = student(spec)
    path = exported(folding(spec).fold(module, spec), tmp_path)
    onnx.checker.check_model(str(path), full_check=True)
    engine = open_engine(path, 1)
    for batch, tokens in ((1, 1), (1, 12), (3, 5), (5, 40)):
        with torch.no_grad():
            wanted = module(ids(batch, tokens)).numpy()
        np.testing.assert_allclose(engine.run({"input_ids": ids(batch, tokens).numpy()}), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_the_folded_cost_is_that_of_the_folded_graph(spec: StudentSpec, tmp_path: Path) -> None:
    folded = folding(spec).fold(student(spec), spec)
    graph, shape = exported(folded, tmp_path), InputShape(batch=3, tokens=9)
    said, counted = folding(spec).folded_cost(spec, CLASSES, shape), graph_cost(optimised(graph, "BASIC"), shape)
    assert said.flops == pytest.approx(counted.flops, rel=0.02)
    assert said.weight_bytes == pytest.approx(counted.weight_bytes, rel=0.02)
    assert said.num_params == count_params(folded)
    assert said.num_operators == len(onnx.load(str(optimised(graph, "ALL"))).graph.node)


def optimised(graph: Path, level: str) -> Path:
    """By ONNX Runtime. BASIC: constants computed and nothing fused, so that every size can be inferred; ALL: as run."""
    options, path = onnxruntime.SessionOptions(), graph.with_suffix(f".{level}.onnx")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return path


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_folding_trades_arithmetic_for_bytes(spec: StudentSpec) -> None:
    shape = InputShape(tokens=16)
    plain, folded = (c(spec, CLASSES, shape) for c in (backbone_of(spec).cost, folding(spec).folded_cost))
    assert folded.flops < plain.flops
    assert folded.num_params > plain.num_params


@pytest.mark.parametrize("spec", CASES, ids=IDS)
def test_the_folded_student_can_be_quantised_to_int8(spec: StudentSpec, tmp_path: Path) -> None:
    module = student(spec)
    path = dynamic_int8(exported(folding(spec).fold(module, spec), tmp_path), tmp_path / "int8.onnx")
    tokens = ids(60, 12, seed=1)[:, :12]
    with torch.no_grad():
        wanted = module(tokens).numpy()
    assert (open_engine(path, 1).run({"input_ids": tokens.numpy()}).argmax(1) == wanted.argmax(1)).mean() >= 0.9


def test_no_neighbours_can_lift_padding_above_zero() -> None:
    """The one place where folded and plain could part: all pairs of neighbours of a padded position."""
    spec = CASES[0]
    folded = folding(spec).fold(student(spec), spec)
    left, centre, right = (getattr(folded, n).weight for n in ("left", "centre", "right"))
    assert (left[:, None] + right[None] + centre[0]).max() <= 1e-5
