"""Make this bundle's TensorRT engine ready on this device, and prove that it answers as the student did.

python build.py [--out DIR] [--workspace-mib N] [--rebuild]

Builds it from model.onnx. A bundle that brings an engine (TensorRT-RTX) has that one proved instead, unless --rebuild
is given. Writes model.engine and build.json (timings, parity) to DIR, by default a cache folder named after the
bundle, where predict.py finds them; the bundle itself never changes. Exit 0: ready and equal. 1: its answers differ.
2: there is no engine. Needs TensorRT 10 or later, or TensorRT-RTX, numpy and the packages in requirements.txt."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from .predict import open_encoder
    from .tensorrt_engine import ENGINE, REPORT, Cuda, TensorRTEngine, cache_folder, import_tensorrt
    from .verify import read_manifest
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from predict import open_encoder
    from tensorrt_engine import (
        ENGINE,
        REPORT,
        Cuda,
        TensorRTEngine,
        cache_folder,
        import_tensorrt,
    )
    from verify import read_manifest

GRAPH = "model.onnx"  # what an engine is built from; in the bundle beside an engine, too
DEFAULT_WORKSPACE_MIB = 1024
MIN_WORKSPACE_MIB = 16
TIMED_RUNS = 200
# largest error of a logit, as a share of the range of the golden logits: rounding of the precision, not a wrong graph
MAX_ERROR = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}


class CannotBuild(RuntimeError):
    """TensorRT refused the graph; the message holds its reasons."""


def build(trt: Any, model: Path, manifest: dict[str, Any], opt_tokens: int, workspace_mib: int) -> tuple[bytes, int]:
    """(serialised engine, workspace MiB that was enough to build it). Raises CannotBuild.

    Tactics may need more memory than a shared-memory device can give: each failure halves the cap."""
    while True:
        plan = _build_once(trt, model, manifest, opt_tokens, workspace_mib)
        if plan is not None:
            return bytes(plan), workspace_mib
        if workspace_mib // 2 < MIN_WORKSPACE_MIB:
            raise CannotBuild(f"{model}: no engine within {workspace_mib} MiB of workspace; see TensorRT's lines above")
        workspace_mib //= 2
        print(f"retrying with {workspace_mib} MiB of workspace", file=sys.stderr)


def _build_once(trt: Any, model: Path, manifest: dict[str, Any], opt_tokens: int, workspace_mib: int) -> Any:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # strongly typed: precisions are those of the graph, so the engine computes what parity was measured on
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CannotBuild(f"{model}: TensorRT cannot read the graph: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 keeps 10 bits of a float32: not the fp32 that was measured
    tensor = next(t for t in map(network.get_input, range(network.num_inputs)) if t.name == manifest["input_name"])
    shapes = profile_shapes(tuple(tensor.shape), manifest, opt_tokens)
    if -1 in tuple(tensor.shape):
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def profile_shapes(shape: tuple[int, ...], manifest: dict[str, Any], opt_tokens: int) -> list[tuple[int, ...]]:
    """The smallest, the usual and the largest input shape; a dimension that the graph fixes is kept in all three.

    Tuned for batch 1: single-stream latency is what an edge target is held to."""
    preprocessor = manifest["preprocessor"]
    wanted: list[tuple[int, ...]]
    if preprocessor["kind"] == "text":
        wanted = [(1, 2), (1, opt_tokens), (manifest["max_batch"], preprocessor["max_length"])]
    else:
        pixels = (len(preprocessor["mean"]), preprocessor["height"], preprocessor["width"])
        wanted = [(1, *pixels), (1, *pixels), (manifest["max_batch"], *pixels)]
    return [tuple(sizes[i] if size == -1 else size for i, size in enumerate(shape)) for sizes in wanted]


def read_golden(folder: Path) -> tuple[list[Any], Any]:
    """(raw requests, logits (N, C)) that the student gave when the bundle was written."""
    rows = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    raw = [row["text"] if "text" in row else base64.b64decode(row["image_base64"]) for row in rows]
    return raw, np.array([row["logits"] for row in rows], np.float32)


def parity(found: Any, golden: Any, precision: str) -> dict[str, Any]:
    """How far logits (N, C) are from the golden ones, and whether that passes. N = 0 proves nothing and fails.

    `agreement` is shown and not judged: two labels closer than the rounding may change places."""
    if not len(golden):
        return {"n": 0, "max_abs_err": None, "agreement": None, "passed": False}
    allowed = MAX_ERROR[precision] * float(golden.max() - golden.min())
    worst = float(np.abs(found - golden).max())
    agreement = float((found.argmax(1) == golden.argmax(1)).mean())
    return {
        "n": len(golden),
        "max_abs_err": worst,
        "allowed_abs_err": allowed,
        "agreement": agreement,
        "passed": bool(worst <= allowed),  # NaN fails
    }


def timing_ms(engine: Any, tensor: Any) -> dict[str, Any]:
    """Measured median and 90th percentile of the engine alone, host to host, at batch 1."""
    elapsed_ns = []
    for _ in range(TIMED_RUNS + 20):
        start = time.perf_counter_ns()
        engine(tensor)
        elapsed_ns.append(time.perf_counter_ns() - start)
    p50_ms, p90_ms = (float(np.percentile(elapsed_ns[20:], p)) / 1e6 for p in (50, 90))
    return {"kind": "measured", "n": TIMED_RUNS, "shape": list(tensor.shape), "p50_ms": p50_ms, "p90_ms": p90_ms}


def make(folder: Path, out: Path, workspace_mib: int, rebuild: bool = False) -> dict[str, Any]:
    """Build (or take the bundle's own engine), check, write; returns the report as written. build_s and workspace_mib
    are None where nothing was built. Raises NoTensorRT, CannotBuild, OSError."""
    manifest = read_manifest(folder)
    trt = import_tensorrt(manifest["runtime"])
    encoder = open_encoder(folder, manifest["preprocessor"])
    raw, golden = read_golden(folder)
    tensors = [encoder.encode(request) for request in raw]
    is_text = manifest["preprocessor"]["kind"] == "text"
    usual_tokens = int(np.median([t.shape[1] for t in tensors])) if is_text and tensors else 2
    build_s: float | None = None
    used_mib: int | None = None
    if manifest["model"].endswith(".engine") and not rebuild:
        plan = (folder / manifest["model"]).read_bytes()
    else:
        start = time.perf_counter()
        plan, used_mib = build(trt, folder / GRAPH, manifest, usual_tokens, workspace_mib)
        build_s = time.perf_counter() - start
    report = {
        "bundle_sha256": hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest(),
        "runtime": trt.__name__,
        "runtime_version": trt.__version__,
        "build_s": build_s,
        "workspace_mib": used_mib,
        "engine_bytes": len(plan),
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
    }
    engine = TensorRTEngine(trt, plan, manifest)
    report["compute_capability"] = Cuda().compute_capability()
    logits = np.concatenate([engine(t) for t in tensors]) if tensors else golden
    report["parity"] = parity(logits, golden, manifest["precision"])
    report["latency_model"] = timing_ms(engine, tensors[0]) if tensors else None
    _write(out / ENGINE, plan)
    _write(out / REPORT, (json.dumps(report, indent=1, sort_keys=True) + "\n").encode())
    return report


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def main() -> int:
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for engine and report; a cache folder if not given")
    parser.add_argument(
        "--workspace-mib", type=int, default=DEFAULT_WORKSPACE_MIB, help="first try; default %(default)s"
    )
    parser.add_argument("--rebuild", action="store_true", help="build from model.onnx where an engine came along, too")
    arguments = parser.parse_args()
    try:
        report = make(folder, arguments.out or cache_folder(folder), arguments.workspace_mib, arguments.rebuild)
    except (ImportError, CannotBuild, RuntimeError, ValueError, OSError) as e:
        print(f"no engine: {e}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1, sort_keys=True))
    return 0 if report["parity"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
