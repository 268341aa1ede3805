"""Views of a picture, for the teacher to label and the student to learn from: references until pixels are wanted.

Where a mirrored picture keeps its class (photographs), a view is shifted and perhaps mirrored; what leaves the picture
on one side is reflected in on the other. Where it does not (digits, letters), a view is shifted and turned a little."""

from __future__ import annotations

import io
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdexport.storage.tables import Raw

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

log = logging.getLogger(__name__)
REACH = 8  # a picture is shifted by at most this part of its side: 4 pixels of 32
TURN_DEGREES = 6.0  # standard deviation
EXACT_MODES = ("L", "RGB", "RGBA")  # moving pixels and converting the mode may change places
ASKED, NEIGHBOURS = 2000, 8000  # pictures classified, and those that they are compared with
VOTES = 10  # nearest neighbours that choose a class
THUMBNAIL = 16  # pixels a side at most, for comparing
KEPT_SHARE = 0.9  # of the right answers that must stay right in the mirror: CIFAR-10 0.98, digits 0.36
ABOVE_CHANCE = 1.3  # neighbours that are no better than the largest class prove nothing


@dataclass(frozen=True, slots=True)
class View:
    """An image file seen otherwise. across, down: places in 0..1 of the range that the shift is drawn from."""

    source: bytes
    across: float
    down: float
    mirrored: bool = False
    degrees: float | None = None  # of a turned view; None: edges are reflected

    def render(self) -> Raw:
        """As a PNG file, of the source's size."""
        from PIL import Image

        with Image.open(io.BytesIO(self.source)) as opened:
            picture = opened.convert("RGB") if opened.mode == "CMYK" else opened  # which PNG cannot hold
            seen = self._turned(picture) if self.degrees is not None else self._moved(picture)
        buffer = io.BytesIO()
        seen.save(buffer, "PNG", compress_level=0)  # read once, soon: compressing costs as much again as all else
        return buffer.getvalue()

    def _turned(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        assert self.degrees is not None
        reach = max(picture.size) / REACH
        dx, dy = (round(reach * (2 * place - 1)) for place in (self.across, self.down))
        return picture.rotate(self.degrees, resample=Image.Resampling.BILINEAR, translate=(dx, dy))

    def _moved(self, picture: Image.Image) -> Image.Image:
        import numpy as np
        from PIL import Image

        exact = picture if picture.mode in EXACT_MODES else picture.convert("RGB")
        (dx, dy), pixels = self.shift(*exact.size), np.asarray(exact)
        rows, columns = places(exact.height, [dy], [False])[0], places(exact.width, [dx], [self.mirrored])[0]
        return Image.fromarray(np.ascontiguousarray(pixels[rows][:, columns]))

    def shift(self, width: int, height: int) -> tuple[int, int]:
        """(across, down) in whole pixels: every shift of the range is as likely."""
        reaches = ((self.across, width // REACH), (self.down, height // REACH))
        dx, dy = (int(place * (2 * reach + 1)) - reach for place, reach in reaches)
        return dx, dy


def is_exact(source: bytes, width: int, height: int) -> bool:
    """Is a picture of this size already, and does moving its pixels commute with converting its mode?"""
    from PIL import Image

    with Image.open(io.BytesIO(source)) as picture:  # reads the header alone
        return picture.mode in EXACT_MODES and picture.size == (width, height)


def views(inputs: Sequence[Raw], per_row: int, seed: int, mirror: bool) -> list[View]:
    """per_row views of each picture, row after row of the first, then of the second ...: the same for the same seed."""
    chance = random.Random(seed)
    return [_drawn(raw, chance, mirror) for _ in range(per_row) for raw in inputs]


def _drawn(raw: Raw, chance: random.Random, mirror: bool) -> View:
    assert isinstance(raw, bytes)
    across, down = chance.random(), chance.random()
    if mirror:
        return View(raw, across, down, mirrored=chance.random() < 0.5)
    return View(raw, across, down, degrees=chance.gauss(0, TURN_DEGREES))


def places(side: int, shifts: Sequence[int] | np.ndarray, mirrored: Sequence[bool] | np.ndarray) -> np.ndarray:
    """int64 (B, side): where each pixel of a shifted line comes from; beyond an end the line is reflected."""
    import numpy as np

    found: np.ndarray = np.abs(np.arange(side) + np.asarray(shifts)[:, None])
    found = (side - 1) - np.abs((side - 1) - found)
    found = np.where(np.asarray(mirrored)[:, None], found[:, ::-1], found)
    return found


def moved(pixels: np.ndarray, rows: np.ndarray, shifts: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Pixels (B, C, H, W) of the pictures `rows` of (N, C, H, W), by shifts (B, 2) across and down, mirrored (B,)."""
    import numpy as np

    height, width = pixels.shape[2:]
    down = places(height, shifts[:, 1], np.zeros(len(rows), dtype=bool))
    across = places(width, shifts[:, 0], mirrored)
    channels_last = pixels[rows[:, None, None], :, down[:, :, None], across[:, None, :]]
    seen: np.ndarray = channels_last.transpose(0, 3, 1, 2)
    return seen


def mirror_keeps_class(pixels: np.ndarray, labels: np.ndarray, seed: int = 0) -> bool:
    """Do nearest neighbours know mirrored pictures as well as the pictures themselves? Told in the log.

    pixels: uint8 (N, C, H, W), distinct pictures. labels: int64 (N,). False where there is no evidence."""
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier

    order = np.random.default_rng(seed).permutation(len(labels))[: ASKED + NEIGHBOURS]
    cut = min(ASKED, len(order) // 4)
    asked, others = order[:cut], order[cut:]
    if not len(asked):
        return False
    neighbours = KNeighborsClassifier(min(VOTES, len(others)), weights="distance", algorithm="brute")
    neighbours.fit(_thumbnails(pixels[others]), labels[others])
    plain, mirrored = (
        float((neighbours.predict(_thumbnails(seen)) == labels[asked]).mean())
        for seen in (pixels[asked], pixels[asked][..., ::-1])
    )
    chance = max(Counter(labels[asked].tolist()).values()) / len(asked)
    keeps = plain >= ABOVE_CHANCE * chance and mirrored >= KEPT_SHARE * plain
    log.info(
        "mirror=%s nearest_neighbour_accuracy=%.3f mirrored=%.3f largest_class=%.3f n=%d",
        *("yes" if keeps else "no", plain, mirrored, chance, len(asked)),
    )
    return keeps


def _thumbnails(pixels: np.ndarray) -> np.ndarray:
    """float32 (N, D): means over blocks of pixels, each picture with mean 0 and length 1."""
    import numpy as np

    height, width = pixels.shape[2:]
    block_h, block_w = -(-height // THUMBNAIL), -(-width // THUMBNAIL)
    cut = pixels[:, :, : height // block_h * block_h, : width // block_w * block_w].astype(np.float32)
    small = cut.reshape(*cut.shape[:2], height // block_h, block_h, width // block_w, block_w).mean((3, 5))
    flat = small.reshape(len(pixels), -1)
    flat -= flat.mean(1, keepdims=True)
    result: np.ndarray = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
    return result
