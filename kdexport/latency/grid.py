"""Which graphs a calibration times: low-discrepancy draws over sizes and shapes, the same for every project.

Sizes are drawn by the *name* of the Spec's field, so a backbone whose fields use the package's words is spanned
without a word here; one with other fields is spanned by its own `candidates`. Widths are those of the search spaces,
whole tiles: what an odd width costs is not asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, Any, TypeVar

from annotated_types import Ge
from pydantic import ValidationError

from kdexport.backbones import Backbone, InputShape
from kdexport.nouns.spec import StudentSpec

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
MAX_LENGTH = 128
# field -> (lowest, highest, multiple of); drawn uniformly in the logarithm
SIZES = {"vocab_size": (512, 32_768, 1), "hidden_size": (64, 512, 32)}
# drawn uniformly
COUNTS = {"num_hidden_layers": (0, 6), "num_stages": (1, 5), "layers_per_stage": (1, 3), "blocks_per_stage": (1, 3)}
CHOICES = {
    "channels": (1, 3),
    "max_length": (MAX_LENGTH,),
    "stem_stride": (1, 2, 4),
    "width": (8, 16, 32, 48, 64, 96, 128, 160, 192, 256),
}
OF_HIDDEN_SIZE = {"embedding_size": (1 / 8, 1.0), "intermediate_size": (1.0, 4.0)}  # shares of it, multiples of 16
HEAD_SIZES = (32, 64)
ABSENT_SHARE = 0.25
SHALLOW = 1.3  # power of the share: more shallow graphs than deep ones, since depth adds up and NNCF is slow
DEFAULT_HIDDEN = 128
KNOWN = {*SIZES, *COUNTS, *CHOICES, *OF_HIDDEN_SIZE, "num_attention_heads"}
WIDEST = 512  # channels of the last stage
CLASSES = (2, 256)
TOKENS = (4, 128)
BATCH = (1, 32)
SIDE = (8, 128)
SMALLEST_LAST_SIDE = 2
MOST_MISSES = 200  # draws in a row whose sizes do not go together: then the backbone's own candidates are drawn from
SHAPE_DIMENSIONS = 2  # length or side, and batch
LARGEST, SMALLEST = 1 - 1e-9, 0.0


@dataclass(frozen=True)
class PlannedGraph:
    spec: StudentSpec
    num_classes: int
    shapes: tuple[InputShape, ...]


def planned(backbone: Backbone, shapes_per_graph: int, seed: int) -> Iterator[PlannedGraph]:
    """Endless: any first part spans sizes and shapes (scrambled Sobol sequence; Owen 1998). The largest and smallest
    graphs come first: a speed that changes with size must not be guessed beyond the last one timed."""
    fields = [name for name in backbone.Spec.model_fields if name != "backbone"]
    corners = _sobol(SHAPE_DIMENSIONS, seed + 1)
    misses = 0
    for position in chain(_ends(fields), _sobol(len(fields) + 1, seed)):
        spec = draw_spec(backbone, [_skewed(*pair) for pair in zip(fields, position, strict=False)])
        misses = misses + 1 if spec is None else 0
        if spec is None and misses < MOST_MISSES:
            continue
        spec = spec or _from_candidates(backbone, position[0])
        shapes = draw_shapes(backbone, spec, [next(corners) for _ in range(shapes_per_graph)])
        yield PlannedGraph(spec, _log_between(position[-1], *CLASSES), shapes)


def _ends(fields: Sequence[str]) -> Iterator[list[float]]:
    """Large and small in everything, wide and shallow, narrow and deep; the last share is that of the classes."""
    for widths, depths in product((LARGEST, SMALLEST), repeat=2):
        yield [*(depths if name in COUNTS else widths for name in fields), widths]


def _skewed(name: str, share: float) -> float:
    return float(share**SHALLOW) if name in COUNTS else share


def draw_spec(backbone: Backbone, position: Sequence[float]) -> StudentSpec | None:
    """The spec at a position in the unit cube, one axis a field; None where the sizes there do not go together."""
    at = dict(zip((n for n in backbone.Spec.model_fields if n != "backbone"), position, strict=True))
    if not KNOWN.issuperset(at):
        return _from_candidates(backbone, next(iter(at.values()), 0.0))
    sizes: dict[str, Any] = {}
    for name, share in sorted(at.items(), key=lambda item: item[0] in OF_HIDDEN_SIZE or item[0] not in SIZES):
        sizes[name] = _size(name, share, _lowest(backbone, name), sizes.get("hidden_size") or DEFAULT_HIDDEN)
    if sizes.get("width", 0) << (sizes.get("num_stages", 1) - 1) > WIDEST:
        return None
    try:
        return backbone.Spec.model_validate(sizes)
    except ValidationError:
        return None


def draw_shapes(backbone: Backbone, spec: StudentSpec, positions: Sequence[Sequence[float]]) -> tuple[InputShape, ...]:
    """Different shapes at positions in the unit square. Pictures share the first one's side: a graph fixes it."""
    batches = [_log_between(batch, *BATCH) for _, batch in positions]
    if backbone.input_kind == "text":
        lengths = [_log_between(length, *TOKENS) for length, _ in positions]
        shapes = [InputShape(batch=b, tokens=t) for b, t in zip(batches, lengths, strict=True)]
    else:
        smallest = max(
            SIDE[0], SMALLEST_LAST_SIDE * getattr(spec, "stem_stride", 1) << (getattr(spec, "num_stages", 1) - 1)
        )
        side = _log_between(positions[0][0], smallest, SIDE[1])
        shapes = [InputShape(batch=b, channels=getattr(spec, "channels", 3), height=side, width=side) for b in batches]
    return tuple(dict.fromkeys(shapes))


