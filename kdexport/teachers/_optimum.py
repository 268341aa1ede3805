"""Export by `optimum`: for architectures whose forward torch's exporter cannot trace as it is."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from kdexport.errors import MissingPackage
from kdexport.storage.files import replacing

INSTALL = "pip install 'kdexport[optimum]'"


def export_with_optimum(model: Path, graph: Path, because: Exception) -> tuple[str, ...]:
    """Write the sequence classifier in folder `model` as ONNX; returns the input names.

    Raises MissingPackage, with torch's own reason, where optimum's exporter is not installed."""
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("optimum.exporters") is None:
        raise MissingPackage(
            f"{model}: torch cannot export this architecture ({str(because).splitlines()[0][:200]}); "
            f"optimum knows more of them: {INSTALL}"
        ) from because
    import onnx
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as scratch:
        main_export(str(model), scratch, task="text-classification", local_files_only=True, do_validation=False)
        with replacing(graph) as temporary:
            shutil.copyfile(Path(scratch) / "model.onnx", temporary)
    return tuple(i.name for i in onnx.load(str(graph), load_external_data=False).graph.input)
