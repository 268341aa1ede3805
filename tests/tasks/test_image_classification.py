from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kdexport.bundle.runner.image import ImageEncoder
from kdexport.errors import BadInput
from kdexport.tasks import Asked
from kdexport.tasks import image_classification as task
from kdexport.tasks._views import View, places, views
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
@pytest.mark.parametrize("mirror", [True, False])
def test_a_view_is_a_picture_of_the_same_size(kind: str, mirror: bool) -> None:
    pictures = PICTURES[kind]
    sizes = [Image.open(io.BytesIO(raw)).size for raw in pictures]  # type: ignore[arg-type]
    rendered = [opened(view) for view in views(pictures, 2, seed=1, mirror=mirror)]
    assert [picture.size for picture in rendered] == sizes * 2


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("mirror", [True, False])
def test_the_teacher_reads_the_same_pixels_of_a_view_as_the_student(kind: str, mirror: bool) -> None:
    """Views of pictures in their final size are never made for the student: their pixels are gathered."""
    pictures = PICTURES[kind]
    prepared = task.prepare(pictures, "", 0)
    both = [*pictures, *views(pictures, 5, seed=2, mirror=mirror)]
    runner = ImageEncoder(prepared.preprocessor.model_dump())
    seen = task.encode(prepared, both).batch(np.arange(len(both)))
    np.testing.assert_array_equal(seen, runner.encode_batch(list(Asked(both))))


def test_a_picture_and_its_views_are_kept_once() -> None:
    pictures = PICTURES["colour"]
    encoded = task.encode(task.prepare(pictures, "", 0), [*pictures, *views(pictures, 50, seed=0, mirror=True)])
    assert (len(encoded.pixels), len(encoded.lengths)) == (12, 12 * 51)


def test_what_leaves_on_one_side_is_reflected_in_on_the_other() -> None:
    assert places(8, [2, -3, 0], [False, False, True]).tolist() == [
        [2, 3, 4, 5, 6, 7, 6, 5],
        [3, 2, 1, 0, 1, 2, 3, 4],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ]


def test_every_shift_of_an_eighth_is_as_likely() -> None:
    shifts = [view.shift(32, 8) for view in views(PICTURES["colour"], 300, seed=0, mirror=True)]
    across, down = (np.unique(found, return_counts=True) for found in zip(*shifts, strict=True))
    assert (across[0].tolist(), down[0].tolist()) == (list(range(-4, 5)), [-1, 0, 1])
    assert across[1].min() > 0.8 * 3600 / 9


def halves(seed: int, left: int, right: int) -> bytes:
    """A noisy picture of two halves."""
    pixels = np.zeros((16, 16), dtype=np.uint8) + left
    pixels[:, 8:] = right
    noise = np.random.default_rng(seed).integers(0, 40, (16, 16), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels + noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_whose_class_changes_in_the_mirror_are_never_mirrored() -> None:
    """Class 0 is dark on the left, class 1 on the right."""
    pictures = [halves(seed, *((0, 200) if seed % 2 == 0 else (200, 0))) for seed in range(80)]
    labels = np.arange(80) % 2
    for i, view in enumerate(task.augment(pictures, 2, seed=0, labels=labels)):
        seen = np.asarray(opened(view), dtype=float)
        assert (seen[:, :6].mean() < seen[:, 10:14].mean()) == (i % 2 == 0)


def test_pictures_that_keep_their_class_in_the_mirror_are_mirrored_half_of_the_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Class 0 has two equal halves, class 1 has not: whichever is the darker."""
    caplog.set_level("INFO")
    kinds = ((100, 100), (0, 200), (100, 100), (200, 0))
    pictures = [halves(seed, *kinds[seed % 4]) for seed in range(120)]
    found = task.augment(pictures, 10, seed=0, labels=np.arange(120) % 2)
    assert 0.45 < np.mean([view.mirrored for view in found]) < 0.55
    assert "mirror=yes nearest_neighbour_accuracy=0.933 mirrored=0.933 largest_class=0.533 n=30" in caplog.text


def test_without_labels_or_evidence_nothing_is_mirrored() -> None:
    noise = [picture("L", 16, 16, seed) for seed in range(80)]
    assert not any(view.mirrored for view in task.augment(noise, 4, seed=0))
    assert not task.mirrors(noise, np.random.default_rng(0).integers(0, 2, 80))
    assert not task.mirrors(noise[:2], np.array([0, 1]))


def test_views_drawn_anew_differ_from_time_to_time_and_repeat_with_the_random_state() -> None:
    import torch

    pictures = PICTURES["colour"]
    encoded, rows = task.encode(task.prepare(pictures, "", 0), pictures), np.arange(12)
    torch.manual_seed(3)
    first, second = encoded.drawn(rows), encoded.drawn(rows)
    torch.manual_seed(3)
    np.testing.assert_array_equal(encoded.drawn(rows), first)
    assert (first != second).any()


def opened(view: View) -> Image.Image:
    raw = view.render()
    assert isinstance(raw, bytes)
    return Image.open(io.BytesIO(raw))


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