def random_input(spec: StudentSpec, shape: InputShape, seed: int = 0) -> np.ndarray:
    """int64 (B, T) ids without padding, or float32 (B, C, H, W) noise."""
    import numpy as np

    chance = np.random.default_rng(seed)
    if shape.tokens:
        return chance.integers(1, getattr(spec, "vocab_size", 2), (shape.batch, shape.tokens))
    return chance.standard_normal((shape.batch, shape.channels, shape.height, shape.width), dtype=np.float32)


def _size(name: str, share: float, lowest: int, hidden_size: int) -> int:
    if name in SIZES:
        low, high, multiple = SIZES[name]
        if lowest == 0:  # a part that may be left out, and is in a quarter of the draws
            share = max(0.0, share - ABSENT_SHARE) / (1 - ABSENT_SHARE)
            if share == 0.0:
                return 0
        return round(_log_between(share, low, high) / multiple) * multiple
    if name in COUNTS:
        low, high = max(COUNTS[name][0], lowest), COUNTS[name][1]
        return low + min(int(share * (high - low + 1)), high - low)
    if name in OF_HIDDEN_SIZE:
        low_share, high_share = OF_HIDDEN_SIZE[name]
        wanted: float = hidden_size * low_share * (high_share / low_share) ** share
        return max(16, round(wanted / 16) * 16)
    if name == "num_attention_heads":
        fitting = [hidden_size // size for size in HEAD_SIZES if hidden_size % size == 0]
        return _pick(fitting, share)
    return _pick(CHOICES[name], share)


def _lowest(backbone: Backbone, name: str) -> int:
    bounds = [m.ge for m in backbone.Spec.model_fields[name].metadata if isinstance(m, Ge)]
    return int(str(bounds[0])) if bounds else 0


def _from_candidates(backbone: Backbone, share: float) -> StudentSpec:
    shape = (
        InputShape(tokens=MAX_LENGTH) if backbone.input_kind == "text" else InputShape(channels=3, height=32, width=32)
    )
    return _pick(list(backbone.candidates(CLASSES[1], shape, [2_048, 8_192, 32_768])), share)


def _pick(choices: Sequence[T], share: float) -> T:
    return choices[min(int(share * len(choices)), len(choices) - 1)]


def _log_between(share: float, low: int, high: int) -> int:
    """Whole number, uniform in the logarithm, both ends included."""
    return min(max(int((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** share + 0.5), low), high)


def _sobol(dimensions: int, seed: int) -> Iterator[Sequence[float]]:
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, seed=seed)
    while True:
        yield from engine.random(64).tolist()
