"""The parameters of image ops mean what torchvision documents: its formulas, written out here, against ours on any argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contracts.pictures import noise
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock.transforms.base import Spec
from penstock.transforms.image import RandomResizedCrop
from penstock.transforms.random import Random

SIDE = st.integers(1, 300)
RGB = Spec((None, None, 3), "uint8", "HWC")
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


class Missing(Random):
    """Draws that ask for the whole image at its most extreme proportions, so that no attempt of a crop fits."""

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return the upper end."""
        return high


def torchvisions_fallback(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return what RandomResizedCrop.make_params of torchvision ends with when ten attempts have missed."""
    proportion = float(width) / float(height)
    if proportion < min(ratio):
        w, h = width, round(width / min(ratio))
    elif proportion > max(ratio):
        h, w = height, round(height * max(ratio))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@given(SIDE, SIDE, st.floats(0.2, 1.0), st.floats(1.0, 5.0))
def test_random_resized_crop_falls_back_to_torchvisions_middle(height: int, width: int, low: float, high: float) -> None:
    """When no attempt fits, the box is torchvision's, for every size and pair of proportions, but never empty."""
    op = RandomResizedCrop(8, scale=(1.0, 4.0), ratio=(low, high))
    top, left, tall, wide = torchvisions_fallback(height, width, (low, high))
    box = op.box(height, width, Missing(0, 0))
    if math.isclose(math.sqrt(4 * height * width * high), wide, abs_tol=1):
        return  # an attempt may fit after all
    if tall >= 1 and wide >= 1 and tall <= height and wide <= width:
        assert box == (top, left, tall, wide)
    assert min(box[2:]) >= 1
    assert box[0] >= 0
    assert box[1] >= 0
    assert box[0] + box[2] <= height
    assert box[1] + box[3] <= width


@given(SIDE, SIDE, st.floats(0.05, 1.0), st.floats(0.3, 1.0), st.integers(0, 2**40))
def test_random_resized_crop_keeps_area_and_proportions(height: int, width: int, least: float, low: float, sample: int) -> None:
    """A box that is no fallback has an area in `scale` and proportions in `ratio`, up to the rounding of its two sides."""
    op = RandomResizedCrop(8, scale=(least, 1.0), ratio=(low, 1 / low))
    top, left, tall, wide = op.box(height, width, Random(3, sample))
    if (top, left, tall, wide) == torchvisions_fallback(height, width, op.ratio):
        return
    assert (wide + 0.5) / max(tall - 0.5, 0.5) >= low
    assert (wide - 0.5) / (tall + 0.5) <= 1 / low
    assert (wide + 0.5) * (tall + 0.5) >= least * height * width
    assert (wide - 0.5) * (tall - 0.5) <= height * width


def torchvisions_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Return what torchvision's _compute_resized_output_size answers for one number."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    if max_size is not None and new_long > max_size:
        new_short, new_long = int(max_size * new_short / new_long), max_size
    new_w, new_h = (new_short, new_long) if width <= height else (new_long, new_short)
    return new_h, new_w


@given(SIDE, SIDE, st.integers(1, 400), st.none() | st.integers(0, 200))
def test_resize_of_the_shorter_side_is_torchvisions(height: int, width: int, size: int, more: int | None) -> None:
    """One number sizes the shorter side and `max_size` bounds the longer one, as torchvision computes it; no side vanishes."""
    most = None if more is None else size + more
    expected = torchvisions_size(height, width, size, most)
    declared = tr.Resize(size, max_size=most).declare(Spec((height, width, 3), "uint8", "HWC"))
    assert declared.shape == (max(expected[0], 1), max(expected[1], 1), 3)
    assert tr.Resize([size]) == tr.Resize((size,)) == tr.Resize(size)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50))
