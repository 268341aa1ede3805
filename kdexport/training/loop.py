"""One training loop for students and fitted teachers. Same seed, thread count and ISA: same bits, killed or not."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.errors import Damaged
from kdexport.storage.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
BUCKET_BATCHES = 50  # batches sorted by length together: little padding, still random
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.1
MAX_GRADIENT_NORM = 1.0
Progress = Callable[[int, int, str], None]  # steps done, steps in all, a word on the state


@dataclass(frozen=True)
class Schedule:
    """checkpoint_seconds changes how much a kill costs, never the result."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    threads: int
    bf16: bool = False
    checkpoint_seconds: float = 10.0

    def steps_per_epoch(self, num_rows: int) -> int:
        return math.ceil(num_rows / self.batch_size)


@dataclass(frozen=True)
class History:
    """One entry an epoch: mean training loss in nats, and dev quality where there is a dev split."""

    losses: tuple[float, ...]
    dev_quality: tuple[float, ...]


def train(
    module: torch.nn.Module,
    lengths: np.ndarray,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    schedule: Schedule,
    checkpoint: Path,
    evaluate: Callable[[], float] | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `module` in place with AdamW, linear warm-up and cosine decay.

    lengths: (N,) tokens a row. loss_of(rows) -> scalar loss in nats of those rows, built on `module`.
    Resumes from `checkpoint` (a file) where there is one, in mid-epoch too; removes it at the end."""
    import torch

    torch.set_num_threads(schedule.threads)
    torch.manual_seed(schedule.seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, weight_decay=WEIGHT_DECAY)
    per_epoch = schedule.steps_per_epoch(len(lengths))
    total = per_epoch * schedule.epochs
    state = _restore(checkpoint, module, optimiser) or _State()
    saved_at = time.monotonic()
    while state.step < total:
        epoch, done = divmod(state.step, per_epoch)
        module.train()
        for rows in list(_batches(lengths, schedule, epoch))[done:]:
            rate = schedule.learning_rate * _rate_share(state.step, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
                loss = loss_of(rows)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
            optimiser.step()
            state.step += 1
            state.epoch_loss += float(loss.detach()) / per_epoch
            if progress and state.step % 20 == 0:
                progress(state.step, total, f"loss {float(loss.detach()):.3f}")
            if time.monotonic() - saved_at > schedule.checkpoint_seconds and state.step % per_epoch:
                _save(checkpoint, module, optimiser, state)
                saved_at = time.monotonic()
        _close_epoch(state, module, evaluate)
        _save(checkpoint, module, optimiser, state)
        saved_at = time.monotonic()
    module.eval()
    if progress:
        progress(total, total, f"loss {state.losses[-1]:.3f}")
    return History(tuple(state.losses), tuple(state.dev_quality))


@dataclass
class _State:
    step: int = 0
    epoch_loss: float = 0.0
    losses: list[float] = None  # type: ignore[assignment]
    dev_quality: list[float] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.losses = self.losses or []
        self.dev_quality = self.dev_quality or []


def _close_epoch(state: _State, module: torch.nn.Module, evaluate: Callable[[], float] | None) -> None:
    state.losses.append(state.epoch_loss)
    state.epoch_loss = 0.0
    if evaluate is not None:
        module.eval()
        state.dev_quality.append(evaluate())
    dev = f" dev_quality={state.dev_quality[-1]:.4f}" if state.dev_quality else ""
    log.info("epoch=%d loss=%.4f%s", len(state.losses), state.losses[-1], dev)


def _batches(lengths: np.ndarray, schedule: Schedule, epoch: int) -> Iterator[np.ndarray]:
    """Row indices of each batch of an epoch: shuffled, then sorted by length within a bucket, then shuffled again."""
    import numpy as np

    chance = np.random.default_rng([schedule.seed, epoch])
    order = chance.permutation(len(lengths))
    span = schedule.batch_size * BUCKET_BATCHES
    batches: list[np.ndarray] = []
    for start in range(0, len(order), span):
        bucket = order[start : start + span]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[i : i + schedule.batch_size] for i in range(0, len(bucket), schedule.batch_size)]
    return (batches[i] for i in chance.permutation(len(batches)))


def _rate_share(step: int, total: int) -> float:
    warmup = max(1, round(total * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _save(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer, state: _State) -> None:
    """Weights, moments and random state as safetensors, written whole or not at all."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"module.{k}": v.detach().clone().contiguous() for k, v in module.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v).clone().contiguous() for k, v in moments.items()}
    tensors["random"] = torch.get_rng_state()
    text = json.dumps(vars(state))
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": text})


def _restore(path: Path, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> _State | None:
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
            state = _State(**json.loads(f.metadata()["state"]))
    except SafetensorError as e:
        raise Damaged(f"{path}: not a whole checkpoint ({e}); delete it, the training starts again") from e
    module.load_state_dict({k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")})
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    log.info("resumed step=%d", state.step)
    return state
