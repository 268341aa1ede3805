"""A teacher in a folder: a Hugging Face sequence classifier in safetensors, or a model that kdexport fitted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexport.backbones import parse_spec
from kdexport.errors import BadInput, Damaged, Unsupported
from kdexport.export.onnx import INPUT_NAMES, export_graph, fuse_transformer
from kdexport.nouns.manifest import Preprocessor
from kdexport.nouns.project import TeacherSource
from kdexport.nouns.teacher import TeacherMember
from kdexport.storage.files import read_users_json, replacing, sha256_file, write_bytes
from kdexport.storage.tables import Raw
from kdexport.teachers import TeacherContext, columns_for, member_of
from kdexport.teachers._optimum import export_with_optimum
from kdexport.teachers._peek import require_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

FUSABLE = {"bert", "roberta", "distilbert", "mpnet", "electra", "xlm-roberta", "camembert", "albert"}
MAX_LENGTH = 512
FUSION_TOLERANCE = 1e-3  # largest difference of a logit that the fused graph may show


def ready(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    """Export the folder as ONNX (fused where that changes nothing). Raises BadInput, Damaged or Unsupported."""
    check(source, context)
    assert source.model is not None
    if (source.model / "spec.json").is_file():
        return _own_model(source, context, folder)
    return _sequence_classifier(source, context, folder)


def check(source: TeacherSource, context: TeacherContext) -> None:
    """Files, their formats and class names, without loading the model. Raises as `ready`."""
    assert source.model is not None
    if not source.model.is_dir():
        raise BadInput(f"{source.model}: no such folder; a teacher folder holds config.json and model.safetensors")
    if (source.model / "spec.json").is_file():
        _refuse_pickle(source.model)
        _refuse_zero_weights(source.model)
        parse_spec(read_users_json(source.model / "spec.json"), str(source.model / "spec.json"))
        columns_for(read_users_json(source.model / "labels.json"), context.classes, str(source.model))
        return
    names = read_config(source.model).get("id2label") or {}
    _refuse_pickle(source.model)
    _refuse_zero_weights(source.model)
    tokenizer = _tokenizer_file(source.model)
    if source.labels and names and len(source.labels) != len(names):
        raise BadInput(
            f"{source.model}: labels: {len(source.labels)} names are given, the model has {len(names)} outputs; "
            "name every output, in order"
        )
    if source.labels or names:
        columns_for(source.labels or tuple(names.values()), context.classes, str(source.model))
    require_tokenizer(tokenizer)


def check_base(folder: Path) -> None:
    """A folder to fine-tune: any architecture, but weights and tokenizer. Raises BadInput, Damaged."""
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder / 'config.json'}: no such file; the base is a Hugging Face model folder")
    _refuse_pickle(folder)
    require_tokenizer(_tokenizer_file(folder))


def content(source: TeacherSource) -> str:
    return weights_hash(source.model) if source.model and source.model.is_dir() else ""


def answer(source: TeacherSource, member: TeacherMember, inputs: Sequence[Raw], folder: Path) -> np.ndarray:
    raise AssertionError("a model folder is run as a graph")


def _sequence_classifier(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    from safetensors.torch import save_file

    assert source.model is not None
    config = read_config(source.model)
    model = load_classifier(source.model)
    classes = source.labels or tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    columns_for(classes, context.classes, str(source.model))
    tokenizer = write_tokenizer(source.model, folder)
    names = _export(source.model, model, folder / "plain.onnx")
    graph = _fused(folder, config, names)
    embedding = model.get_input_embeddings().weight.detach().float().contiguous()
    with replacing(folder / "embedding.safetensors") as temporary:
        save_file({"embedding": embedding}, temporary)
    return member_of(
        source,
        kind="model",
        name=source.model.name,
        classes=classes,
        num_params=sum(p.numel() for p in model.parameters()),
        num_embedding_params=embedding.numel(),
        graph=graph,
        plain_graph="plain.onnx",
        input_names=names,
        preprocessor=Preprocessor(kind="text", tokenizer="tokenizer.json", max_length=tokenizer),
        tokenizer="tokenizer.json",
        embedding="embedding.safetensors",
        source=str(source.model),
        sha256=content(source),
    )


def _export(path: Path, model: Any, graph: Path) -> tuple[str, ...]:
    """The classifier as `graph`, by torch, or by optimum where torch cannot; returns the input names."""
    import torch
    from torch.onnx.errors import OnnxExporterError

    names = tuple(n for n in ("input_ids", "attention_mask", "token_type_ids") if _accepts(model, n))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 1, 1]])
    examples = [ids, torch.ones_like(ids), torch.zeros_like(ids)][: len(names)]
    try:
        export_graph(LogitsOnly(model, names).module, examples, names, graph, tokens=True)
    except (OnnxExporterError, RuntimeError, TypeError, NotImplementedError) as e:
        return export_with_optimum(path, graph, e)
    return names


class LogitsOnly:
    """The classifier as a module of positional tensors that returns logits alone: what an exporter wants."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        import torch

        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.model(**dict(zip(names, tensors, strict=True))).logits
                return logits

        self.module: torch.nn.Module = Wrapped()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a sequence classifier. Raises Unsupported for what is none."""
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder / 'config.json'}: no such file; is this a Hugging Face model folder?")
    config: dict[str, Any] = read_users_json(folder / "config.json")
    if not isinstance(config, dict):
        raise Damaged(f"{folder / 'config.json'}: not a model's configuration; save the model again")
    architecture = (config.get("architectures") or ["none"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise Unsupported(
            f"{folder / 'config.json'}: architectures: '{architecture}' is no sequence classifier; "
            "fine-tune it first: kdexport teacher fit --base DIR --train FILE --out DIR"
        )
    if config.get("problem_type") == "multi_label_classification":
        raise Unsupported(f"{folder / 'config.json'}: multi-label teachers are not supported; one class an input is")
    return config


def load_classifier(folder: Path, num_labels: int | None = None) -> Any:
    """The model in fp32, from safetensors alone; a `.bin` checkpoint is read with weights_only.

    num_labels: a new head of so many classes. Raises Damaged where the head, or anything else, is not in the file:
    transformers would make it up at random."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    _refuse_pickle(folder)
    extra = {} if num_labels is None else {"num_labels": num_labels}
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, found = AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                local_files_only=True,
                attn_implementation="eager",
                torch_dtype=torch.float32,
                use_safetensors=_weights_file(folder).suffix == ".safetensors",
                output_loading_info=True,
                **extra,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as e:
        raise BadInput(f"{folder}: the model cannot be loaded ({str(e).splitlines()[0]})") from e
    if num_labels is None and found["missing_keys"]:
        lacking = sorted(found["missing_keys"])
        raise Damaged(
            f"{_weights_file(folder)}: lacks {len(lacking)} of the model's tensors, as {lacking[0]}; save the whole "
            "fine-tuned model, or fine-tune this one: kdexport teacher fit --base DIR --train FILE --out DIR"
        )
    return model.eval()