def test_center_crop_is_torchvisions(height: int, width: int, tall: int, wide: int) -> None:
    """Padding first where the image is too small, then the rounded middle: torchvision's two steps, pixel for pixel."""
    image = noise(height, width)
    left, right = max((wide - width) // 2, 0), max((wide - width + 1) // 2, 0)
    top, bottom = max((tall - height) // 2, 0), max((tall - height + 1) // 2, 0)
    padded = np.pad(image, ((top, bottom), (left, right), (0, 0)))
    y, x = round((padded.shape[0] - tall) / 2.0), round((padded.shape[1] - wide) / 2.0)
    expected = padded[y : y + tall, x : x + wide]
    assert np.array_equal(tr.CenterCrop((tall, wide)).apply(image, RGB, Random(0, 0)), expected)


PADDING = st.one_of(
    st.none(),
    st.integers(0, 9),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), PADDING, st.integers(0, 2**40), st.data())
def test_random_crop_is_a_cut_of_the_padded_image(
    height: int, width: int, tall: int, wide: int, padding: Any, sample: int, data: st.DataObject
) -> None:
    """Any padding and fill, and pad_if_needed, give a part of the image that numpy pads the way torchvision documents."""
    image = noise(height, width)
    fill = data.draw(st.one_of(st.integers(0, 255), st.tuples(*[st.integers(0, 255)] * 3)))
    op = tr.RandomCrop((tall, wide), padding=padding, pad_if_needed=True, fill=fill)
    spelled = () if padding is None else padding if isinstance(padding, tuple) else (padding,)
    left, top, right, bottom = {0: (0, 0, 0, 0), 1: spelled * 4, 2: spelled * 2, 4: spelled}[len(spelled)]
    more_down, more_over = max(tall - height - top - bottom, 0), max(wide - width - left - right, 0)
    canvas = np.empty((height + top + bottom + 2 * more_down, width + left + right + 2 * more_over, 3), np.uint8)
    canvas[:] = fill
    canvas[top + more_down : top + more_down + height, left + more_over : left + more_over + width] = image
    got = op.apply(image, RGB, Random(5, sample))
    y, x = canvas.shape[0] - tall, canvas.shape[1] - wide
    assert any(np.array_equal(got, canvas[a : a + tall, b : b + wide]) for a in range(y + 1) for b in range(x + 1))


@given(st.floats(0, 3), st.integers(0, 2**40))
def test_jitter_of_one_number_spans_torchvisions_range(amount: float, sample: int) -> None:
    """Brightness, contrast and saturation draw from [max(0, 1 - a), 1 + a], and hue from [-h, h]."""
    op = tr.ColorJitter(amount, amount, amount, min(amount, 0.5))
    assert op.brightness == op.contrast == op.saturation == (max(0.0, 1 - amount), 1 + amount)
    for kind, factor in op.draw(Random(1, sample)):
        low, high = (op.brightness, op.contrast, op.saturation, op.hue)[kind]
        assert low <= factor <= high


def test_jitter_takes_any_real_number() -> None:
    """Numbers of numpy mean what Python's do."""
    assert tr.ColorJitter(np.float32(0.5), hue=np.float64(0.25)) == tr.ColorJitter(0.5, hue=0.25)
    assert tr.ColorJitter((np.float32(0.5), 1)).brightness == (0.5, 1.0)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_normalize_broadcasts_over_channels(layout: Any, count: int, dtype: str) -> None:
    """One value or one a channel, in either layout and on a batch, is torch's (x - mean[:, None, None]) / std[:, None, None]."""
    mean, std = (0.5, 0.25, 0.125)[:count], (0.5, 2.0, 4.0)[:count]
    shape = (4, 5, 3) if layout == "HWC" else (3, 4, 5)
    value = np.random.default_rng(0).integers(0, 255, (2, *shape)).astype(dtype)
    spec = Spec(shape, dtype, layout)
    op = tr.Normalize(mean, std)
    declared = op.declare(spec)
    got = op.apply(value, spec, Random(0, 0))
    tensor = torch.from_numpy(np.moveaxis(value, -1, -3).copy() if layout == "HWC" else value)
    tensor = tensor.to(torch.float32).mul_(1.0 / 255) if dtype == "uint8" else tensor
    wanted = (tensor - torch.tensor(mean, dtype=tensor.dtype)[:, None, None]) / torch.tensor(std, dtype=tensor.dtype)[:, None, None]
    assert declared.dtype == got.dtype.name == ("float32" if dtype == "uint8" else dtype)
    np.testing.assert_array_max_ulp(np.moveaxis(got, -1, -3) if layout == "HWC" else got, wanted.numpy(), 1)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("new", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("old", INTEGERS)
def test_scaled_integers_keep_their_ends(old: str, new: str) -> None:
    """From any integer dtype black stays black and white is 1.0, or the new dtype's top up to the bits that the old one had."""
    top = np.iinfo(old).max
    got = tr.ToDtype(new, scale=True).apply(np.array([0, top // 2 + 1, top], old), Spec((3,), old), Random(0, 0))
    assert got.dtype == new
    if np.dtype(new).kind == "f":
        assert got.astype(float).tolist() == pytest.approx([0.0, 0.5, 1.0], abs=2e-2)
        assert got[2] == pytest.approx(1.0, abs=1e-3)
        return
    bits = min(top.bit_length(), int(np.iinfo(new).max).bit_length())
    assert got[0] == 0
    assert int(got[2]) >> (int(np.iinfo(new).max).bit_length() - bits) == 2**bits - 1
    assert int(got[1]) == 2 ** (int(np.iinfo(new).max).bit_length() - 1)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("new", [name for name in INTEGERS if not name.endswith("64")])
@pytest.mark.parametrize("old", FLOATS)
def test_scaled_floats_keep_their_ends(old: str, new: str) -> None:
    """[0, 1] of any float dtype spans the whole integer range: 1.0 is the top and never wraps to black, and order is kept."""
    steps = np.linspace(0, 1, 101).astype(old)
    got = tr.ToDtype(new, scale=True).apply(steps, Spec((101,), old), Random(0, 0))
    assert int(got[0]) == 0
    assert int(got[-1]) == np.iinfo(new).max
    assert (np.diff(got.astype(np.int64)) >= 0).all()


@pytest.mark.parametrize("new", ["int64", "uint64"])
@pytest.mark.parametrize("old", FLOATS)
def test_floats_do_not_scale_to_64_bits(old: str, new: str) -> None:
    """As in torchvision a float cannot be scaled to an integer it cannot count to; without scale it may be converted."""
    with pytest.raises(ValueError, match=f"ToDtype.*{new}.*cannot scale {old}.*use scale=False"):
        tr.ToDtype(new, scale=True).declare(Spec((3,), old))
    assert tr.ToDtype(new).declare(Spec((3,), old)).dtype == new


@pytest.mark.parametrize("through", ["float32", "float64", "uint16", "int32"])
def test_bytes_survive_the_way_there_and_back(through: str) -> None:
    """All 256 levels come back from every wider dtype they are scaled to."""
    levels = np.arange(256, dtype=np.uint8)
    there = tr.ToDtype(through, scale=True).apply(levels, Spec((256,), "uint8"), Random(0, 0))
    assert np.array_equal(tr.ToDtype("uint8", scale=True).apply(there, Spec((256,), through), Random(0, 0)), levels)


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 2**30))
def test_a_flip_is_decided_by_one_draw(p: float, key: int) -> None:
    """Whether an image is mirrored is whether its first uniform draw lies below p: nothing else enters."""
    flips = [bool(tr.RandomHorizontalFlip(p).steps(4, 4, Random(key, sample))) for sample in range(50)]
    assert flips == [Random(key, sample).uniform() < p for sample in range(50)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tr.RandomCrop(3, padding=1.5), "padding=1.5 is not 1, 2 or 4 integers"),
        (lambda: tr.RandomCrop(3, padding=(1, 2, 3)), r"padding=\(1, 2, 3\) is not 1, 2 or 4"),
        (lambda: tr.RandomCrop(3, padding="ab"), "padding='ab'"),
        (lambda: tr.RandomCrop(3, fill=None), "fill=None is not an integer from 0 to 255"),
        (lambda: tr.RandomCrop(3, fill=()), r"fill=\(\) is not"),
        (lambda: tr.RandomCrop(3, fill=0.5), "fill=0.5 is not"),
        (lambda: tr.RandomResizedCrop(3, scale=0.5), "scale=0.5 is not a pair"),
        (lambda: tr.RandomResizedCrop(3, scale=("a", "b")), r"scale=\('a', 'b'\) is not a pair"),
        (lambda: tr.RandomResizedCrop(3, ratio=(1, float("nan"))), "ratio=.* is not a pair"),
        (lambda: tr.RandomHorizontalFlip("x"), "p='x' is not a probability"),
        (lambda: tr.ColorJitter(("a", "b")), r"brightness=\('a', 'b'\) is neither"),
        (lambda: tr.ColorJitter(float("nan")), "brightness=nan is neither"),
        (lambda: tr.Pad(True), "length=True is not an integer"),
        (lambda: tr.Pad(3, value="x"), "value='x' is not a number"),
        (lambda: tr.Resize(True), "size=True is not an integer"),
        (lambda: tr.Resize(8, max_size=7), "max_size=7 goes with one number as size, and is at least that"),
        (lambda: tr.Resize((8, 8), max_size=9), "max_size=9 goes with one number"),
        (lambda: tr.Decode(max_pixels=1.5), "max_pixels=1.5 is not an integer"),
    ],
)
def test_arguments_of_another_type_are_refused_in_words(make: Any, message: str) -> None:
    """An argument of the wrong type is a BadRequest with its name and value, never a bare TypeError from inside."""
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert type(caught.value).__name__ == "BadRequest"
