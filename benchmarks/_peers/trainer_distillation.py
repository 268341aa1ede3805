"""The usual distillation script: transformers.Trainer, the teacher in the loop, a shorter BERT as the student."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks._peers.layers import keep_layers
from benchmarks._peers.worker import Task

LAYERS = (1, 3, 5)  # of the teacher's six, by which the student starts, as DistilBERT did
TEMPERATURE, HARD_WEIGHT = 2.0, 1.0  # equal weights of the soft and the hard term, as in the Hugging Face guides
LEARNING_RATE, BATCH_SIZE, EPOCHS = 2e-4, 32, 6


def train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Leaves the best epoch on dev as a Hugging Face folder at `folder`/fitted, to be exported."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(str(task.teacher))
    teacher = AutoModelForSequenceClassification.from_pretrained(str(task.teacher), dtype=torch.float32).eval()
    short = keep_layers(task.teacher, LAYERS, folder / "base")
    student = AutoModelForSequenceClassification.from_pretrained(str(short))
    columns = [teacher.config.label2id[name] for name in task.classes]  # the teacher's order of the classes
    train_rows = encoded(tokenizer, task.train.texts, [columns[i] for i in task.train.labels])
    dev_rows = encoded(tokenizer, task.dev.texts, [columns[i] for i in task.dev.labels])
    trainer = trainer_of(
        student, train_rows, dev_rows, DataCollatorWithPadding(tokenizer), folder / "checkpoints",
        teacher_logits=lambda inputs: teacher(**inputs).logits, temperature=TEMPERATURE, hard_weight=HARD_WEIGHT,
        learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, epochs=1 if quick else EPOCHS, seed=seed, keep_best=True,
    )  # fmt: skip
    trainer.train()
    found = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    student.config.id2label, student.config.label2id = teacher.config.id2label, teacher.config.label2id
    student.save_pretrained(str(folder / "fitted"))
    tokenizer.save_pretrained(str(folder / "fitted"))
    for name in ("base", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return {"dev_accuracy": max(found), "dev_by_epoch": found}


def encoded(tokenizer: Any, texts: list[str], labels: list[int]) -> list[dict[str, Any]]:
    ids = tokenizer(texts, truncation=True)["input_ids"]
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]


def trainer_of(
    student: Any, train_rows: Any, dev_rows: Any, collator: Any, folder: Path, *, teacher_logits: Any,
    temperature: float, hard_weight: float, learning_rate: float, batch_size: int, epochs: int, seed: int,
    keep_best: bool = False, callbacks: Any = None,
) -> Any:  # fmt: skip
    """A Trainer whose loss is KL(teacher, student) x T² + hard_weight x cross-entropy of the rows with a label >= 0.

    teacher_logits(inputs) -> (B, C), asked without gradients for every batch that is trained on. Everything that is
    not named here is the library's default: AdamW, linear decay, random batches, dynamic padding, fp32."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
    from transformers import Trainer, TrainingArguments

    class DistillationTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            logits = outputs["logits"]
            known = labels >= 0
            loss = logits.sum() * 0.0
            if bool(known.any()):
                loss = cross_entropy(logits[known], labels[known]) * (hard_weight if model.training else 1.0)
            if model.training:  # the usual script asks the teacher for dev batches too; it is spared that here
                with torch.no_grad():
                    wanted = softmax(teacher_logits(inputs) / temperature, -1)
                found = log_softmax(logits / temperature, -1)
                loss = loss + kl_div(found, wanted, reduction="batchmean") * temperature**2
            return (loss, outputs) if return_outputs else loss

    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size, learning_rate=learning_rate, warmup_ratio=0.1, weight_decay=0.01,
        eval_strategy="epoch", save_strategy="epoch" if keep_best else "no", save_total_limit=1,
        load_best_model_at_end=keep_best, metric_for_best_model="accuracy" if keep_best else None,
        logging_strategy="epoch", report_to="none", disable_tqdm=True, use_cpu=True, seed=seed,
        remove_unused_columns=False, label_names=["labels"],
    )  # fmt: skip
    return DistillationTrainer(
        model=student, args=arguments, train_dataset=train_rows, eval_dataset=dev_rows, data_collator=collator,
        compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, -1) == p.label_ids).mean())},
        callbacks=callbacks,
    )  # fmt: skip
