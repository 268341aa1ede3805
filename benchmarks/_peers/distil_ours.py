"""The clock over kdexport's own distillation, nothing cached: `python -m benchmarks._peers.distil_ours EXCHANGE`.

Counted: the teacher's export, augmentation, labelling, the choice of a precision, training, the student's export."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from pathlib import Path


class EpochEnds(logging.Handler):
    """perf_counter() at the end of each epoch, its dev quality just found."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.at_s: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch="):
            self.at_s.append(time.perf_counter())


def main() -> int:
    import onnxruntime  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401 (no imports on the clock: the other side has none)

    from kdexport import pipeline
    from kdexport.backbones import parse_spec

    exchange = Path(sys.argv[1])
    settings = json.loads((exchange / "settings.json").read_text())
    torch.set_num_threads(1)
    ends = EpochEnds()
    logger = logging.getLogger("kdexport.training.loop")
    logger.addHandler(ends)
    logger.setLevel(logging.INFO)
    out = exchange / "run-timed"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    run = pipeline.open_run(Path(settings["project"]), out)
    student, _ = run.student(parse_spec(settings["spec"]))
    total_s = time.perf_counter() - started
    # a fitted teacher's epochs, or a baseline's, would come first: the student's are the last
    at_s = [at - started for at in ends.at_s[-len(student.dev_quality) :]]
    rows = len(run.rows.inputs)
    stages_s = dict(run.workspace.seconds)
    stages_s["choices and the rest"] = total_s - sum(stages_s.values())
    result = {
        "seconds": total_s,
        "timeline": list(zip(at_s, student.dev_quality, strict=True)),
        "rows_seen": rows * student.recipe.epochs,
        "rows_per_s": rows * student.recipe.epochs / run.workspace.seconds["distil"],
        "stages_s": stages_s,
        "bf16": student.bf16,
    }
    Path(sys.argv[2]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
