"""Invented devices, a tiny student of each backbone as an ONNX graph, a fake `tensorrt` that runs engines on a CPU."""

from __future__ import annotations

import ctypes
import datetime
import enum
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kdexport.backbones import backbone_of, parse_spec
from kdexport.export.onnx import INPUT_NAMES, export_graph
from kdexport.nouns.profile import Facts, HardwareProfile, Text
from kdexport.runtimes import Feeds, _tensorrt_build

VOCAB_SIZE, NUM_CLASSES, SIDE = 200, 7, 12
SPECS: dict[str, dict[str, Any]] = {
    "convolution": {"vocab_size": VOCAB_SIZE, "embedding_size": 16, "hidden_size": 24},
    "transformer": {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
    "bag": {"vocab_size": VOCAB_SIZE, "embedding_size": 16, "hidden_size": 24},
    "image_convolution": {"channels": 1, "width": 8},
    "depthwise_convolution": {"channels": 1, "width": 8},
    "residual_convolution": {"channels": 1, "width": 8},
}


def stated(value: str) -> Text:
    return Text(value=value, source="test", date=datetime.date(2026, 1, 1))


def device(device_class: Any, host: Any = "x86-64", **facts: str) -> HardwareProfile:
    return HardwareProfile(
        id="device",
        name="device",
        device_class=device_class,
        vendor="vendor",
        host=host,
        facts=Facts(**{name: stated(value) for name, value in facts.items()}),
    )


DEVICES = {
    "server": device("cpu", isa="x86-64-v4 avx512+vnni+amx-int8+amx-bf16"),
    "desktop": device("cpu", isa="x86-64-v3 avx2 (no avx512_bf16)"),
    "unknown cpu": device("cpu"),
    "ada": device("edge-gpu", compute_capability="8.9"),
    "turing": device("datacenter-gpu", compute_capability="7.5"),
    "hopper": device("datacenter-gpu", compute_capability="9.0"),
    "volta": device("datacenter-gpu", compute_capability="7.0"),
    "jetson": device("edge-gpu", host="aarch64", compute_capability="8.7"),
    "unknown gpu": device("edge-gpu"),
    "odd gpu": device("edge-gpu", compute_capability="sm_89"),
}


@pytest.fixture
def devices() -> dict[str, HardwareProfile]:
    return DEVICES


@dataclass(frozen=True)
class Student:
    module: torch.nn.Module
    graph: Path
    input_name: str

    def feeds(self, batch: int, tokens: int, seed: int = 0) -> Feeds:
        """Random pixels, or random ids whose last rows end in padding."""
        generator = np.random.default_rng(seed)
        if self.input_name == "pixels":
            return {"pixels": generator.standard_normal((batch, 1, SIDE, SIDE)).astype(np.float32)}
        ids = generator.integers(1, VOCAB_SIZE, (batch, tokens))
        for row in range(1, batch):
            ids[row, max(1, tokens - row) :] = 0
        return {"input_ids": ids}

    @property
    def calibration(self) -> list[Feeds]:
        return [self.feeds(4, tokens, seed=tokens) for tokens in (5, 8, 11, 16)]

    def logits(self, feeds: Feeds) -> np.ndarray:
        with torch.no_grad():
            result: np.ndarray = self.module(torch.from_numpy(feeds[self.input_name])).numpy()
        return result


@pytest.fixture(scope="session", params=list(SPECS))
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    spec = parse_spec({"backbone": request.param, **SPECS[request.param]})
    backbone = backbone_of(spec)
    torch.manual_seed(0)
    module = backbone.build(spec, NUM_CLASSES).eval()
    graph = tmp_path_factory.mktemp(request.param) / "student.onnx"
    made = Student(module, graph, INPUT_NAMES[backbone.input_kind])
    example = torch.from_numpy(made.feeds(2, 6)[made.input_name])
    export_graph(module, [example], [made.input_name], graph, tokens=backbone.input_kind == "text")
    return made


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT32, INT64 = range(4)


ONNX_TYPES = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.INT64: DataType.INT64}
NUMPY_TYPES = {DataType.FLOAT: np.dtype(np.float32), DataType.INT64: np.dtype(np.int64)}


