"""Colour ops against Pillow's own, and their fast paths against their references."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from contracts.pictures import noise, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from penstock.errors import BadRequest
from penstock.transforms import ColorJitter, Grayscale
from penstock.transforms.base import Spec
from penstock.transforms.color import brightness_reference, contrast_reference, gray_reference, hue_reference, saturation_reference
from penstock.transforms.random import Random

GIVEN = Spec((None, None, 3), "uint8", "HWC")
PARTS = [
    (brightness_reference, ImageEnhance.Brightness),
    (contrast_reference, ImageEnhance.Contrast),
    (saturation_reference, ImageEnhance.Color),
]


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.75, 1.0, 1.2, 1.9, 4.0])
@pytest.mark.parametrize(("ours", "theirs"), PARTS, ids=["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("picture", [photo(60, 81), noise(33, 44)], ids=["photo", "noise"])
def test_parts_are_pillows(ours: Any, theirs: Any, factor: float, picture: Any) -> None:
    """Brightness, contrast and saturation equal PIL.ImageEnhance to the byte."""
    assert np.array_equal(ours(picture, factor), np.asarray(theirs(Image.fromarray(picture)).enhance(factor)))


def test_gray_is_pillows() -> None:
    """The luma equals Pillow's convert("L") to the byte."""
    picture = noise(50, 60)
    assert np.array_equal(gray_reference(picture), np.asarray(Image.fromarray(picture).convert("L")))


@pytest.mark.parametrize("turn", [-0.5, -0.13, 0.0, 0.01, 0.2, 0.5])
def test_hue_turns_the_circle(turn: float) -> None:
    """Hue equals the exact turn in HSV (Python's colorsys) within one grey level, and turning by nothing changes nothing."""
    picture = np.concatenate([noise(12, 12), np.zeros((1, 12, 3), np.uint8), np.full((1, 12, 3), 77, np.uint8)])
    got = hue_reference(picture, turn)
    for (y, x), _ in np.ndenumerate(picture[:, :, 0]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[y, x] / 255.0))
        expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)) * 255
        assert np.abs(got[y, x] - expected).max() <= 0.51
    if turn == 0:
        assert np.array_equal(got, picture)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_fast_equals_reference(height: int, width: int, channels: int, key: int, sample: int) -> None:
    """The compiled jitter equals the numpy one bit for bit on noise of any size, in any order of its parts."""
    picture, op = noise(height, width, channels, seed=sample), ColorJitter(0.9, (0.0, 3.0), 1.0, 0.5)
    spec = Spec((None, None, channels), "uint8", "HWC")
    assert np.array_equal(op.fast(picture, spec, Random(key, sample, 2)), op.apply(picture, spec, Random(key, sample, 2)))


def test_every_byte_triple_class_of_hue_agrees() -> None:
    """Fast and slow hue agree on a grid over the whole colour cube, where ties between channels live."""
    levels = np.array([0, 1, 2, 64, 127, 128, 200, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 27, 3)
    op = ColorJitter(hue=0.5)
    for sample in range(30):
        assert np.array_equal(op.fast(cube, GIVEN, Random(0, sample)), op.apply(cube, GIVEN, Random(0, sample)))


def test_factors_lie_in_their_ranges_and_order_varies() -> None:
    """Draws keep to the ranges as torchvision defines them, and all 24 orders occur."""
    op = ColorJitter(0.4, 2.0, (0.5, 0.6), 0.1)
    assert (op.brightness, op.contrast, op.saturation, op.hue) == ((0.6, 1.4), (0.0, 3.0), (0.5, 0.6), (-0.1, 0.1))
    drawn = [op.draw(Random(1, sample)) for sample in range(600)]
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.0, 3.0), (0.5, 0.6), (-0.1, 0.1)]):
        factors = [dict(one)[kind] for one in drawn]
        assert low <= min(factors) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(factors) <= high
    assert len({tuple(kind for kind, _ in one) for one in drawn}) == 24


def test_parts_that_are_off_do_nothing() -> None:
    """A jitter without arguments returns an equal copy, and a switched-off part does not move the others' draws."""
    picture = photo(20, 20)
    same = ColorJitter().fast(picture, GIVEN, Random(0, 0))
    assert np.array_equal(same, picture)
    assert not np.shares_memory(same, picture)
    both, one = ColorJitter(0.4, 0.4).draw(Random(5, 5)), ColorJitter(0.4).draw(Random(5, 5))
    assert dict(both)[0] == dict(one)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"brightness": -1}, r"brightness=-1 is neither a number of at least 0 nor a pair"),
        ({"contrast": (0.5, 0.4)}, r"contrast=\(0.5, 0.4\) leaves the range from 0 to inf"),
        ({"saturation": (-1.0, 1.0)}, r"saturation=\(-1.0, 1.0\) leaves the range"),
        ({"hue": 0.6}, r"hue=0.6 leaves the range from -0.5 to 0.5"),
        ({"hue": "red"}, r"hue='red' is neither"),
    ],
)
def test_refused_jitter(arguments: dict[str, Any], message: str) -> None:
    """A range that makes no sense is refused by name, value and remedy."""
    with pytest.raises(BadRequest, match=message):
        ColorJitter(**arguments)


def test_refused_grayscale() -> None:
    """Only one or three channels can come out."""
    with pytest.raises(BadRequest, match="num_output_channels=2 is not 1 or 3"):
        Grayscale(2)


@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale_repeats_the_luma(channels: int) -> None:
    """All output channels hold the luma, fast and slow."""
    picture = photo(20, 30)
    for result in (Grayscale(channels).apply(picture, GIVEN, Random(0, 0)), Grayscale(channels).fast(picture, GIVEN, Random(0, 0))):
        assert result.shape == (20, 30, channels)
        assert (result == gray_reference(picture)[:, :, None]).all()
