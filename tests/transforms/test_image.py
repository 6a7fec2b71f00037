"""Image ops: torchvision's arithmetic of sizes and places, distributions, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contracts.pictures import noise
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock.errors import BadData, BadRequest
from penstock.transforms.base import Encoded, Ragged, Spec
from penstock.transforms.geometry import Crop, Flip, Scale
from penstock.transforms.image import RandomResizedCrop
from penstock.transforms.random import Random

IMAGE = Spec((None, None, 3), "uint8", "HWC")
RNG = Random(0, 0)


@pytest.mark.parametrize(
    ("op", "size", "expected"),
    [
        (tr.Resize(256), (375, 500), (256, 341)),
        (tr.Resize([256]), (500, 375), (341, 256)),
        (tr.Resize(256, max_size=300), (375, 500), (225, 300)),
        (tr.Resize(10, max_size=10), (1, 5000), (1, 10)),
        (tr.Resize((3, 4)), (375, 500), (3, 4)),
        (tr.Resize([3, 4]), (1, 1), (3, 4)),
    ],
)
def test_resize_sizes_are_torchvisions(op: Any, size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The shorter side gets the size, the longer its proportion cut to an integer, and max_size holds."""
    assert op.steps(*size, RNG) == (Scale(*expected),)


@pytest.mark.parametrize(
    ("size", "place"), [((10, 10), (3, 3)), ((11, 9), (4, 2)), ((13, 7), (4, 2)), ((3, 10), (0, 3)), ((2, 3), (-1, 0)), ((1, 8), (-1, 2))]
)
def test_center_crop_rounds_as_torchvision(size: tuple[int, int], place: tuple[int, int]) -> None:
    """The middle begins where torchvision's int(round()) puts it, and a small image is padded less at the top than at the bottom."""
    assert tr.CenterCrop(4 if size != (2, 3) else (4, 3)).steps(*size, RNG)[0].box[:2] == place


def test_center_crop_pads_with_zeros() -> None:
    """Outside the image there is black."""
    out = tr.CenterCrop((4, 5)).apply(np.full((2, 2, 3), 9, np.uint8), IMAGE, RNG)
    assert out.sum() == 4 * 3 * 9
    assert (out[1:3, 1:3] == 9).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**40))
def test_random_resized_crop_stays_inside(height: int, width: int, sample: int) -> None:
    """Whatever the size, the box lies inside the image and is not empty."""
    top, left, tall, wide = RandomResizedCrop(8).box(height, width, Random(3, sample))
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert min(tall, wide) >= 1


