"""What TensorRT and TensorRT-RTX share: their Python interfaces differ in the module's name and in few calls."""

from __future__ import annotations

import importlib
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.errors import BadInput, Damaged, KdexportError, MissingPackage, Unsupported
from kdexport.export.half import half_precision
from kdexport.nouns.profile import HardwareProfile, Precision
from kdexport.runtimes import Feeds
from kdexport.storage.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

log = logging.getLogger(__name__)

DEVICE = "cuda"  # of torch; tests without a GPU put "cpu" here

MAX_BATCH = 32
# an empty text is two tokens, [CLS] and [SEP]; a tokenizer without them may give one
MIN_TOKENS, USUAL_TOKENS, MAX_TOKENS = 1, 16, 128
LOWEST_COMPUTE_CAPABILITY = (7, 5)


class BuildFailed(KdexportError):
    """TensorRT refused a graph; the message holds its reasons."""


def import_module(name: str, install: str) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`. Raises MissingPackage with the install line."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as e:  # OSError: the Python part is there, its libraries are not
        raise MissingPackage(f"{name} cannot be imported ({e}): {install}") from e


def compute_capability(profile: HardwareProfile) -> tuple[int, int] | None:
    fact = profile.facts.compute_capability
    parts = re.fullmatch(r"(\d+)\.(\d+)", fact.value) if fact else None
    return (int(parts[1]), int(parts[2])) if parts else None


def compute_capability_here() -> tuple[int, int] | None:
    """Of the first GPU of this machine, by torch; None without one."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_capability(0) if torch.cuda.is_available() else None


def not_an_nvidia_gpu(profile: HardwareProfile) -> str | None:
    """Why neither TensorRT can serve the device, or None."""
    lowest = "{}.{}".format(*LOWEST_COMPUTE_CAPABILITY)
    supported = f"TensorRT serves NVIDIA GPUs of compute capability {lowest} or higher"
    if not profile.is_gpu:
        return f"{profile.id} is not a GPU: {supported}; ONNX Runtime and OpenVINO serve CPUs"
    found = compute_capability(profile)
    if found is None:
        return f"the profile of {profile.id} states no compute capability such as '8.9': {supported}"
    if found < LOWEST_COMPUTE_CAPABILITY:
        return f"{profile.id} has compute capability {found[0]}.{found[1]}: {supported}"
    return None


def build_engine(trt: Any, model: bytes, path: Path, configure: Callable[[Any], None]) -> Path:
    """Write the engine of an ONNX model, for batches 1 to 32 and 1 to 128 tokens, tuned for batch 1.

    Strongly typed: each operator computes in the precision that the graph says. `configure` sets what differs
    between the two modules in the builder's configuration. Raises BuildFailed, Unsupported without a GPU
    where the module needs one."""
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as e:  # pybind's word for a null pointer
        raise Unsupported(f"{trt.__name__} builds only where it finds an NVIDIA GPU: {logger.reasons() or e}") from e
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # where it is gone, all networks are
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildFailed(f"{path}: {trt.__name__} {trt.__version__} cannot read the graph: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 keeps 10 bits of a float32: not the fp32 that parity speaks of
    configure(config)
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        profile.set_shape(tensor.name, *profile_shapes(tuple(tensor.shape)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{path}: {trt.__name__} {trt.__version__} built no engine: {logger.reasons()}")
    write_bytes(path, bytes(plan))
    return path


def profile_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The smallest, the usual and the largest shape of an input: (batch,) or (batch, tokens) may be -1, dynamic."""
    sizes = [(1, MIN_TOKENS), (1, USUAL_TOKENS), (MAX_BATCH, MAX_TOKENS)]
    return [tuple(s[i] if size == -1 else size for i, size in enumerate(shape)) for s in sizes]


def model_bytes(graph: Path, precision: Precision, calibration: Sequence[Feeds]) -> bytes:
    """The ONNX model whose operators have the types that the engine shall compute in: fp32, fp16 or int8."""
    if precision == "fp32":
        return graph.read_bytes()
    model = half_precision(graph) if precision == "fp16" else int8_graph(graph, calibration)
    return bytes(model.SerializeToString())


def int8_graph(graph: Path, calibration: Sequence[Feeds]) -> onnx.ModelProto:
    """The graph with quantise-dequantise pairs before each MatMul and Conv, by the ranges seen in `calibration`.

    Symmetric int8, as TensorRT demands; biases stay in fp32, because its parser rejects the int32 ones, and outputs
    are left alone, so that TensorRT may fuse what follows. Raises BadInput without calibration."""
    import onnx
    from onnxruntime.quantization import QuantType

    from kdexport.export.quantise import static_int8

    if not calibration:
        raise BadInput(f"{graph}: int8 for TensorRT wants calibration inputs, found none; give at least one batch")
    operators = ["MatMul", "Conv"]
    with tempfile.TemporaryDirectory() as scratch:
        quantised = static_int8(
            graph,
            Path(scratch) / "int8.onnx",
            calibration,
            activation_type=QuantType.QInt8,
            op_types_to_quantize=operators,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": operators,
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            },
        )
        return _dequantised_for(operators, onnx.load(str(quantised)))


def _dequantised_for(operators: Sequence[str], model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every other operator the tensor as it was before quantisation: ONNX Runtime's quantiser hands the rounded
    one to all readers, so that a residual sum or a pooling would lose precision and gain no speed."""
    nodes = model.graph.node
    quantised = {n.output[0]: n.input[0] for n in nodes if n.op_type == "QuantizeLinear"}
    origin = {
        n.output[0]: quantised[n.input[0]] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] in quantised
    }
    for node in nodes:
        if node.op_type not in operators:
            node.input[:] = [origin.get(name, name) for name in node.input]
    return model


class TensorRTEngine:
    """An engine on the GPU that torch uses; tensors of torch hold its inputs and its output. One thread at a time."""

    def __init__(self, trt: Any, engine: Any, keep: tuple[Any, ...]) -> None:
        import torch

        self._keep = keep  # runtime and logger: TensorRT holds bare pointers to them
        self._engine = engine
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._output = next(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        torch_dtypes = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.INT32: torch.int32,
            trt.DataType.INT64: torch.int64,
        }
        self._dtypes = {name: torch_dtypes[engine.get_tensor_dtype(name)] for name in (*self._inputs, self._output)}

    def run(self, feeds: Feeds) -> np.ndarray:
        """Raises BadInput for a shape outside the engine's range. Larger batches run in pieces of MAX_BATCH."""
        import numpy as np

        rows = len(feeds[self._inputs[0]])
        starts = range(0, max(rows, 1), MAX_BATCH)
        pieces = [self._run({name: value[i : i + MAX_BATCH] for name, value in feeds.items()}) for i in starts]
        return np.concatenate(pieces)

    def _run(self, feeds: Feeds) -> np.ndarray:
        import torch

        with torch.cuda.stream(self._stream):
            # `inputs` holds the buffers until the run is over
            inputs = {name: self._bind(name, feeds[name]) for name in self._inputs}
            shape = tuple(self._context.get_tensor_shape(self._output))
            logits = torch.empty(shape, dtype=self._dtypes[self._output], device=DEVICE)
            self._context.set_tensor_address(self._output, logits.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise Unsupported(f"TensorRT could not run the engine on inputs {_shapes(inputs)}; see its log lines")
            result: np.ndarray = logits.float().cpu().numpy()  # waits for the stream
        return result

    def _bind(self, name: str, value: np.ndarray) -> torch.Tensor:
        import numpy as np
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(DEVICE, self._dtypes[name])
        if not self._context.set_input_shape(name, tuple(tensor.shape)):
            smallest, _, largest = (tuple(s) for s in self._engine.get_tensor_profile_shape(name, 0))
            raise BadInput(f"{name}: shape {tuple(tensor.shape)} is outside the engine's {smallest} to {largest}")
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor


def open_on_gpu(trt: Any, path: Path) -> TensorRTEngine:
    """Raises Damaged for a file that is no engine, Unsupported where there is no GPU, or not one for this engine."""
    logger = _logger(trt)
    runtime = trt.Runtime(logger)
    try:
        plan = path.read_bytes()
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror}); build the engine again") from e
    reasons = invalid_because(trt, runtime, plan)
    if "MALFORMED_ENGINE" in reasons:
        raise Damaged(f"{path}: not an engine of {trt.__name__}; delete it and build it again")
    require_gpu(trt.__name__)
    engine = None if reasons else runtime.deserialize_cuda_engine(plan)
    if engine is None:
        why = ", ".join(reasons) or logger.reasons() or "built by another version or for another GPU"
        raise Unsupported(f"{path}: {trt.__name__} {trt.__version__} refuses it here ({why}); build it again here")
    return TensorRTEngine(trt, engine, (runtime, logger))


def require_gpu(name: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise Unsupported(
            f"{name} runs only on an NVIDIA GPU, and torch {torch.__version__} sees none: run on the target, "
            "with a torch built for CUDA"
        )


def invalid_because(trt: Any, runtime: Any, plan: bytes) -> list[str]:
    """What is wrong with an engine by its header, where the module can tell. Empty: nothing, or nothing known:
    without a GPU the answer is 'invalid' with no reason."""
    if not hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX alone has it
        return []
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return []
    return [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if int(flag) & bits]


def _shapes(tensors: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())


def _logger(trt: Any) -> Any:
    """A TensorRT logger that writes to ours and remembers its errors, to say them in ours."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())
            log.debug("%s: %s", trt.__name__, message.strip())

        def reasons(self) -> str:
            return "; ".join(self.errors)

    return Logger()
