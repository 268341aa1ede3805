"""fp32 or bf16 in training: measured on this machine, written down, and never measured again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdexport.nouns.measurement import Decision
from kdexport.training.loop import Terms

if TYPE_CHECKING:
    import numpy as np
    import torch

BF16_GAIN = 1.1  # faster than this, or fp32 stays
WARM_UP = 1  # trials of each precision that are not counted: the first prepares its kernels


def measure_bf16(
    loss_of: Callable[[np.ndarray], Terms], module: torch.nn.Module, rows: np.ndarray, trials: int
) -> Decision:
    """Time forward and backward of one batch in each precision, in turn. The module and the random state are left as
    they were: whether this was measured or read from a decision file changes no weight."""
    import numpy as np
    import torch

    random_state, training = torch.get_rng_state(), module.training
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.train()
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(WARM_UP + trials):
        for name, samples in seconds.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                loss = sum(loss_of(rows).values(), torch.zeros(()))
            loss.backward()  # type: ignore[no-untyped-call]
            samples.append(time.perf_counter() - start)
    module.zero_grad(set_to_none=True)
    module.load_state_dict(before)
    module.train(training)
    torch.set_rng_state(random_state)
    medians = {name: float(np.median(samples[WARM_UP:])) * 1e3 for name, samples in seconds.items()}
    gain = medians["fp32"] / medians["bf16"]
    choice = "bf16" if gain >= BF16_GAIN else "fp32"
    reason = f"bf16 is {gain:.2f} times as fast as fp32 in training here; it is used from {BF16_GAIN} times"
    return Decision(name="training precision", choice=choice, reason=reason, candidates=medians, unit="ms per step")
