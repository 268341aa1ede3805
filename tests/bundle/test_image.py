from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdexport.bundle.runner import image as runner_image
from kdexport.bundle.runner.image import BadImage, ImageEncoder

from .conftest import png

RGB = {"mode": "RGB", "height": 4, "width": 6, "mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 1.0]}
GREY = {"mode": "L", "height": 4, "width": 4, "mean": [0.0], "std": [1.0]}


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    pixels = ImageEncoder(RGB).encode(png((255, 0, 51), size=(6, 4)))
    assert pixels.dtype == np.float32
    assert pixels.shape == (1, 3, 4, 6)
    assert np.allclose(pixels[0, :, 0, 0], [1.0, -1.0, 0.2])


def test_another_size_is_resized_bilinearly_and_the_same_size_is_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "PNG")
    wanted = np.asarray(Image.fromarray(noise).resize((4, 4), Image.Resampling.BILINEAR), np.float32) / np.float32(255)
    assert np.array_equal(ImageEncoder(GREY).encode(data.getvalue())[0, 0], wanted)
    same = ImageEncoder({**GREY, "height": 8, "width": 8}).encode(data.getvalue())
    assert np.array_equal(same[0, 0], noise / np.float32(255))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_any_mode_is_converted(mode: str) -> None:
    data = io.BytesIO()
    Image.new(mode, (6, 4)).save(data, "TIFF")
    assert ImageEncoder(RGB).encode(data.getvalue()).shape == (1, 3, 4, 6)


def test_a_batch_of_paths_and_bytes_is_stacked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(size=(6, 4)))
    pixels = ImageEncoder(RGB).encode_batch([tmp_path / "a.png", str(tmp_path / "a.png"), png(size=(9, 9))])
    assert pixels.shape == (3, 3, 4, 6)
    assert np.array_equal(pixels[0], pixels[1])


@pytest.mark.parametrize("data", [b"", b"not an image", png()[:40]])
def test_bytes_that_are_no_whole_image_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage, match=f"image of {len(data)} bytes: cannot be read"):
        ImageEncoder(RGB).encode(data)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadImage, match=r"absent\.png: cannot be read \(No such file or directory\)"):
        ImageEncoder(RGB).encode("absent.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_image, "MAX_PIXELS", 100)
    with pytest.raises(BadImage, match="20 x 20 pixels is over 100"):
        ImageEncoder(RGB).encode(png(size=(20, 20)))
