"""One training loop for students and fitted teachers. Same seed, thread count and ISA: same bits, killed or not."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdexport.errors import BadInput, Damaged
from kdexport.storage.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
BUCKET_BATCHES = 50  # batches sorted by length together: little padding, still random
WEIGHT_DECAY = 0.01
WARMUP_SHARE = 0.1
MAX_GRADIENT_NORM = 1.0
AVERAGING_START = 10  # the average follows the weights closely at first: decay (n + 1) / (n + 10), up to the schedule's
Progress = Callable[[int, int, str], None]  # steps done, steps in all, a word on the state
Terms = Mapping[str, "torch.Tensor"]  # scalar losses in nats, weighed already; their sum is minimised


@dataclass(frozen=True)
class Schedule:
    """averaging: decay a step of the exponential moving average of the weights, which is what is judged and kept;
    0: the last weights. checkpoint_seconds changes how much a kill costs, never the result."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    threads: int
    bf16: bool = False
    averaging: float = 0.0
    checkpoint_seconds: float = 10.0

    def steps_per_epoch(self, num_rows: int) -> int:
        return math.ceil(num_rows / self.batch_size)


@dataclass(frozen=True)
class History:
    """One entry an epoch. losses: mean training loss in nats; terms: its parts, by name; gradient_norms: of each part
    alone, L2 over all weights, on the epoch's first batch; dev_quality: of the weights that are kept, where there is
    a dev split."""

    losses: tuple[float, ...]
    dev_quality: tuple[float, ...]
    terms: tuple[dict[str, float], ...] = ()
    gradient_norms: tuple[dict[str, float], ...] = ()


def train(
    module: torch.nn.Module,
    lengths: np.ndarray,
    loss_of: Callable[[np.ndarray], Terms],
    schedule: Schedule,
    checkpoint: Path,
    evaluate: Callable[[torch.nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `module` in place with AdamW, linear warm-up and cosine decay.

    lengths: (N,) tokens a row. loss_of(rows) -> terms of the loss of those rows, built on `module`. evaluate(weights
    to be judged, a module like `module`). Resumes from `checkpoint` (a file) where there is one, in mid-epoch too.
    It stays, for a kill before the caller has written its result: the caller removes it then. Raises BadInput where the
    loss is no number any more."""
    import torch

    torch.set_num_threads(schedule.threads)
    torch.manual_seed(schedule.seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    average = deepcopy(module) if schedule.averaging else module
    per_epoch = schedule.steps_per_epoch(len(lengths))
    total = per_epoch * schedule.epochs
    state = _restore(checkpoint, module, average, optimiser) or _State()
    saved_at = time.monotonic()
    while state.step < total:
        epoch, done = divmod(state.step, per_epoch)
        module.train()
        for rows in list(_batches(lengths, schedule, epoch))[done:]:
            rate = schedule.learning_rate * _rate_share(state.step, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
                terms = loss_of(rows)
            if state.step % per_epoch == 0:
                state.gradient_norms.append(_gradient_norms(terms, module))
            loss = sum(terms.values(), torch.zeros(()))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
            optimiser.step()
            if average is not module:
                _follow(average, module, min(schedule.averaging, (state.step + 1) / (state.step + AVERAGING_START)))
            state.add(terms)
            if not math.isfinite(value := float(loss.detach())):
                raise BadInput(
                    f"training: the loss is {value} at step {state.step} of {total}, with a learning rate of up to "
                    f"{schedule.learning_rate:g}; lower learning_rate"
                )
            if progress and state.step % 20 == 0:
                progress(state.step, total, state.word())
            if time.monotonic() - saved_at > schedule.checkpoint_seconds and state.step % per_epoch:
                _save(checkpoint, module, average, optimiser, state)
                saved_at = time.monotonic()
        _close_epoch(state, average, evaluate)
        _save(checkpoint, module, average, optimiser, state)
        saved_at = time.monotonic()
    module.load_state_dict(average.state_dict())
    module.eval()
    if progress:
        progress(total, total, state.word())
    return History(
        tuple(sum(t.values()) for t in state.terms), tuple(state.dev_quality), tuple(state.terms),
        tuple(state.gradient_norms),
    )  # fmt: skip


@dataclass
class _State:
    step: int = 0
    steps_in_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    terms: list[dict[str, float]] = field(default_factory=list)
    gradient_norms: list[dict[str, float]] = field(default_factory=list)
    dev_quality: list[float] = field(default_factory=list)

    def add(self, terms: Terms) -> None:
        self.step += 1
        self.steps_in_epoch += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float]:
        """Of the epoch so far; a term that is missing from a batch counts as zero there."""
        return {name: total / max(self.steps_in_epoch, 1) for name, total in self.sums.items()}

    def word(self) -> str:
        terms = self.means() or (self.terms[-1] if self.terms else {})
        told = " + ".join(f"{name} {value:.3f}" for name, value in terms.items())
        return told + (f", dev {self.dev_quality[-1]:.4f}" if self.dev_quality else "")


def _follow(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    """average = decay x average + (1 - decay) x module; statistics of a normalisation too, whole numbers copied."""
    import torch

    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
        for kept, now in zip(average.buffers(), module.buffers(), strict=True):
            kept.lerp_(now, 1 - decay) if kept.is_floating_point() else kept.copy_(now)


def _gradient_norms(terms: Terms, module: torch.nn.Module) -> dict[str, float]:
    import torch

    weights = [w for w in module.parameters() if w.requires_grad]
    found: dict[str, float] = {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        norms = [g.float().norm() for g in gradients if g is not None]
        found[name] = float(torch.stack(norms).norm()) if norms else 0.0
    return found


def _close_epoch(state: _State, judged: torch.nn.Module, evaluate: Callable[[torch.nn.Module], float] | None) -> None:
    state.terms.append(state.means())
    state.sums, state.steps_in_epoch = {}, 0
    if evaluate is not None:
        judged.eval()
        state.dev_quality.append(evaluate(judged))
    log.info("epoch=%d %s", len(state.terms), state.word())


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


def _save(
    path: Path, module: torch.nn.Module, average: torch.nn.Module, optimiser: torch.optim.Optimizer, state: _State
) -> None:
    """Weights, their average, moments and random state as safetensors, written whole or not at all."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"module.{k}": v.detach().clone().contiguous() for k, v in module.state_dict().items()}
    if average is not module:
        tensors |= {f"average.{k}": v.detach().clone().contiguous() for k, v in average.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v).clone().contiguous() for k, v in moments.items()}
    tensors["random"] = torch.get_rng_state()
    text = json.dumps(asdict(state))
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"state": text})


def _restore(
    path: Path, module: torch.nn.Module, average: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> _State | None:
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
    for name, kept in (("average.", average), ("module.", module)):  # one and the same where nothing is averaged
        if found := {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}:
            kept.load_state_dict(found)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    log.info("resumed step=%d", state.step)
    return state
