"""Milliseconds of a run as a sum of quantities that only grow with size, each with a speed learned here.

    median_ms = sum over quantities q of s_q(q),    s_q piecewise linear, rising, s_q(0) >= 0

A quantity is a count of work: operators, multiply-adds, bytes of weights and activations, rows, and the same rounded up
to whole tiles, since kernels compute 16 tokens at the price of 9. Its speed may change with the quantity itself (more
bytes than a cache holds, more rows than a kernel needs), and that is what the pieces learn. All terms rise with every
size, so no student that is larger in anything is ever estimated faster. The coefficients are non-negative least squares
of relative errors (Lawson and Hanson 1974), with Cauchy weights: a graph timed in a slow spell of the machine is an
outlier, not a fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.backbones import InputShape, backbone_of
from kdexport.nouns.graph import GraphCost
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np

TILE = 16  # fp32 lanes of a 512-bit register; narrower ones need whole numbers of tiles all the more
WIDE_TILE = 64  # output channels that a convolution kernel holds at once
WIDTHS = ("hidden_size", "intermediate_size", "embedding_size")
# quantities whose speed may change with their size, falling or rising, at these quantiles of what was timed
BENT = ("flops", "tiled_flops", "activation_bytes", "weight_bytes", "batch_weight_bytes", "token_hidden_size",
        "channel_pairs", "weights", "last_layer")  # fmt: skip
KNOTS = (0.25, 0.5, 0.75, 0.9)
COMMON = ("run", "batch", "operators", "batch_operators", "flops", "activation_bytes", "weight_bytes")  # any backbone's
RIDGE = 0.03  # pulls unneeded coefficients to zero: of two quantities that say the same, neither runs away
REWEIGHTINGS = 5
OUTLIER = 3.0  # spreads: beyond it a point counts less and less
MIN_SPREAD = 0.015  # of ln errors: below it an error is noise, and no point an outlier

Quantities = Mapping[str, "np.ndarray"]


@dataclass(frozen=True, eq=False)
class Physics:
    """The fitted sum. knots: by quantity; coefficients: in ms per unit of each column of `columns`."""

    names: tuple[str, ...]
    knots: Mapping[str, np.ndarray]
    coefficients: np.ndarray

    def predict_ms(self, quantities: Quantities) -> np.ndarray:
        """(N,) ms."""
        found: np.ndarray = columns(quantities, self.names, self.knots) @ self.coefficients
        return found


def fit(quantities: Quantities, median_ms: np.ndarray, bent: Sequence[str] = BENT) -> Physics:
    """Of N timed points. bent: the quantities whose speed may change with their size."""
    import numpy as np
    from scipy.optimize import nnls

    names = tuple(quantities)
    knots = {n: np.unique(np.quantile(quantities[n], KNOTS)) for n in bent if n in names}
    matrix = columns(quantities, names, knots)
    scale = np.maximum((matrix / median_ms[:, None]).mean(0), 1e-30)
    relative = matrix / scale / median_ms[:, None]
    ridge, weights = RIDGE * np.eye(len(scale)), np.ones(len(median_ms))
    for _ in range(REWEIGHTINGS):
        stacked = np.vstack([relative * weights[:, None], ridge])
        solution = nnls(stacked, np.concatenate([weights, np.zeros(len(scale))]), maxiter=100 * len(scale))[0]
        error = np.log(np.maximum(relative @ solution, 1e-9))
        spread = max(MIN_SPREAD, 1.48 * float(np.median(np.abs(error))))
        weights = 1 / np.sqrt(1 + (error / (OUTLIER * spread)) ** 2)
    return Physics(names, knots, solution / scale)


def columns(quantities: Quantities, names: Sequence[str], knots: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, K): each quantity, and what of it lies below and above each of its knots."""
    import numpy as np

    found = []
    for name in names:
        value = quantities[name]
        found.append(value)
        for knot in knots.get(name, ()):
            found += [np.minimum(value, knot), np.maximum(value - knot, 0.0)]
    return np.stack(found, 1)


