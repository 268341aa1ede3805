"""TensorRT needs a GPU: all around it is tested with a stand-in, the graph with TensorRT-RTX where that is there."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kdexport.bundle.runner import build as runner_build
from kdexport.bundle.runner import tensorrt_engine
from kdexport.bundle.runner.build import CannotBuild, build, make, parity, profile_shapes, read_golden
from kdexport.bundle.runner.predict import Predictor
from kdexport.bundle.runner.tensorrt_engine import NoTensorRT, TensorRTEngine, cache_folder, import_tensorrt
from kdexport.bundle.write import write_bundle

from .conftest import LABELS, image_manifest, image_model, png, rewrite_manifest, text_manifest, text_model, word_piece

TEXTS = ["my card", "", "how do i get cash", "my cárd"]


class FakeCuda:
    """Device memory is host memory."""

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}

    def allocate(self, size_bytes: int) -> int:
        buffer = ctypes.create_string_buffer(size_bytes)
        self.live[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.live[address]

    def stream(self) -> int:
        return 1

    def copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        ctypes.memmove(target, source, size_bytes)

    def wait(self, stream: int) -> None:
        pass

    def compute_capability(self) -> str:
        return "8.7"


class FakeContext:
    """Runs the plan, which is the ONNX file itself, with ONNX Runtime on the addresses that were set."""

    def __init__(self, plan: bytes, scale: float) -> None:
        self.session, self.scale = onnxruntime.InferenceSession(plan), scale
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], len(LABELS))

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        ids = np.ctypeslib.as_array((ctypes.c_int64 * size).from_address(self.addresses["ids"])).reshape(self.shape)
        logits = self.session.run(None, {"ids": ids})[0] * np.float32(self.scale)
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True


def fake_tensorrt(scale: float = 1.0, enough_mib: int = 0, version: str = "10.3.0", name: str = "tensorrt") -> Any:
    """The calls of TensorRT's Python API that build.py makes; a build succeeds within `enough_mib` of workspace."""
    limits: list[int] = []

    class Engine:
        def __init__(self, plan: bytes) -> None:
            self.plan = plan

        def create_execution_context(self) -> FakeContext:
            return FakeContext(self.plan, scale)

        def get_tensor_dtype(self, name: str) -> str:
            return name

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Any:
            assert flags == 1 << 4
            tensor = SimpleNamespace(name="ids", shape=(-1, -1))
            return SimpleNamespace(num_inputs=1, get_input=lambda i: tensor)

        def create_builder_config(self) -> Any:
            return SimpleNamespace(
                set_memory_pool_limit=lambda pool, size_bytes: limits.append(size_bytes >> 20),
                clear_flag=lambda flag: None,
                add_optimization_profile=lambda profile: 0,
            )

        def create_optimization_profile(self) -> Any:
            return SimpleNamespace(set_shape=lambda name, smallest, usual, largest: None)

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            return network.plan if not enough_mib or limits[-1] <= enough_mib else None

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            self.network.plan = Path(path).read_bytes()
            return len(self.network.plan) > 10

        def get_error(self, i: int) -> str:
            return "unsupported operator"

    return SimpleNamespace(
        __name__=name,
        __version__=version,
        Logger=type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None}),
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(plan) if plan else None),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=4),
        MemoryPoolType=SimpleNamespace(WORKSPACE=0),
        BuilderFlag=SimpleNamespace(TF32=0),
        nptype={"ids": np.int64, "logits": np.float32}.__getitem__,
        limits=limits,
    )


