"""The clock over sentence-transformers' distillation, in the peer's environment:
`python -m benchmarks._peers.distil_embeddings EXCHANGE RESULT`.

As its documentation has it: some layers of the teacher are kept, the teacher's embeddings of all texts are computed
once, and the student learns them by mean squared error; then a logistic regression on the student's embeddings of the
rows with a true label. Another, larger student than ours: a shorter transformer is what the library makes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._peers.layers import keep_layers, num_layers

LAYERS = (1, 4)  # of six: the documented choice, scaled
EPOCHS, BATCH_SIZE, LEARNING_RATE = 3, 64, 1e-4
STRENGTH = 100.0  # C of the logistic regression


def main() -> int:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MSELoss
    from sklearn.linear_model import LogisticRegression
    from transformers import TrainerCallback

    exchange, path = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((exchange / "settings.json").read_text())
    rows = json.loads((exchange / "rows.json").read_text())
    torch.set_num_threads(1)
    torch.manual_seed(settings["seed"])
    known = [i for i, label in enumerate(rows["hard"]) if label >= 0]
    timeline: list[tuple[float, float]] = []
    started = time.perf_counter()
    source = Path(settings["teacher"])
    every = tuple(range(num_layers(source)))
    teacher, student = (
        _pooled(SentenceTransformer, keep_layers(source, kept, exchange / f"embedder-{len(kept)}"))
        for kept in (every, LAYERS)
    )
    wanted = teacher.encode(rows["texts"], batch_size=BATCH_SIZE, show_progress_bar=False)
    labelled_s = time.perf_counter() - started

    def dev_accuracy() -> float:
        texts = [rows["texts"][i] for i in known]
        head = LogisticRegression(C=STRENGTH, max_iter=200)
        head.fit(student.encode(texts, show_progress_bar=False), [rows["hard"][i] for i in known])
        return float(head.score(student.encode(rows["dev_texts"], show_progress_bar=False), rows["dev_labels"]))

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            found = dev_accuracy()
            timeline.append((time.perf_counter() - started, found))

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(exchange / "checkpoints-embeddings"), num_train_epochs=settings["embedding_epochs"],
        per_device_train_batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, warmup_steps=0.1, save_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, seed=settings["seed"],
    )  # fmt: skip
    data = Dataset.from_dict({"sentence": rows["texts"], "label": wanted.tolist()})
    trainer = SentenceTransformerTrainer(
        model=student, args=arguments, train_dataset=data, loss=MSELoss(student), callbacks=[Clock()]
    )
    trainer.train()
    result = {
        "seconds": timeline[-1][0],
        "timeline": timeline,
        "rows_seen": len(rows["texts"]) * settings["embedding_epochs"],
        "stages_s": {"label": labelled_s},
        "params": sum(p.numel() for p in student.parameters()),
    }
    path.write_text(json.dumps(result))
    return 0


def _pooled(kind: Any, folder: Path) -> Any:
    """A SentenceTransformer of that model's first token, which is what the teacher's classifier reads."""
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(folder))
    size = int(json.loads((folder / "config.json").read_text())["hidden_size"])
    return kind(modules=[words, Pooling(size, pooling_mode="cls")], device="cpu")


if __name__ == "__main__":
    sys.exit(main())
