"""A shorter transformer from a longer one: some of its layers, all else kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

LAYER = re.compile(r"^(.*encoder\.layer\.)(\d+)(\..*)$")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def keep_layers(source: Path, layers: tuple[int, ...], folder: Path) -> Path:
    """A Hugging Face folder with those layers of BERT, in order, as float32. Returns `folder`."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in load_file(str(source / "model.safetensors")).items():
        new_name = renamed(name, layers)
        if new_name is not None:
            tensors[new_name] = tensor.float() if tensor.is_floating_point() else tensor
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"num_hidden_layers": len(layers), "dtype": "float32"}
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return folder


def num_layers(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])


def renamed(name: str, layers: tuple[int, ...]) -> str | None:
    """The tensor's name in the shorter model; None for a layer that is left out."""
    found = LAYER.match(name)
    if found is None:
        return name
    head, layer, tail = found.groups()
    return f"{head}{layers.index(int(layer))}{tail}" if int(layer) in layers else None
