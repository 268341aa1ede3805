"""One picture in, one class out. Preprocessing is declared: mode, size, normalisation; the runner does the same."""

from __future__ import annotations

import io
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdexport.backbones import InputShape
from kdexport.errors import BadInput
from kdexport.measure.environment import memory_limit_bytes
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
MEMORY_SHARE = 0.6  # of what the process may use, for pixels: files, the model and its gradients need the rest
CHANNELS: dict[str, int] = {"L": 1, "RGB": 3}


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


def encode(prepared: Prepared, inputs: Sequence[Raw]) -> EncodedImages:
    """Raises BadInput for a picture that cannot be decoded, or more of them than memory holds."""
    import numpy as np

    from kdexport.bundle.runner.image import ImageEncoder, pixels_of

    p = prepared.preprocessor
    shape = (CHANNELS[p.mode], p.height, p.width)
    require_memory(len(inputs), *shape)
    pixels = np.empty((len(inputs), *shape), dtype=np.uint8)
    for i, raw in enumerate(inputs):
        pixels[i] = pixels_of(_open(raw, i), p.mode, p.width, p.height)
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