def _weights_file(folder: Path) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"{folder}: no model.safetensors; save the model with safe_serialization=True")


def _refuse_pickle(folder: Path) -> None:
    """A file that is named safetensors must be safetensors; a .bin must load with weights_only."""
    from safetensors import SafetensorError, safe_open

    path = _weights_file(folder)
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="np") as f:
                f.keys()
        except (SafetensorError, OSError, ValueError) as e:
            start = path.read_bytes()[:2] if path.stat().st_size < 1 << 33 else b""
            what = "a pickle (refused)" if start in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05") else "damaged"
            raise Damaged(f"{path}: not a safetensors file: {what} ({e}); save it with safetensors") from e
    elif path.suffix == ".bin":
        import torch

        try:
            torch.load(str(path), map_location="cpu", weights_only=True, mmap=False)
        except Exception as e:  # an unpickler meets hostile bytes: any error means refusal
            what = f"does not load with weights_only ({type(e).__name__})"
            raise Damaged(f"{path}: {what}; save it with safetensors") from e


def _refuse_zero_weights(folder: Path) -> None:
    """Raises BadInput where every matrix is zero; norms and biases may be what they were born with. A sound file is
    known by its first matrix."""
    from safetensors import safe_open

    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as f:
            for name in f.keys():  # noqa: SIM118 (not a dict)
                tensor = f.get_tensor(name) if len(f.get_slice(name).get_shape()) > 1 else None
                if tensor is not None and tensor.is_floating_point():
                    if bool(tensor.any()):
                        return
                    count += tensor.numel()
    if count:
        raise BadInput(f"{folder}: all {count:,} weights of its matrices are 0; save the trained model again")


