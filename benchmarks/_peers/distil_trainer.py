"""The clock over the usual Trainer distillation of the same student on the same rows, in the peer's environment:
`python -m benchmarks._peers.distil_trainer EXCHANGE RESULT BATCH_SIZE LEARNING_RATE STOP`
(STOP: epochs of the schedule to run, 0: all).

The teacher is a torch module in evaluation mode, asked for every batch; both texts are tokenised once, and padded to
the longest of the batch; fp32. The student starts as ours does. Counted: all of it but the imports."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._peers.trainer_distillation import trainer_of


def main() -> int:
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback  # noqa: F401

    exchange, path = Path(sys.argv[1]), Path(sys.argv[2])
    batch_size, learning_rate, stop = int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
    settings = json.loads((exchange / "settings.json").read_text())
    torch.set_num_threads(1)
    timeline: list[tuple[float, float]] = []
    started = time.perf_counter()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
            timeline.append((time.perf_counter() - started, metrics["eval_accuracy"]))
            control.should_training_stop = len(timeline) == (stop or settings["epochs"])

    teacher = AutoModelForSequenceClassification.from_pretrained(settings["teacher"], dtype=torch.float32).eval()
    columns = [teacher.config.label2id[name] for name in settings["classes"]]
    torch.manual_seed(settings["seed"])
    student = student_of(settings, teacher)
    rows = json.loads((exchange / "rows.json").read_text())
    train_rows = encoded(exchange, rows["texts"], rows["hard"])
    dev_rows = encoded(exchange, rows["dev_texts"], rows["dev_labels"])

    def teacher_logits(inputs: Any) -> Any:
        return teacher(input_ids=inputs["teacher_ids"], attention_mask=inputs["teacher_mask"]).logits[:, columns]

    trainer = trainer_of(
        student, train_rows, dev_rows, collate, exchange / f"checkpoints-{batch_size}", teacher_logits=teacher_logits,
        temperature=settings["temperature"], hard_weight=settings["hard_weight"], learning_rate=learning_rate,
        batch_size=batch_size, epochs=settings["epochs"], seed=settings["seed"], callbacks=[Clock()],
    )  # fmt: skip
    training = time.perf_counter()
    trainer.train()
    ended = time.perf_counter()
    rows_seen = len(train_rows) * len(timeline)
    result = {
        "seconds": ended - started,
        "training_s": ended - training,
        "stopped": len(timeline) < settings["epochs"],
        "timeline": timeline,
        "rows_seen": rows_seen,
        "rows_per_s": rows_seen / (ended - training),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    path.write_text(json.dumps(result))
    return 0


def student_of(settings: dict[str, Any], teacher: Any) -> Any:
    """kdexport's backbone, begun from the teacher's embedding as ours is, with the interface that Trainer wants."""
    import torch

    from kdexport.backbones import backbone_of, parse_spec

    spec = parse_spec(settings["spec"])
    backbone = backbone_of(spec)
    module = backbone.build(spec, len(settings["classes"]), dropout=settings["dropout"])
    table = teacher.get_input_embeddings().weight.detach().numpy()
    backbone.initialise(module, table[settings["kept_ids"]])

    class Student(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, student_ids: Any, teacher_ids: Any = None, teacher_mask: Any = None) -> dict[str, Any]:
            return {"logits": self.module(student_ids)}

    return Student()


def encoded(exchange: Path, texts: list[str], labels: list[int]) -> list[dict[str, Any]]:
    """ids of both models' tokenizers."""
    from tokenizers import Tokenizer

    both = [Tokenizer.from_file(str(exchange / name)) for name in ("student-tokenizer.json", "teacher-tokenizer.json")]
    for tokenizer in both:
        tokenizer.no_padding()
    student, teacher = (tokenizer.encode_batch_fast(texts) for tokenizer in both)
    return [
        {"student_ids": s.ids, "teacher_ids": t.ids, "labels": label}
        for s, t, label in zip(student, teacher, labels, strict=True)
    ]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each padded to the longest of the batch; 0 is the padding of both."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = {name: [torch.tensor(row[name]) for row in rows] for name in ("student_ids", "teacher_ids")}
    padded = {name: pad_sequence(parts, batch_first=True) for name, parts in ids.items()}
    mask = (padded["teacher_ids"] != 0).long()
    return {**padded, "teacher_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


if __name__ == "__main__":
    sys.exit(main())
