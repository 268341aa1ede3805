"""One picture in, one class out. Preprocessing is declared: mode, size, normalisation; the runner does the same."""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeGuard

from kdexport.backbones import InputShape
from kdexport.errors import BadInput
from kdexport.measure.environment import memory_limit_bytes
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw
from kdexport.tasks import NONE, Neighbours, Prepared, Row, as_raw
from kdexport.tasks._views import REACH, View, is_exact, mirror_keeps_class, moved, views

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from kdexport.bundle.runner.image import ImageEncoder

input_kind: Literal["text", "image"] = "image"
VARIANTS_KEEP_CLASS = True
COMPARED = 10_000  # pictures by which mirroring is judged
SAMPLE = 2000  # pictures read to find size and mean
MAX_SIDE = 512
MEMORY_SHARE = 0.6  # of what the process may use, for pixels: files, the model and its gradients need the rest
CHANNELS: dict[str, int] = {"L": 1, "RGB": 3}


@dataclass(frozen=True)
class EncodedImages:
    """pixels: uint8 (P, C, H, W) of the pictures that the N rows are, or are views of."""

    pixels: np.ndarray
    lengths: np.ndarray
    encoder: ImageEncoder  # the one that ships
    picture: np.ndarray  # int64 (N,), of each row
    shift: np.ndarray  # int64 (N, 2), pixels across and down
    mirrored: np.ndarray  # bool (N,)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        return self.views(rows, self.shift[rows], self.mirrored[rows])

    def views(self, rows: np.ndarray, shift: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
        """float32 (B, C, H, W) of the pictures of `rows`, seen by shifts (B, 2) and mirrored (B,). In memory channels
        stand last: convolutions train up to a quarter faster so."""
        normalised: np.ndarray = self.encoder.normalise(moved(self.pixels, self.picture[rows], shift, mirrored))
        return normalised

    def drawn(self, rows: np.ndarray) -> np.ndarray:
        """As `views`, of shifts and mirror images drawn anew, by torch's random state (which a checkpoint holds)."""
        import torch

        height, width = self.pixels.shape[2:]
        shifts = [torch.randint(-(side // REACH), side // REACH + 1, (len(rows),)) for side in (width, height)]
        mirrored = torch.randint(2, (len(rows),)).bool()
        return self.views(rows, torch.stack(shifts, dim=1).numpy(), mirrored.numpy())

    def shape(self, batch: int = 1) -> InputShape:
        _, channels, height, width = self.pixels.shape
        return InputShape(batch=batch, channels=channels, height=height, width=width)


def prepare(inputs: Sequence[Raw], teacher_tokenizer: str, vocab_size: int) -> Prepared:
    """Mode, size and normalisation from the pictures themselves, of which one is decoded at a time."""
    chosen = sorted(random.Random(0).sample(range(len(inputs)), min(SAMPLE, len(inputs))))
    sizes, modes = zip(*((p.size, p.mode) for p in (_open(inputs[i], i) for i in chosen)), strict=True)
    (width, height), _ = Counter(sizes).most_common(1)[0]
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"the usual picture is {width} x {height}; shrink the data to at most {MAX_SIDE} on a side")
    mode: Literal["L", "RGB"] = "L" if all(m in ("L", "1", "I;16") for m in modes) else "RGB"
    mean, std = _mean_and_std((_open(inputs[i], i) for i in chosen), mode, width, height)
    spec = Preprocessor(
        kind="image",
        mode=mode,
        height=height,
        width=width,
        mean=tuple(round(m, 6) for m in mean),
        std=tuple(round(s + 1e-6, 6) for s in std),
    )
    return Prepared(spec)


def _mean_and_std(
    pictures: Iterable[Image.Image], mode: str, width: int, height: int
) -> tuple[list[float], list[float]]:
    """Of pixels scaled to 0..1, by channel. Sums are of whole numbers: exact, whatever the order."""
    import numpy as np

    from kdexport.bundle.runner.image import pixels_of

    count, sums, squares = 0, [0] * CHANNELS[mode], [0] * CHANNELS[mode]
    for picture in pictures:
        pixels = pixels_of(picture, mode, width, height).astype(np.int64).reshape(CHANNELS[mode], -1)
        count += pixels.shape[1]
        sums = [a + int(b) for a, b in zip(sums, pixels.sum(1), strict=True)]
        squares = [a + int(b) for a, b in zip(squares, (pixels * pixels).sum(1), strict=True)]
    mean = [s / (255 * count) for s in sums]
    std = [math.sqrt(count * q - s * s) / (255 * count) for s, q in zip(sums, squares, strict=True)]
    return mean, std


def vocab_sizes(inputs: Sequence[Raw], teacher_tokenizer: str) -> list[int]:
    """Pictures have no vocabulary."""
    return [0]


def require_memory(rows: int, channels: int, height: int, width: int) -> None:
    """Raises BadInput where so many pictures do not fit into this process's memory as pixels, one byte a channel."""
    wanted, allowed = rows * channels * height * width, MEMORY_SHARE * memory_limit_bytes()
    if wanted > allowed:
        raise BadInput(
            f"{rows:,} pictures of {width} x {height} x {channels} are {wanted / 2**30:.2f} GiB of pixels; "
            f"{allowed / 2**30:.2f} GiB are allowed ({MEMORY_SHARE:g} of this process's memory): "
            "lower training.augment_per_row, give fewer rows, or shrink the pictures"
        )


def encode(prepared: Prepared, inputs: Sequence[Row]) -> EncodedImages:
    """Raises BadInput for a picture that cannot be decoded, or more of them than memory holds.

    A picture and its views are one picture in memory, where moving pixels commutes with the preprocessing."""
    import numpy as np

    from kdexport.bundle.runner.image import ImageEncoder, pixels_of

    p = prepared.preprocessor
    movable = {view.source: is_exact(view.source, p.width, p.height) for view in inputs if isinstance(view, View)}
    sources = [row.source if _shifts(row) and movable[row.source] else as_raw(row) for row in inputs]
    picture_of: dict[Raw, int] = {}
    picture = np.array([picture_of.setdefault(source, len(picture_of)) for source in sources], dtype=np.int64)
    require_memory(len(picture_of), CHANNELS[p.mode], p.height, p.width)
    pixels = np.empty((len(picture_of), CHANNELS[p.mode], p.height, p.width), dtype=np.uint8)
    shift = np.zeros((len(inputs), 2), dtype=np.int64)
    mirrored = np.zeros(len(inputs), dtype=bool)
    decoded = 0
    for i, (row, source) in enumerate(zip(inputs, sources, strict=True)):
        if picture[i] == decoded:
            pixels[decoded] = pixels_of(_open(source, i), p.mode, p.width, p.height)
            decoded += 1
        if _shifts(row) and source is row.source:
            shift[i], mirrored[i] = row.shift(p.width, p.height), row.mirrored
    encoder = ImageEncoder(p.model_dump())
    return EncodedImages(pixels, np.ones(len(inputs), dtype=np.int64), encoder, picture, shift, mirrored)


def _shifts(row: Row) -> TypeGuard[View]:
    return isinstance(row, View) and row.degrees is None


def augment(
    inputs: Sequence[Raw], per_row: int, seed: int, labels: np.ndarray | None = None, neighbours: Neighbours = NONE
) -> list[View]:
    """per_row views of each picture, for the teacher to label. labels: int64 (N,), by which is found whether a
    mirrored picture keeps its class; absent: none is mirrored, a digit or a letter would change its meaning."""
    return views(inputs, per_row, seed, per_row > 0 and mirrors(inputs, labels))


def near_words(inputs: Sequence[Raw], teacher_tokenizer: str, embedding: np.ndarray | None) -> Neighbours:
    """Pictures have no words."""
    return NONE


def worth_pieces(variants: Sequence[Row], per_row: int, neighbours: Neighbours) -> list[Raw]:
    """Pictures have no vocabulary."""
    return []


def mirrors(inputs: Sequence[Raw], labels: np.ndarray | None) -> bool:
    """Does a mirrored picture keep its class? By the nearest neighbours of distinct pictures; told in the log."""
    import numpy as np

    if labels is None:
        return False
    distinct = list({raw: i for i, raw in enumerate(inputs)}.values())
    chosen = sorted(random.Random(0).sample(distinct, min(COMPARED, len(distinct))))
    some = [inputs[i] for i in chosen]
    pixels = encode(prepare(some, "", 0), some).pixels
    return mirror_keeps_class(pixels, np.asarray(labels)[chosen])


def _open(raw: Raw, index: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    assert isinstance(raw, bytes)
    try:
        picture = Image.open(io.BytesIO(raw))
        picture.load()
        return picture
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
        raise BadInput(f"image {index + 1} cannot be decoded ({e}); PNG, JPEG, BMP and WebP are read") from e
