from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kdexport.bundle.runner.image import ImageEncoder
from kdexport.errors import BadInput
from kdexport.tasks import image_classification as task
from tests.tasks.conftest import picture

PICTURES = {
    "grey": [picture("L", 9, 7, seed) for seed in range(12)],
    "colour": [picture("RGB", 8, 8, seed) for seed in range(12)],
    "see-through": [picture("RGBA", 8, 8, seed) for seed in range(12)],
    "print": [picture("CMYK", 16, 16, seed, "JPEG") for seed in range(4)],
    "of many sizes": [picture("RGB", 8 + seed % 3, 8, seed) for seed in range(12)],
    "grey and colour": [picture("L" if seed % 2 else "RGB", 8, 8, seed) for seed in range(12)],
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pixels_are_those_of_what_ships_to_the_bit(kind: str) -> None:
    pictures = PICTURES[kind]
    prepared = task.prepare(pictures, "", 0)
    runner = ImageEncoder(prepared.preprocessor.model_dump())
    batch = task.encode(prepared, pictures).batch(np.arange(len(pictures)))
    assert batch.tobytes() == runner.encode_batch(pictures).tobytes()


@pytest.mark.parametrize(
    ("kind", "mode", "channels"), [("grey", "L", 1), ("colour", "RGB", 3), ("grey and colour", "RGB", 3)]
)
def test_the_mode_is_grey_only_where_every_picture_is(kind: str, mode: str, channels: int) -> None:
    prepared = task.prepare(PICTURES[kind], "", 0)
    assert prepared.preprocessor.mode == mode
    assert task.encode(prepared, PICTURES[kind]).shape(2).channels == channels


def test_the_size_is_the_usual_one_and_odd_pictures_are_resized_to_it() -> None:
    pictures = [*PICTURES["colour"], picture("RGB", 30, 11, 0)]
    prepared = task.prepare(pictures, "", 0)
    assert (prepared.preprocessor.width, prepared.preprocessor.height) == (8, 8)
    assert task.encode(prepared, pictures).batch(np.array([12])).shape == (1, 3, 8, 8)


def test_normalised_pixels_have_mean_0_and_deviation_1_in_each_channel() -> None:
    pixels = task.encode(task.prepare(PICTURES["colour"], "", 0), PICTURES["colour"]).batch(np.arange(12))
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), 0.0, atol=1e-4)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), 1.0, atol=1e-4)


def test_pictures_of_one_colour_are_normalised_without_dividing_by_zero() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 7).save(buffer, "PNG")
    flat = [buffer.getvalue()] * 3
    assert np.isfinite(task.encode(task.prepare(flat, "", 0), flat).batch(np.arange(3))).all()


@pytest.mark.parametrize("kind", PICTURES)
def test_a_view_is_a_picture_of_the_same_size(kind: str) -> None:
    pictures = PICTURES[kind]
    views = task.augment(pictures, 2, seed=1)
    sizes = [Image.open(io.BytesIO(raw)).size for raw in pictures]  # type: ignore[arg-type]
    assert [Image.open(io.BytesIO(v)).size for v in views] == sizes * 2  # type: ignore[arg-type]


def test_a_picture_is_never_mirrored() -> None:
    """Half black, half white: shifted by at most an eighth and turned a little, left stays darker than right."""
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[:, 8:] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    for view in task.augment([buffer.getvalue()], 50, seed=0):
        seen = np.asarray(Image.open(io.BytesIO(view)), dtype=float)  # type: ignore[arg-type]
        assert seen[:, :6].mean() < seen[:, 10:14].mean()


WHOLE = picture("RGB", 16, 16, 0)
CORRUPT = WHOLE[:40] + b"\x00" * 20 + WHOLE[60:]


@pytest.mark.parametrize("bad", [b"no picture", WHOLE[:60], CORRUPT, picture("RGB", 16, 16, 0, "JPEG")[:200]])
def test_a_picture_that_cannot_be_decoded_is_named_by_its_place(bad: bytes) -> None:
    with pytest.raises(BadInput, match=r"image 3 cannot be decoded .*; PNG, JPEG, BMP and WebP are read"):
        task.prepare([WHOLE, WHOLE, bad], "", 0)


def test_pictures_too_large_for_a_small_student_are_refused_with_their_size() -> None:
    with pytest.raises(BadInput, match="the usual picture is 600 x 4; shrink the data to at most 512 on a side"):
        task.prepare([picture("L", 600, 4, 0)], "", 0)


def test_mean_and_deviation_are_those_of_all_pixels_at_once() -> None:
    preprocessor = task.prepare(PICTURES["colour"], "", 0).preprocessor
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(p))) for p in PICTURES["colour"]]) / 255.0  # type: ignore[arg-type]
    assert preprocessor.mean == tuple(np.round(pixels.mean((0, 1, 2)), 6))
    assert preprocessor.std == tuple(np.round(pixels.std((0, 1, 2)) + 1e-6, 6))


def test_more_pixels_than_memory_holds_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = task.prepare(PICTURES["colour"], "", 0)
    monkeypatch.setattr(task, "memory_limit_bytes", lambda: 3 * 8 * 8 * 12)
    with pytest.raises(BadInput, match=r"12 pictures of 8 x 8 x 3 are .* GiB of pixels; .* allowed \(0\.6 of"):
        task.encode(prepared, PICTURES["colour"])
    monkeypatch.setattr(task, "memory_limit_bytes", lambda: 2 * 3 * 8 * 8 * 12)
    assert task.encode(prepared, PICTURES["colour"]).pixels.dtype == np.uint8