def prebuilt(recipe: Path) -> Path:
    """The recipe's model as an engine of TensorRT-RTX, beside the graph that it was built from."""
    folder = recipe.parent / "prebuilt"
    files: dict[str, Path | bytes] = {n: recipe / n for n in ("model.onnx", "tokenizer.json")}
    files["model.fp16.rtx.engine"] = recipe / "model.onnx"
    manifest = text_manifest(artifact="recipe", runtime="tensorrt_rtx", max_batch=4, model="model.fp16.rtx.engine")
    golden = [(row["text"], row["logits"]) for row in json.loads((recipe / "golden.json").read_text())]
    write_bundle(folder, manifest, files, golden=golden)
    return folder


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tokenizer = word_piece()
    model, text = text_model(tokenizer.get_vocab_size()), tokenizer.to_str().encode()
    files: dict[str, Path | bytes] = {"model.onnx": model, "tokenizer.json": text}
    write_bundle(tmp_path / "plain", text_manifest(), files, golden=[])
    logits = Predictor(tmp_path / "plain").logits(TEXTS).tolist()
    manifest = text_manifest(artifact="recipe", runtime="tensorrt", max_batch=4)
    write_bundle(tmp_path / "recipe", manifest, files, golden=list(zip(TEXTS, logits, strict=True)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt_engine, "Cuda", FakeCuda)
    monkeypatch.setattr(runner_build, "Cuda", FakeCuda)
    return tmp_path / "recipe"


def install(monkeypatch: pytest.MonkeyPatch, trt: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)


def test_without_tensorrt_the_recipe_says_how_to_get_it_and_exits_2(recipe: Path) -> None:
    code = "import sys, runpy; sys.modules.update(tensorrt=None, tensorrt_rtx=None); sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-I", "-c", code + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    result = subprocess.run([*command, recipe / "build.py"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("no engine: neither tensorrt nor tensorrt_rtx can be imported: JetPack 6 brings it")


def test_an_old_tensorrt_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_tensorrt(version="8.5.2"))
    with pytest.raises(NoTensorRT, match=r"TensorRT 10 or later is wanted, found 8\.5\.2"):
        import_tensorrt("tensorrt")


def test_the_recipe_builds_checks_and_reports(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_tensorrt())
    report = make(recipe, cache_folder(recipe), 256)
    assert report == json.loads((cache_folder(recipe) / "build.json").read_text())
    assert report["parity"]["passed"]
    assert report["parity"]["n"] == len(TEXTS)
    assert report["latency_model"]["kind"] == "measured"
    assert report["runtime_version"] == "10.3.0"
    assert report["workspace_mib"] == 256


def test_after_the_build_predict_answers_with_the_engine(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_tensorrt())
    make(recipe, cache_folder(recipe), 256)
    plain = Predictor(recipe.parent / "plain")
    assert [Predictor(recipe).predict(t) for t in TEXTS] == [plain.predict(t) for t in TEXTS]


def install_both(monkeypatch: pytest.MonkeyPatch, rtx: Any) -> None:
    """TensorRT itself is there, too, and may not be asked for an engine of TensorRT-RTX."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    install(monkeypatch, SimpleNamespace(__name__="tensorrt", __version__="10.3.0"))


def test_an_engine_in_the_bundle_is_proved_and_served_not_built(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = fake_tensorrt(name="tensorrt_rtx", version="1.7.1")
    install_both(monkeypatch, rtx)
    folder = prebuilt(recipe)
    report = make(folder, cache_folder(folder), 256)
    assert rtx.limits == []
    assert (report["runtime"], report["build_s"], report["workspace_mib"]) == ("tensorrt_rtx", None, None)
    assert (report["parity"]["passed"], report["parity"]["n"]) == (True, len(TEXTS))
    plain = Predictor(recipe.parent / "plain")
    assert [Predictor(folder).predict(t) for t in TEXTS] == [plain.predict(t) for t in TEXTS]


def test_an_engine_in_the_bundle_that_answers_otherwise_is_not_served(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_both(monkeypatch, fake_tensorrt(scale=1.5, name="tensorrt_rtx", version="1.7.1"))
    folder = prebuilt(recipe)
    assert not make(folder, cache_folder(folder), 256)["parity"]["passed"]
    with pytest.raises(ValueError, match="the engine's answers are not the student's; it is not served"):
        Predictor(folder)


def test_a_rebuild_starts_from_the_graph(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = fake_tensorrt(name="tensorrt_rtx", version="1.7.1")
    install_both(monkeypatch, rtx)
    folder = prebuilt(recipe)
    assert make(folder, cache_folder(folder), 256, rebuild=True)["workspace_mib"] == 256
    assert rtx.limits == [256]


def test_tensorrt_is_preferred_for_its_own_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    install_both(monkeypatch, SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7.1"))
    assert import_tensorrt("tensorrt").__name__ == "tensorrt"
    assert import_tensorrt("tensorrt_rtx").__name__ == "tensorrt_rtx"


@pytest.mark.parametrize("name", ["predict.py", "build.py", "verify.py"])
def test_the_help_is_the_head_of_the_file(recipe: Path, name: str) -> None:
    shown = subprocess.run([sys.executable, recipe / name, "--help"], capture_output=True, text=True, check=True).stdout
    assert "Exit 0:" in shown or "(exit 0)" in shown
    assert f"\npython {name} " in shown


def test_more_than_the_largest_batch_is_run_in_parts(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_tensorrt())
    make(recipe, cache_folder(recipe), 256)
    texts = TEXTS * 3
    assert np.allclose(Predictor(recipe).logits(texts), Predictor(recipe.parent / "plain").logits(texts), atol=1e-6)


def test_device_memory_grows_with_the_input_and_is_not_leaked(recipe: Path) -> None:
    manifest = json.loads((recipe / "manifest.json").read_text())
    engine = TensorRTEngine(fake_tensorrt(), (recipe / "model.onnx").read_bytes(), manifest)
    for shape in [(1, 2), (4, 12), (1, 3), (4, 12)]:
        assert engine(np.ones(shape, np.int64)).shape == (shape[0], 3)
    assert isinstance(engine._cuda, FakeCuda)
    assert len(engine._cuda.live) == 2


def test_an_engine_whose_answers_differ_is_reported_and_not_served(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, fake_tensorrt(scale=1.5))
    monkeypatch.setattr(runner_build, "__file__", str(recipe / "build.py"))
    monkeypatch.setattr(sys, "argv", ["build.py"])
    assert runner_build.main() == 1
    assert json.loads(capsys.readouterr().out)["parity"]["passed"] is False
    with pytest.raises(ValueError, match="the engine's answers are not the student's; it is not served"):
        Predictor(recipe)


def test_an_engine_altered_after_the_build_is_not_served(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_tensorrt())
    make(recipe, cache_folder(recipe), 256)
    (cache_folder(recipe) / "model.engine").write_bytes(b"x")
    with pytest.raises(ValueError, match="altered since it was built"):
        Predictor(recipe)


def test_another_bundle_has_another_cache_folder(recipe: Path) -> None:
    assert cache_folder(recipe) != cache_folder(recipe.parent / "plain")


def test_too_little_memory_is_retried_with_half_the_workspace(recipe: Path) -> None:
    trt, manifest = fake_tensorrt(enough_mib=64), json.loads((recipe / "manifest.json").read_text())
    _, used_mib = build(trt, recipe / "model.onnx", manifest, 5, 256)
    assert (used_mib, trt.limits) == (64, [256, 128, 64])
    with pytest.raises(CannotBuild, match="no engine within 16 MiB of workspace"):
        build(fake_tensorrt(enough_mib=8), recipe / "model.onnx", manifest, 5, 64)


def test_a_graph_that_tensorrt_cannot_read_is_refused_with_its_reason(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(CannotBuild, match=r"bad\.onnx: TensorRT cannot read the graph: unsupported operator"):
        build(fake_tensorrt(), tmp_path / "bad.onnx", json.loads((recipe / "manifest.json").read_text()), 5, 64)


def test_a_profile_spans_batch_and_length_and_keeps_what_the_graph_fixes() -> None:
    text = text_manifest(max_batch=8).model_dump()
    assert profile_shapes((-1, -1), text, 5) == [(1, 2), (1, 5), (8, 12)]
    assert profile_shapes((1, -1), text, 5) == [(1, 2), (1, 5), (1, 12)]
    image = image_manifest(max_batch=8).model_dump()
    assert profile_shapes((-1, 3, -1, -1), image, 5) == [(1, 3, 4, 4), (1, 3, 4, 4), (8, 3, 4, 4)]


def test_parity_allows_the_rounding_of_the_precision_and_no_more() -> None:
    golden = np.array([[0.0, 10.0], [5.0, 0.0]], np.float32)
    assert parity(golden + np.float32(0.05), golden, "fp16")["passed"]
    assert not parity(golden + np.float32(0.05), golden, "fp32")["passed"]
    assert not parity(golden * np.float32(np.nan), golden, "int8")["passed"]
    assert parity(golden[::-1], golden, "fp32")["agreement"] == 0.0


def test_without_golden_vectors_nothing_is_proved() -> None:
    assert parity(np.zeros((0, 3)), np.zeros((0, 3)), "fp32")["passed"] is False


def test_golden_images_come_back_as_the_bytes_they_were(tmp_path: Path) -> None:
    manifest = image_manifest(artifact="recipe", runtime="tensorrt")
    write_bundle(tmp_path / "r", manifest, {"model.onnx": image_model()}, golden=[(png(), [1.0, -1.0, -1.0])])
    raw, logits = read_golden(tmp_path / "r")
    assert raw == [png()]
    assert logits.tolist() == [[1.0, -1.0, -1.0]]


def test_tensorrt_rtx_builds_the_graph_without_a_gpu(recipe: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the rtx extra is not installed")
    rewrite_manifest(recipe, lambda d: d.update(runtime="tensorrt_rtx"))
    plan, used_mib = build(trt, recipe / "model.onnx", json.loads((recipe / "manifest.json").read_text()), 5, 256)
    assert len(plan) > 1000
    assert used_mib == 256
