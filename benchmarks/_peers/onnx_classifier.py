"""A Hugging Face classifier as it is usually served fast on a CPU: ONNX Runtime with its transformer fusions, fp32, no
padding at batch 1, and the package `tokenizers`. Runs in kdexport's environment, whose exporter checks the graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVING = "serving.json"


def export(source: Path, folder: Path) -> None:
    """Graph, tokenizer and settings of a Hugging Face folder, nothing else, in `folder`."""
    from kdexport.nouns.project import Data, Project, Table, TeacherSource
    from kdexport.teachers import TeacherContext, model

    classes = [name for _, name in sorted(model.read_config(source)["id2label"].items(), key=lambda i: int(i[0]))]
    given = TeacherSource(model=source)
    table = Data(train=Table(path="none"))
    project = Project(name="peer", task="text_classification", teachers=(given,), data=table, targets=("local-cpu",))
    context = TeacherContext(project, tuple(classes), (), None, (), None, threads=1)
    work = folder.with_name(f".{folder.name}.exporting")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    member = model.ready(given, context, work)
    assert member.preprocessor is not None
    keep = {member.graph, member.tokenizer}
    for path in work.iterdir():
        if path.name not in keep:
            path.unlink()
    settings = {
        "graph": member.graph,
        "tokenizer": member.tokenizer,
        "inputs": list(member.input_names),
        "max_length": member.preprocessor.max_length,
        "classes": classes,
    }
    (work / SERVING).write_text(json.dumps(settings))
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def load(folder: Path) -> Callable[[str], str]:
    import numpy as np
    from tokenizers import Tokenizer

    from kdexport.runtimes.onnxruntime import open_engine

    settings: dict[str, Any] = json.loads((folder / SERVING).read_text())
    tokenizer = Tokenizer.from_file(str(folder / settings["tokenizer"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings["max_length"])
    session = open_engine(folder / settings["graph"], 1).session
    names, classes = settings["inputs"], settings["classes"]

    def predict(text: str) -> str:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        tensors = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return str(classes[int(session.run(None, {n: tensors[n] for n in names})[0].argmax())])

    return predict