class ILogger:
    Severity = Severity


class Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        self.dtype = ONNX_TYPES[value.type.tensor_type.elem_type]
        self.shape = [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]


class Network:
    model: onnx.ModelProto

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Tensor:
        return Tensor(self.model.graph.input[index])


class OnnxParser:
    """Refuses what TensorRT's parser refuses: quantised int32 biases, unsigned or shifted zero points."""

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network, self.errors = network, []

    def parse(self, model: bytes) -> bool:
        self.network.model = onnx.load_from_string(model)
        initial = {i.name: onnx.numpy_helper.to_array(i) for i in self.network.model.graph.initializer}
        for node in self.network.model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero_point = initial[node.input[2]]
                if zero_point.dtype != np.int8 or zero_point.any():
                    self.errors.append(f"{node.name}: zero point {zero_point} of type {zero_point.dtype}")
            elif node.op_type == "Refused":
                self.errors.append(f"{node.name}: no importer for Refused")
        return not self.errors

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> str:
        return self.errors[index]


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == 2, "strongly typed"
        return Network()

    def create_builder_config(self) -> Any:
        profiles: list[Any] = []
        return SimpleNamespace(
            clear_flag=lambda flag: None, profiles=profiles, add_optimization_profile=profiles.append
        )

    def create_optimization_profile(self) -> Any:
        shapes: dict[str, Any] = {}
        return SimpleNamespace(shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three}))

    def build_serialized_network(self, network: Network, config: Any) -> bytes | None:
        if len(network.model.graph.output) == 0:
            self.logger.log(Severity.ERROR, "network has no output")  # type: ignore[attr-defined]
            return None
        entry = network.model.metadata_props.add()
        entry.key, entry.value = "shapes", repr(config.profiles[0].shapes)
        return network.model.SerializeToString()


class Context:
    def __init__(self, engine: CudaEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        low, _, high = self.engine.profile[name]
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (next(iter(self.shapes.values()))[0], NUM_CLASSES)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {}
        for name, shape in self.shapes.items():
            dtype = NUMPY_TYPES[self.engine.get_tensor_dtype(name)]
            raw = ctypes.string_at(self.addresses[name], int(np.prod(shape)) * dtype.itemsize)
            feeds[name] = np.frombuffer(raw, dtype).reshape(shape)
        logits = np.ascontiguousarray(self.engine.session.run(None, feeds)[0], np.float32)
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True


class CudaEngine:
    """The built model, run by ONNX Runtime on the memory that the caller hands over."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.profile = eval(model.metadata_props[-1].value)
        self.tensors = [Tensor(v) for v in (*model.graph.input, *model.graph.output)]
        self.num_io_tensors = len(self.tensors)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index].name

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.profile else "output"

    def get_tensor_dtype(self, name: str) -> DataType:
        return next(t.dtype for t in self.tensors if t.name == name)

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return self.profile[name]

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        if plan.startswith(b"other version"):
            self.logger.log(Severity.ERROR, "version tag does not match")
            return None
        return CudaEngine(onnx.load_from_string(plan))


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`import tensorrt` gives the fake; torch pretends that its CPU memory is a GPU's."""
    module = ModuleType("tensorrt")
    module.__version__ = "10.9.0"  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(name="tensorrt")  # type: ignore[assignment]
    for thing in (ILogger, OnnxParser, Builder, Runtime, DataType):
        setattr(module, thing.__name__, thing)
    module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)  # type: ignore[attr-defined]
    module.BuilderFlag = SimpleNamespace(TF32="tf32")  # type: ignore[attr-defined]
    module.TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(_tensorrt_build, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return module
