"""One picture in, one class out. Preprocessing is declared: mode, size, normalisation; the runner does the same."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdexport.backbones import InputShape
from kdexport.errors import BadInput
from kdexport.nouns.manifest import Preprocessor
from kdexport.storage.tables import Raw
from kdexport.tasks import Prepared

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from kdexport.bundle.runner.image import ImageEncoder

input_kind: Literal["text", "image"] = "image"
SAMPLE = 2000  # pictures read to find size and mean
MAX_SIDE = 512


@dataclass(frozen=True)
class EncodedImages:
    """pixels: uint8 (N, C, H, W)."""

    pixels: np.ndarray
    lengths: np.ndarray
    encoder: ImageEncoder  # the one that ships

    def batch(self, rows: np.ndarray) -> np.ndarray:
        normalised: np.ndarray = self.encoder.normalise(self.pixels[rows])
        return normalised

    def shape(self, batch: int = 1) -> InputShape:
        _, channels, height, width = self.pixels.shape
        return InputShape(batch=batch, channels=channels, height=height, width=width)


def prepare(inputs: Sequence[Raw], teacher_tokenizer: str, vocab_size: int) -> Prepared:
    """Mode, size and normalisation from the pictures themselves."""
    import numpy as np

    from kdexport.bundle.runner.image import pixels_of

    chosen = random.Random(0).sample(range(len(inputs)), min(SAMPLE, len(inputs)))
    pictures = [_open(inputs[i], i) for i in sorted(chosen)]
    (width, height), _ = Counter(p.size for p in pictures).most_common(1)[0]
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"the usual picture is {width} x {height}; shrink the data to at most {MAX_SIDE} on a side")
    mode: Literal["L", "RGB"] = "L" if all(p.mode in ("L", "1", "I;16") for p in pictures) else "RGB"
    pixels = np.stack([pixels_of(p, mode, width, height) for p in pictures]) / 255.0
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)) + 1e-6
    spec = Preprocessor(
        kind="image",
        mode=mode,
        height=height,
        width=width,
        mean=tuple(round(float(m), 6) for m in mean),
        std=tuple(round(float(s), 6) for s in std),
    )
    return Prepared(spec)


def vocab_sizes(inputs: Sequence[Raw], teacher_tokenizer: str) -> list[int]:
    """Pictures have no vocabulary."""
    return [0]


def encode(prepared: Prepared, inputs: Sequence[Raw]) -> EncodedImages:
    import numpy as np

    from kdexport.bundle.runner.image import ImageEncoder, pixels_of

    p = prepared.preprocessor
    pixels = np.stack([pixels_of(_open(raw, i), p.mode, p.width, p.height) for i, raw in enumerate(inputs)])
    return EncodedImages(pixels, np.ones(len(inputs), dtype=np.int64), ImageEncoder(p.model_dump()))


def augment(inputs: Sequence[Raw], per_row: int, seed: int) -> list[Raw]:
    """Shifted by up to an eighth and slightly rotated views, as PNG files, for the teacher to label.
    No mirror image: a digit or a letter changes its meaning."""
    chance = random.Random(seed)
    return [_view(raw, i, chance) for _ in range(per_row) for i, raw in enumerate(inputs)]


def _view(raw: Raw, index: int, chance: random.Random) -> bytes:
    from PIL import Image

    picture = _open(raw, index)
    if picture.mode == "CMYK":  # which PNG cannot hold
        picture = picture.convert("RGB")
    reach = max(picture.size) / 8
    dx, dy, degrees = chance.uniform(-reach, reach), chance.uniform(-reach, reach), chance.gauss(0, 6)
    changed = picture.rotate(degrees, resample=Image.Resampling.BILINEAR, translate=(round(dx), round(dy)))
    buffer = io.BytesIO()
    changed.save(buffer, "PNG")
    return buffer.getvalue()


def _open(raw: Raw, index: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    assert isinstance(raw, bytes)
    try:
        picture = Image.open(io.BytesIO(raw))
        picture.load()
        return picture
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
        raise BadInput(f"image {index + 1} cannot be decoded ({e}); PNG, JPEG, BMP and WebP are read") from e