def weights_hash(folder: Path) -> str:
    """Hash of weights, configuration and tokenizer: what the teacher's answers depend on."""
    from kdexport.storage.files import content_key

    wanted = ("config.json", "tokenizer.json", "spec.json", "preprocessor.json", "labels.json")
    files = sorted(p for p in folder.iterdir() if p.name in wanted or p.suffix in (".safetensors", ".bin"))
    return content_key([(p.name, sha256_file(p)) for p in files])


def _tokenizer_file(model: Path) -> Path:
    path = model / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"{path}: no such file; save the tokenizer with a fast tokenizer (tokenizer.json)")
    return path


def write_tokenizer(model: Path, folder: Path) -> int:
    """Copy the tokenizer as one tokenizers file, its truncation set; returns the longest sequence."""
    document = read_users_json(_tokenizer_file(model))
    config = read_users_json(model / "config.json")
    limit = min(int(config.get("max_position_embeddings") or MAX_LENGTH), MAX_LENGTH)
    if document.get("truncation"):
        limit = min(limit, int(document["truncation"]["max_length"]))
    elif config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        limit -= 2  # these offset their positions by the padding id
    document["truncation"] = {"direction": "Right", "max_length": limit, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = None
    write_bytes(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False).encode())
    return limit


def _accepts(model: Any, name: str) -> bool:
    import inspect

    if name == "token_type_ids" and not getattr(model.config, "type_vocab_size", 0):
        return False
    return name in inspect.signature(model.forward).parameters


def _fused(folder: Path, config: dict[str, Any], names: Sequence[str]) -> str:
    """The fused graph's name where ONNX Runtime can fuse it and answers the same, else the plain one's."""
    import numpy as np

    from kdexport.runtimes.onnxruntime import open_engine

    if config.get("model_type") not in FUSABLE:
        return "plain.onnx"
    heads = int(config.get("num_attention_heads", config.get("n_heads", 0)))
    fuse_transformer(
        folder / "plain.onnx", folder / "fused.onnx", heads, int(config.get("hidden_size", config.get("dim", 0)))
    )
    ids = np.arange(10, 26, dtype=np.int64).reshape(2, 8)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    feeds = {n: feeds[n] for n in names}
    plain, fused = (open_engine(folder / f, 1).run(feeds) for f in ("plain.onnx", "fused.onnx"))
    return "fused.onnx" if float(np.abs(plain - fused).max()) <= FUSION_TOLERANCE else "plain.onnx"


def _own_model(source: TeacherSource, context: TeacherContext, folder: Path) -> TeacherMember:
    """A folder written from a backbone: spec.json, model.safetensors, preprocessor.json, labels.json."""
    from safetensors.torch import load_file

    from kdexport.backbones import backbone_of, count_params

    assert source.model is not None
    spec = parse_spec(read_users_json(source.model / "spec.json"), str(source.model / "spec.json"))
    classes = tuple(read_users_json(source.model / "labels.json"))
    columns_for(classes, context.classes, str(source.model))
    preprocessor = Preprocessor.model_validate(read_users_json(source.model / "preprocessor.json"))
    module = backbone_of(spec).build(spec, len(classes))
    module.load_state_dict(load_file(source.model / "model.safetensors"))
    module.eval()
    is_text = preprocessor.kind == "text"
    if is_text:
        write_bytes(folder / "tokenizer.json", (source.model / "tokenizer.json").read_bytes())
    example = example_input(preprocessor)
    name = INPUT_NAMES[preprocessor.kind]
    export_graph(module, [example], [name], folder / "teacher.onnx", tokens=is_text)
    return member_of(
        source,
        kind="model",
        name=source.model.name,
        classes=classes,
        num_params=count_params(module),
        graph="teacher.onnx",
        input_names=(name,),
        preprocessor=preprocessor,
        tokenizer="tokenizer.json" if is_text else None,
        source=str(source.model),
        sha256=weights_hash(source.model),
    )


def example_input(preprocessor: Preprocessor) -> torch.Tensor:
    """A legal input of two rows, for tracing."""
    import torch

    if preprocessor.kind == "text":
        return torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])
    return torch.zeros(2, len(preprocessor.mean), preprocessor.height, preprocessor.width)
