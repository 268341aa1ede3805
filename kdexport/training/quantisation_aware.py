"""A short further distillation with int8 in the loop (Jacob et al. 2018): weights and activations are rounded as the
engine will round them, and the gradient passes through the rounding as if it were not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdexport.nouns.student import Recipe
from kdexport.tasks import Encoded
from kdexport.training.loop import History, Progress, Schedule, train
from kdexport.training.recipe import TransferSet
from kdexport.training.soft_labels import SoftLabels
from kdexport.training.student import objective

if TYPE_CHECKING:
    import numpy as np
    import torch

# dynamic: what ONNX Runtime makes of text: Linear, by the range of each request; embeddings by one range; convolutions
# stay fp32. static: its pictures, and NNCF's everything: Linear and convolutions, by ranges seen beforehand.
Scheme = Literal["dynamic", "static"]
SHARE = 0.2  # of the distillation's steps, at most
RATE_SHARE = 0.3  # of its learning rate: 0.1 repaired half of what an outlier channel cost, 0.3 two thirds
WEIGHT_LEVELS = 127  # symmetric, one scale an output channel
ACTIVATION_LEVELS = 255  # one scale and zero point a tensor; zero is exact
RANGE_MOMENTUM = 0.05  # of a static range, a step
LEAST_SCALE = 1e-12
LOW, HIGH = "int8_low", "int8_high"  # buffers of a module: the static range of its input


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """(out, ...) on the grid of int8, one scale an output channel. The scale is the largest weight over 127 and has a
    gradient of its own (Esser et al. 2020, eq. 3): an outlier that costs the others their resolution shrinks."""
    largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    scale = (largest / WEIGHT_LEVELS).clamp_min(LEAST_SCALE)
    return _straight_through(weight / scale) * scale


def rounded_tensor(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """On the grid of uint8 from low to high, which broadcast against `values`; what lies outside is clamped."""
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / ACTIVATION_LEVELS).clamp_min(LEAST_SCALE)
    zero = (-low / scale).round().detach()
    return ((_straight_through(values / scale) + zero).clamp(0, ACTIVATION_LEVELS) - zero) * scale


def _straight_through(values: torch.Tensor) -> torch.Tensor:
    return values + (values.round() - values).detach()


def attach(module: torch.nn.Module, scheme: Scheme) -> Callable[[], None]:
    """Round in `module`, in place, from now on. Returns what takes all of it off again: the weights that remain are
    the trained ones, not rounded, for the engine's own quantiser."""
    from torch import nn
    from torch.nn.utils import parametrize

    class Channels(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return rounded_weight(weight)

    class Whole(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return rounded_tensor(weight, weight.amin(), weight.amax())

    handles: list[Any] = []
    rounded: list[nn.Module] = []
    for part in list(module.modules()):
        if scheme == "dynamic" and isinstance(part, nn.Embedding):
            parametrize.register_parametrization(part, "weight", Whole())
            rounded.append(part)
        elif isinstance(part, nn.Linear) or (scheme == "static" and isinstance(part, nn.Conv1d | nn.Conv2d)):
            parametrize.register_parametrization(part, "weight", Channels())
            handles.append(part.register_forward_pre_hook(_round_request if scheme == "dynamic" else _round_static))
            rounded.append(part)
            if scheme == "static":
                _add_range(part)

    def detach() -> None:
        for handle in handles:
            handle.remove()
        for part in rounded:
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=False)
            for name in (LOW, HIGH):
                part._buffers.pop(name, None)

    return detach


def _round_request(part: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """By the range of each request (B, ...) alone."""
    values = inputs[0]
    axes = tuple(range(1, values.ndim))
    return (rounded_tensor(values, values.amin(axes, keepdim=True), values.amax(axes, keepdim=True)), *inputs[1:])


def _add_range(part: torch.nn.Module) -> None:
    import torch

    for name in (LOW, HIGH):
        part.register_buffer(name, torch.tensor(float("nan")))


def _round_static(part: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """By a range that follows the batches in training, and is fixed afterwards."""
    import torch

    values, low, high = inputs[0], part.get_buffer(LOW), part.get_buffer(HIGH)
    if part.training:
        with torch.no_grad():
            for kept, now in ((low, values.amin()), (high, values.amax())):
                kept.copy_(now if torch.isnan(kept) else kept + RANGE_MOMENTUM * (now - kept))
    return (rounded_tensor(values, low, high), *inputs[1:])


def finish(
    module: torch.nn.Module,
    encoded: Encoded,
    rows: TransferSet,
    labels: SoftLabels,
    recipe: Recipe,
    scheme: Scheme,
    checkpoint: Path,
    progress: Progress | None,
) -> History:
    """Distil on, in place, with int8 in the loop, for at most a fifth of the recipe's steps; resumes from
    `checkpoint`. `module` leaves without any rounding."""
    epochs = int(SHARE * recipe.epochs)
    chosen = _some_rows(len(rows.inputs), 1.0 if epochs else SHARE * recipe.epochs, recipe.seed)
    loss_of = objective(module, encoded, rows, labels, recipe)
    schedule = Schedule(
        epochs=max(1, epochs),
        batch_size=recipe.batch_size,
        learning_rate=RATE_SHARE * recipe.learning_rate,
        seed=recipe.seed,
        threads=recipe.threads,
    )
    detach = attach(module, scheme)
    try:
        return train(
            module, encoded.lengths[chosen], lambda r: loss_of(chosen[r]), schedule, checkpoint, None, progress
        )
    finally:
        detach()


def _some_rows(num_rows: int, share: float, seed: int) -> np.ndarray:
    """int64, ascending; whole batches are not asked for."""
    import numpy as np

    if share >= 1:
        return np.arange(num_rows)
    drawn = np.random.default_rng(seed).permutation(num_rows)[: max(1, int(share * num_rows))]
    result: np.ndarray = np.sort(drawn)
    return result