def test_random_resized_crop_has_its_distribution() -> None:
    """Shares of area fill [0.08, 1] and proportions [3/4, 4/3] evenly in the logarithm; places are uniform over the room there is."""
    boxes = np.array([RandomResizedCrop(8).box(600, 600, Random(3, sample)) for sample in range(4000)], float)
    shares, ratios = boxes[:, 2] * boxes[:, 3] / 600**2, boxes[:, 3] / boxes[:, 2]
    assert 0.079 < shares.min() < 0.09
    assert 0.95 < shares.max() <= 1
    assert 0.74 < ratios.min() < 0.76
    assert 1.31 < ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.01
    room = 600 - boxes[:, 2:]
    places = boxes[:, :2][room > 50] / room[room > 50]
    assert abs(places.mean() - 0.5) < 0.01
    assert places.min() < 0.01
    assert places.max() > 0.99


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 1000), (0, 493, 10, 13)), ((1000, 10), (493, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_random_resized_crop_falls_back_as_torchvision(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """When no attempt fits, the largest middle part of allowed proportions is taken."""
    assert RandomResizedCrop(8, scale=(0.9, 1.0)).box(*size, Random(0, 1)) == box


def test_random_resized_crop_falls_back_to_the_whole() -> None:
    """When the image's own proportions are allowed but every draw is too large, the whole image is taken."""
    assert RandomResizedCrop(8, scale=(2.0, 2.0)).box(30, 31, RNG) == (0, 0, 30, 31)


def test_random_crop_reaches_every_place() -> None:
    """With padding 1, a 4x4 image has 3x3 places for a 4x4 crop, and all are drawn."""
    places = {tr.RandomCrop(4, padding=1).steps(4, 4, Random(0, sample))[0].box[:2] for sample in range(300)}
    assert places == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}


def test_random_crop_padding_spellings() -> None:
    """One number, (left/right, top/bottom) and (left, top, right, bottom) pad as in torchvision; fill may differ by channel."""
    assert tr.RandomCrop(4, padding=2).padding == (2, 2, 2, 2)
    assert tr.RandomCrop(4, padding=(1, 2)).padding == (1, 2, 1, 2)
    places = {tr.RandomCrop((4, 7), padding=(1, 0, 2, 0)).steps(4, 4, Random(0, s))[0].box for s in range(20)}
    assert places == {(0, -1, 4, 7)}
    out = tr.RandomCrop(6, padding=1, fill=(1, 2, 3)).apply(np.zeros((4, 4, 3), np.uint8), IMAGE, RNG)
    assert out[0, 0].tolist() == [1, 2, 3]


def test_pad_if_needed_pads_both_sides_by_the_lack() -> None:
    """As torchvision does it: an image 3 too small is padded by 3 on both sides, then cropped at random."""
    tops = {tr.RandomCrop(8, pad_if_needed=True).steps(5, 20, Random(0, s))[0].box[0] for s in range(200)}
    assert tops == {-3, -2, -1, 0}


def test_flip_has_its_probability() -> None:
    """Flips occur with probability p, and never or always at its ends."""
    count = sum(bool(tr.RandomHorizontalFlip(0.3).steps(1, 1, Random(1, s))) for s in range(4000))
    assert abs(count / 4000 - 0.3) < 0.03
    assert not any(tr.RandomHorizontalFlip(0.0).steps(1, 1, Random(1, s)) for s in range(100))
    assert all(tr.RandomHorizontalFlip(1.0).steps(1, 1, Random(1, s)) == (Flip(),) for s in range(100))


def test_a_crop_is_a_cut() -> None:
    """A crop inside the image is a slice of it."""
    image = noise(20, 20)
    (crop,) = tr.RandomCrop(7).steps(20, 20, Random(4, 4))
    assert isinstance(crop, Crop)
    top, left, _, _ = crop.box
    assert np.array_equal(tr.RandomCrop(7).apply(image, IMAGE, Random(4, 4)), image[top : top + 7, left : left + 7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tr.Decode(mode="BGR"), "mode='BGR' is not one of 'RGB', 'GRAY'"),
        (lambda: tr.Decode(max_pixels=0), "max_pixels=0 is not an integer of at least 1"),
        (lambda: tr.Resize(0), "size=0 is not an integer of at least 1"),
        (lambda: tr.Resize(2.5), "size=2.5 is not an integer"),
        (lambda: tr.Resize((1, 2, 3)), r"size=\(1, 2, 3\) is neither an integer nor \(height, width\)"),
        (lambda: tr.Resize((1, 2), max_size=3), "max_size=3 goes with one number as size"),
        (lambda: tr.Resize(5, max_size=3), "and is at least that; size=5"),
        (lambda: tr.CenterCrop(True), "size=True is not an integer"),
        (lambda: tr.RandomCrop(4, padding=-1), "padding=-1 is not 1, 2 or 4 integers"),
        (lambda: tr.RandomCrop(4, padding=(1, 2, 3)), r"padding=\(1, 2, 3\)"),
        (lambda: tr.RandomCrop(4, fill=256), "fill=256 is not an integer from 0 to 255"),
        (lambda: tr.RandomResizedCrop(4, scale=(1.0, 0.5)), r"scale=\(1.0, 0.5\) is not a pair of positive numbers, the smaller first"),
        (lambda: tr.RandomResizedCrop(4, ratio=(0.0, 1.0)), "ratio="),
        (lambda: tr.RandomHorizontalFlip(1.5), "p=1.5 is not a probability"),
    ],
)
def test_refused_arguments(make: Any, message: str) -> None:
    """An argument that cannot work is refused when the op is made, with its name and value."""
    with pytest.raises(BadRequest, match=message):
        make()


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        (tr.Resize(4), Encoded("jpeg"), r"Resize\(size=4, max_size=None\) works on images, not on encoded jpeg bytes: Decode\(\) comes first"),
        (tr.Resize(4), Spec((), "int64"), r"works on images, not on int64 \[\]: use it on a column of Image"),
        (tr.CenterCrop(4), Ragged("int32"), r"works on images, not on int32 \[any length\]"),
        (tr.Grayscale(), Spec((8, 8, 3), "float32", "HWC"), r"uint8 images laid out HWC, not on float32 \[8, 8, 3\] HWC: put it before Normalize"),
        (tr.RandomHorizontalFlip(), Spec((3, 8, 8), "uint8", "CHW"), r"not on uint8 \[3, 8, 8\] CHW: put it before"),
        (tr.Decode(), Spec((3,), "uint8"), "takes encoded image bytes, not uint8"),
        (tr.RandomCrop(9), Spec((8, 8, 3), "uint8", "HWC"), "an image of 8 x 8 .* is smaller than .*pad_if_needed=True"),
        (tr.RandomCrop(4, fill=(1, 2)), IMAGE, r"fill=\(1, 2\) has 2 values for an image of 3 channels"),
    ],
)
def test_refused_inputs(op: Any, given: Any, message: str) -> None:
    """An op refuses what it cannot take, naming itself, what it got and the remedy."""
    with pytest.raises(BadRequest, match=message):
        op.declare(given)


def test_a_small_image_is_bad_data() -> None:
    """An image smaller than a crop, seen only when it is there, is bad data with sizes and remedy."""
    with pytest.raises(
        BadData, match=r"an image of 3 x 9 .* smaller than RandomCrop\(size=\(4, 4\)\); use pad_if_needed=True, or put Resize before it"
    ):
        tr.RandomCrop(4).steps(3, 9, RNG)