def quantities(specs: Sequence[StudentSpec], num_classes: Sequence[int], shapes: Sequence[InputShape]) -> Quantities:
    """(N,) of each quantity, for N runs of students of one backbone; all non-negative, none ever falls with a size."""
    import numpy as np

    shapes = [_read(spec, shape) for spec, shape in zip(specs, shapes, strict=True)]
    batch = np.array([s.batch for s in shapes], float)
    costs = _costs(specs, num_classes, shapes)
    singles = _costs(specs, num_classes, [_single(s) for s in shapes])
    operators = np.array([c.num_operators for c in costs])
    found = {
        "run": np.ones(len(specs)),
        "batch": batch,
        "operators": operators,
        "batch_operators": operators * batch,
        "flops": np.array([c.flops for c in costs]),
        "activation_bytes": np.array([c.activation_bytes for c in costs]),
        "weight_bytes": np.array([c.weight_bytes for c in costs]),
        "batch_weight_bytes": batch * np.array([c.weight_bytes for c in singles]),
        "single_flops": np.array([c.flops for c in singles]),
        "answers": batch * np.array(num_classes, float),
    }
    if shapes[0].tokens:
        return found | _text(specs, num_classes, shapes, operators, singles)
    return found | _pictures(specs, shapes)


def _read(spec: StudentSpec, shape: InputShape) -> InputShape:
    """What of it the graph reads: tokens past max_length are cut off."""
    longest = getattr(spec, "max_length", shape.tokens)
    return shape if shape.tokens <= longest else shape.model_copy(update={"tokens": longest})


def _single(shape: InputShape) -> InputShape:
    """One row of one token, or one picture."""
    return shape.model_copy(update={"batch": 1, "tokens": min(shape.tokens, 1)})


def _costs(specs: Sequence[StudentSpec], num_classes: Sequence[int], shapes: Sequence[InputShape]) -> list[GraphCost]:
    backbone = backbone_of(specs[0])
    known: dict[tuple[int, int, InputShape], GraphCost] = {}  # the same specs come with several shapes, and batches
    found = []
    for spec, classes, shape in zip(specs, num_classes, shapes, strict=True):
        key = (id(spec), classes, shape)
        if key not in known:
            known[key] = backbone.cost(spec, classes, shape)
        found.append(known[key])
    return found


def _fields(specs: Sequence[StudentSpec], name: str, default: int = 0) -> np.ndarray:
    import numpy as np

    return np.array([getattr(spec, name, default) for spec in specs], float)


def _text(
    specs: Sequence[StudentSpec],
    num_classes: Sequence[int],
    shapes: Sequence[InputShape],
    operators: np.ndarray,
    singles: Sequence[GraphCost],
) -> dict[str, np.ndarray]:
    import numpy as np

    batch, tokens = (np.array([getattr(s, name) for s in shapes], float) for name in ("batch", "tokens"))
    tiled = _tiled(tokens, TILE)
    padded = [s.model_copy(update={"tokens": int(t)}) for s, t in zip(shapes, tiled, strict=True)]
    costs = _costs([_uncut(spec, s) for spec, s in zip(specs, padded, strict=True)], num_classes, padded)
    layers = _fields(specs, "num_hidden_layers", 1)
    rows = {"": np.ones(len(specs)), "batch_": batch, "token_": batch * tokens, "tile_": batch * tiled}
    found = {
        "tokens": batch * tokens,
        "token_operators": operators * batch * tokens,
        "tiled_flops": np.array([c.flops for c in costs]),
        "tiled_activation_bytes": np.array([c.activation_bytes for c in costs]),
        "batch_single_activation_bytes": batch * np.array([c.activation_bytes for c in singles]),
    }
    for name in (n for n in WIDTHS if hasattr(specs[0], n)):
        width = _fields(specs, name)
        for prefix, count in rows.items():
            found |= {f"{prefix}{name}": count * width, f"{prefix}layer_{name}": layers * count * width}
    if hasattr(specs[0], "num_attention_heads"):
        found |= _attention(
            layers, batch, tokens, tiled, _fields(specs, "num_attention_heads"), width=_fields(specs, "hidden_size")
        )
    return found


