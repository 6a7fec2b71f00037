"""The fused pass equals the slow one bit for bit, and both are Pillow's resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contracts.pictures import noise, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.transforms.geometry import FACTORS, Crop, Flip, Scale, Step, View
from penstock.transforms.resample import IDENTITY, carry_out, enlarged, pixel_buffer, resample, resampled, resize_reference, weights_reference


def pillow(image: Any, size: tuple[int, int]) -> Any:
    """Return Pillow's bilinear resize; `size` is (height, width)."""
    flat = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(flat.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, image.shape[2])


def differences(left: Any, right: Any) -> Any:
    """Return absolute differences of bytes."""
    return np.abs(left.astype(int) - right.astype(int))


@st.composite
def crops(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a box inside an image."""
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))


SIDE = st.integers(1, 130)


@settings(max_examples=150, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([1, 3]), st.data())
def test_crop_and_resize_is_pillows(height: int, width: int, tall: int, wide: int, channels: int, data: st.DataObject) -> None:
    """Cropping and resizing noise differs from Pillow's crop().resize() by at most one grey level anywhere, and by less than 1 on average."""
    top, left, rows, columns = box = data.draw(crops(height, width))
    image = noise(height, width, channels)
    view = View.whole(height, width).then(Crop(box))
    assert view is not None
    view = view.then(Scale(tall, wide))
    assert view is not None
    expected = pillow(np.ascontiguousarray(image[top : top + rows, left : left + columns]), (tall, wide))
    assert differences(resampled(image, view), expected).max() <= 1


def test_shrinking_is_pillows() -> None:
    """A photograph reduced to a square is Pillow's to the byte, since Pillow too goes along rows first there; to other sizes at most one grey level away."""
    image = photo()
    for size in ((224, 224), (100, 224), (224, 100), (10, 10)):
        view = View.whole(375, 500).then(Scale(*size))
        assert view is not None
        assert differences(resampled(image, view), pillow(image, size)).max() <= (0 if size == (224, 224) else 1)


@st.composite
def steps(draw: st.DrawFn, height: int, width: int) -> list[Step]:
    """Draw crops (also reaching outside), resizes and flips in any order."""
    found: list[Step] = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["crop", "outside", "scale", "flip"]))
        if kind == "flip":
            found.append(Flip())
        elif kind == "scale":
            height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
            found.append(Scale(height, width))
        elif kind == "crop":
            box = draw(crops(height, width))
            found.append(Crop(box))
            height, width = box[2:]
        else:
            top, left = draw(st.integers(-9, height + 3)), draw(st.integers(-9, width + 3))
            height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
            found.append(Crop((top, left, height, width), (draw(st.integers(0, 255)),)))
    return found


@settings(max_examples=250, deadline=None)
@given(SIDE, SIDE, st.sampled_from([1, 3]), st.booleans(), st.sampled_from(["uint8", "float32"]), st.data())
def test_fused_equals_step_by_step(height: int, width: int, channels: int, channels_first: bool, dtype: str, data: st.DataObject) -> None:
    """Any list of steps, folded into views and carried out through a table in either layout, equals the steps one by one, bit for bit."""
    image = noise(height, width, channels)
    expected, view = image, View.whole(height, width)
    for step in data.draw(steps(height, width)):
        expected = carry_out(step, expected)
        longer = view.then(step)
        if longer is None:
            image = resampled(image, view)
            longer = View.whole(*view.size).then(step)
        assert longer is not None
        view = longer
    table = np.random.default_rng(0).integers(0, 256, (channels, 256)).astype(dtype)
    if data.draw(st.booleans(), "a table that changes nothing"):
        table = IDENTITY[:channels].astype(dtype)
    looked_up = np.stack([table[channel, expected[:, :, channel]] for channel in range(channels)], axis=0 if channels_first else 2)
    out = np.empty(looked_up.shape, dtype)
    resample(image, view, 1, table, out, channels_first=channels_first)
    assert np.array_equal(out, looked_up)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 32, 33, 224])
