"""Temperature: one number that makes a classifier's confidence honest, and changes none of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

TEMPERATURES = (0.05, 20.0)  # searched between these


def fit_temperature(logits: np.ndarray, labels: np.ndarray, row_weights: np.ndarray | None = None) -> float:
    """What divides the logits (N, C) so that the labels, int (N,), are likeliest (Guo et al. 2017, section 4.2).
    row_weights: float (N,), none: all rows alike."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        return float(row_nll(logits / np.exp(log_temperature), labels, row_weights).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(nll, bounds=(low, high), method="bounded").x))


def row_nll(logits: np.ndarray, labels: np.ndarray, row_weights: np.ndarray | None = None) -> np.ndarray:
    """-log p(label) of each row in nats, float64 (N,), times its weight where weights (mean 1 after scaling) are
    given."""
    import numpy as np

    scaled = np.asarray(logits, dtype=np.float64)
    scaled = scaled - scaled.max(1, keepdims=True)
    found: np.ndarray = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]
    return found if row_weights is None else found * row_weights / row_weights.mean()