def _attention(
    layers: np.ndarray, batch: np.ndarray, tokens: np.ndarray, tiled: np.ndarray, heads: np.ndarray, width: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "heads": layers * batch * heads,
        "head_tokens": layers * batch * heads * tokens,
        "scores": layers * batch * heads * tokens**2,
        "tiled_scores": layers * batch * heads * tokens * tiled,
        "mixing": layers * batch * tokens**2 * width,
        "tiled_mixing": layers * batch * tokens * tiled * width,
        "square_tiled_mixing": layers * batch * tiled**2 * width,
    }


def _uncut(spec: StudentSpec, shape: InputShape) -> StudentSpec:
    """Whole tiles may reach past max_length."""
    longest = getattr(spec, "max_length", shape.tokens)
    return spec if shape.tokens <= longest else spec.model_copy(update={"max_length": shape.tokens})


def _pictures(specs: Sequence[StudentSpec], shapes: Sequence[InputShape]) -> dict[str, np.ndarray]:
    """By stages that halve the picture and double the channels, where the spec has such; channels in whole tiles."""
    import numpy as np

    batch = np.array([s.batch for s in shapes], float)
    side = np.sqrt(np.array([s.height * s.width for s in shapes], float))
    found = {"pixels": batch * side**2 * _fields(specs, "channels", 3)}
    if not (hasattr(specs[0], "width") and hasattr(specs[0], "num_stages")):
        return found
    layers = _fields(specs, "layers_per_stage", 1) * _fields(specs, "blocks_per_stage", 1)
    stages, width, stem = _fields(specs, "num_stages"), _fields(specs, "width"), _fields(specs, "stem_stride", 1)
    names = ("channel_pairs", "wide_channel_pairs", "pair_rows", "rows", "channel_rows", "weights", "channels_out",
             "wide_channels_out", "positions", "stages")  # fmt: skip
    sums = {name: np.zeros(len(specs)) for name in names}
    for stage in range(int(stages.max())):
        there = stages > stage
        high = np.ceil(side / (stem * 2**stage))
        out, wide, before = (_tiled(width * 2**s, t) for s, t in ((stage, TILE), (stage, WIDE_TILE), (stage - 1, TILE)))
        pairs = (layers - 1) * out + (before if stage else 0)  # channels read, over the layers of the stage
        of_stage = (
            pairs * out * high**2,
            pairs * wide * high**2,
            pairs * out * high,
            layers * high,
            layers * out * high,
            pairs * out,
            layers * out * high**2,
            layers * wide * high**2,
            layers * high**2,
            layers,
        )
        for name, value in zip(names, of_stage, strict=True):
            sums[name] += np.where(there, value, 0.0)
    first = np.ceil(side / stem)
    whole = {"weights", "stages"}  # of the graph, not of each picture
    found |= {name: value if name in whole else batch * value for name, value in sums.items()}
    found |= {f"batch_{name}": batch * sums[name] for name in whole}
    # What the last layer writes is also read for the mean, in fp32. One stage more leaves less of it, and adds at least
    # that much convolution: together they never fall.
    last = width * 2 ** (stages - 1) * np.ceil(side / (stem * 2 ** (stages - 1))) ** 2
    found["last_layer"] = batch * (last + sums["channel_pairs"] / TILE)
    found["first_layer"] = batch * first**2 * _tiled(width, TILE) * _fields(specs, "channels", 3)
    found["first_rows"] = batch * first * _tiled(width, TILE)
    return found


def _tiled(value: np.ndarray, tile: int) -> np.ndarray:
    import numpy as np

    found: np.ndarray = np.ceil(value / tile) * tile
    return found
