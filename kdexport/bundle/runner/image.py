"""Image file to the tensor that the graph reads: decode, convert, resize, scale, normalise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

MAX_PIXELS = 1 << 26  # 67 M: a photograph of any camera passes, a decompression bomb does not


class BadImage(ValueError):
    """A file that cannot be read as an image; the message names it."""


def pixels_of(picture: Any, mode: str, width: int, height: int) -> Any:
    """uint8 (C, H, W) of a Pillow image: converted to `mode` (L or RGB), resized bilinearly where the size differs."""
    from PIL import Image

    pillow: Any = Image
    picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), pillow.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


class ImageEncoder:
    """Decode -> mode -> (width, height), bilinear, only where the size differs -> / 255 -> (x - mean) / std."""

    def __init__(self, preprocessor: dict[str, Any]) -> None:
        """`preprocessor`: as in manifest.json (mode, height, width, mean, std)."""
        from PIL import Image

        self._pillow: Any = Image
        self._mode = preprocessor["mode"]
        self._size = (preprocessor["width"], preprocessor["height"])
        self._mean = np.array(preprocessor["mean"], np.float32).reshape(-1, 1, 1)
        self._std = np.array(preprocessor["std"], np.float32).reshape(-1, 1, 1)

    def encode(self, source: str | bytes | Path) -> Any:
        """float32 (1, C, H, W) of a file's path or its bytes. Raises BadImage."""
        name = f"image of {len(source):,} bytes" if isinstance(source, bytes) else str(source)
        try:
            with self._pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(f"{name}: {image.width} x {image.height} pixels is over {MAX_PIXELS:,}")
                pixels = pixels_of(image, self._mode, *self._size)
        except BadImage:
            raise
        except (OSError, ValueError, SyntaxError, self._pillow.DecompressionBombError) as e:
            reason = getattr(e, "strerror", None) or "not an image that Pillow can decode, or a truncated one"
            raise BadImage(f"{name}: cannot be read ({reason})") from e
        return self.normalise(pixels[None])

    def normalise(self, pixels: Any) -> Any:
        """float32 of the same shape, of uint8 pixels (B, C, H, W)."""
        return (pixels.astype(np.float32) / np.float32(255) - self._mean) / self._std

    def encode_batch(self, sources: list[str | bytes | Path]) -> Any:
        """float32 (B, C, H, W)."""
        return np.concatenate([self.encode(source) for source in sources])