def test_bytes_that_no_table_changes_are_parted_into_planes(width: int, flipped: bool) -> None:
    """At every width around a vector's, mirrored or not, planes equal the image's channels, nothing is written beyond them, and one odd entry is obeyed."""
    image = noise(3, width)
    memory = np.full(3 * 3 * width + 64, 7, np.uint8)
    out = memory[: 3 * 3 * width].reshape(3, 3, width)
    view = View.whole(3, width)._replace(flipped=flipped)
    expected = np.moveaxis(image[:, ::-1] if flipped else image, 2, 0)
    resample(image, view, 1, IDENTITY[:3], out, channels_first=True)
    assert np.array_equal(out, expected)
    assert (memory[out.size :] == 7).all()
    odd = IDENTITY[:3].copy()
    odd[2, 255] = 254
    resample(image, view, 1, odd, out, channels_first=True)
    assert np.array_equal(out[2], np.minimum(expected[2], 254))


@settings(max_examples=100, deadline=None)
@given(st.integers(64, 200), st.integers(64, 200), st.sampled_from(FACTORS), st.data())
def test_a_reduced_image_stands_for_its_pixels_repeated(height: int, width: int, factor: int, data: st.DataObject) -> None:
    """Cropping and resizing an image decoded at a fraction equals doing so to the image with its pixels repeated, bit for bit."""
    image = noise(-(-height // factor), -(-width // factor))
    top, left, rows, columns = box = data.draw(crops(height, width))
    view = View.whole(height, width).then(Crop(box))
    assert view is not None
    view = view.then(Scale(data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))))
    assert view is not None
    whole = enlarged(image, factor, (height, width))
    assert whole.shape == (height, width, 3)
    expected = resize_reference(whole[top : top + rows, left : left + columns], view.scale)
    assert np.array_equal(resampled(image, view, factor), expected)


def test_nothing_outside_the_crop_has_influence() -> None:
    """Two images that agree inside a crop give the same result, though the filter is wider than the crop's edge."""
    one, two = noise(50, 50, seed=1), noise(50, 50, seed=2)
    two[10:40, 10:40] = one[10:40, 10:40]
    view = View.whole(50, 50).then(Crop((10, 10, 30, 30)))
    assert view is not None
    view = view.then(Scale(7, 7))
    assert view is not None
    assert np.array_equal(resampled(one, view), resampled(two, view))


def test_read_only_and_strided_images_are_taken() -> None:
    """Memory-mapped (read-only) and mirrored (strided) images give what their copies give, and are not written to."""
    image = noise(20, 30)
    view = View.whole(20, 30).then(Scale(11, 13))
    assert view is not None
    frozen = image.copy()
    frozen.flags.writeable = False
    assert np.array_equal(resampled(frozen, view), resampled(image, view))
    assert np.array_equal(resampled(image[:, ::-1], view), resampled(np.ascontiguousarray(image[:, ::-1]), view))


def test_weights_sum_to_one() -> None:
    """Every output's weights sum to 1 within one unit of fixed point a tap, so a flat picture stays flat."""
    for size in (1, 3, 10, 224):
        for _, weights in weights_reference(100, size):
            assert abs(sum(weights) - (1 << 22)) <= len(weights)
    flat = np.full((40, 40, 3), 255, np.uint8)
    assert (resize_reference(flat, (17, 53)) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 2)])
def test_thin_images(size: tuple[int, int]) -> None:
    """Images of one row or one column are read within their memory and resized as by the reference."""
    image = noise(*size)
    view = View.whole(*size).then(Scale(33, 31))
    assert view is not None
    expected = resize_reference(image, (33, 31))
    assert np.array_equal(resampled(image, view), expected)


def test_scratch_grows_and_is_reused() -> None:
    """The thread's buffer is at least as large as asked, and the same when it suffices."""
    assert pixel_buffer(3_000_000).size >= 3_000_000
    assert pixel_buffer(1000) is pixel_buffer(2000)
    assert IDENTITY.shape == (4, 256)
