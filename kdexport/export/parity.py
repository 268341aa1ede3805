"""An engine against torch, on real inputs and on edge cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdexport.nouns.student import Parity

LARGEST = float(np.finfo(np.float32).max)
# largest difference of a logit, as a share of the logits' spread, and smallest agreement, that still is parity
TOLERANCE = {"fp32": (1e-3, 0.999), "fp16": (0.05, 0.99), "bf16": (0.15, 0.97), "int8": (0.5, 0.95)}


def compare_logits(reference: np.ndarray, found: np.ndarray) -> Parity:
    """logits (N, C) each. NaN and infinity count as an error of the largest float32: JSON has no word for them."""
    errors = np.nan_to_num(np.abs(reference - found), nan=LARGEST, posinf=LARGEST)
    return Parity(
        max_abs_err=float(errors.max()),
        agreement=float((reference.argmax(1) == found.argmax(1)).mean()),
        n=len(reference),
    )


def parity_problem(parity: Parity, precision: str, reference: np.ndarray) -> str:
    """Why this is no parity, else empty."""
    share, agreement = TOLERANCE[precision]
    limit = share * float(reference.std() * 4 + 1e-6)
    if not parity.max_abs_err <= limit:
        return f"parity failed: a logit differs by {parity.max_abs_err:.3g}, allowed {limit:.3g}"
    if parity.agreement < agreement:
        return f"parity failed: {parity.agreement:.4f} of {parity.n} answers agree, wanted {agreement}"
    return ""


def edge_texts(texts: Sequence[str]) -> list[str]:
    """Empty, longest, unknown characters, odd whitespace: what breaks exporters."""
    longest = max(texts, key=len) if texts else "a"
    return ["", " ", longest, longest * 4, "\u4f60\u597d \U0001f600 \u00e9", "a", "[MASK] [SEP] x", "0" * 150]
