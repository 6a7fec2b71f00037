"""Compiled passes equal their references at the ends of their range: one pixel, one row, one column, huge enlargements, crops outside, odd widths."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from contracts.pictures import encode, noise, photo
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock import fields
from penstock.transforms.base import Spec
from penstock.transforms.chain import compile_chain
from penstock.transforms.geometry import Crop, Flip, Scale, Step, View
from penstock.transforms.random import Random
from penstock.transforms.resample import carry_out, resampled, weights_reference

PNG = fields.Image("png")


def folded(size: tuple[int, int], *steps: Step) -> View:
    """Return the view of an image of that size after steps that fold."""
    view: View | None = View.whole(*size)
    for step in steps:
        assert view is not None
        view = view.then(step)
    assert view is not None
    return view


def check(image: Any, *steps: Step) -> Any:
    """Assert that one pass gives what the steps give one by one; return it."""
    expected = image
    for step in steps:
        expected = carry_out(step, expected)
    got = resampled(image, folded(image.shape[:2], *steps))
    assert got.shape == expected.shape
    assert np.array_equal(got, expected)
    return got


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", [(1, 1), (1, 2000), (2000, 1), (700, 900)])
def test_one_pixel_becomes_any_size(channels: int, target: tuple[int, int]) -> None:
    """A single pixel enlarged to anything is that pixel everywhere."""
    image = noise(1, 1, channels, seed=3)
    assert (check(image, Scale(*target)) == image[0, 0]).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 999), (999, 2)])
@pytest.mark.parametrize("target", [(1, 1), (3, 500), (500, 3), (64, 64)])
def test_thin_images_to_any_size(channels: int, size: tuple[int, int], target: tuple[int, int]) -> None:
    """One row or column of thousands of pixels, shrunk or enlarged along either axis, equals the reference."""
    check(noise(*size, channels), Scale(*target))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 15, 16, 17, 25])
@pytest.mark.parametrize("columns", [1, 10, 11, 21, 22, 32, 33, 64, 65])
def test_around_the_strides_of_the_vector_code(rows: int, columns: int) -> None:
    """Sizes around the eight rows and the 32 bytes that a step computes leave no row and no byte out, mirrored too."""
    image = noise(rows, columns)
    check(image, Scale(rows + 1, columns), Flip())
    check(image, Scale(max(rows // 2, 1), columns + 3))


@pytest.mark.parametrize("box", [(-5, -7, 30, 40), (-50, 0, 20, 20), (0, 100, 9, 9), (100, -100, 5, 5), (19, 29, 10, 10), (-1, -1, 22, 32)])
@pytest.mark.parametrize("fill", [(0,), (255,), (1, 2, 3)])
def test_crops_outside_the_image(box: tuple[int, int, int, int], fill: tuple[int, ...]) -> None:
    """A crop partly or wholly outside is filled there, before a flip and behind a resize, by one value or one a channel."""
    image = noise(20, 30)
    check(image, Crop(box, fill))
    check(image, Crop(box, fill), Flip())
    check(image, Scale(20, 31), Crop(box, fill))
    outside = check(image, Crop((100, 100, 4, 4), fill))
    assert (outside == np.array(fill * (3 // len(fill)), np.uint8)).all()


@pytest.mark.parametrize("target", [(1, 1), (2, 3), (5, 1)])
def test_a_large_image_becomes_tiny(target: tuple[int, int]) -> None:
    """Reductions by more than a thousand keep every pixel's share: the mean of the picture survives."""
    image = photo(1100, 1300)
    got = check(image, Scale(*target))
    assert np.abs(got.astype(float).mean((0, 1)) - image.mean((0, 1))).max() < 12


def test_a_window_of_an_enormous_enlargement_needs_no_enormous_memory() -> None:
    """Resize(224) of a line of 20,000 pixels and a centre crop computes the window only: 4,480,000 columns are never made."""
    line = noise(1, 20_000)
    got = resampled(line, folded((1, 20_000), Scale(224, 4_480_000), Crop((0, 2_239_888, 224, 224))))
    assert got.shape == (224, 224, 3)
    assert (got == got[0]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_reference_weights_are_pillows_formulas(length: int, size: int) -> None:
    """Weights of any reduction or enlargement lie inside the image, are not negative, sum to one, and their centre moves on."""
    found = weights_reference(length, size)
    assert len(found) == size
    centres = []
    for start, weights in found:
        assert start >= 0
        assert start + len(weights) <= length
        assert min(weights) >= 0
        assert abs(sum(weights) - (1 << 22)) <= len(weights)
        centres.append(sum((start + i) * w for i, w in enumerate(weights)) / (1 << 22))
    assert all(before <= after + 1e-3 for before, after in itertools.pairwise(centres))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 77), (77, 1), (3, 3)])
def test_colours_of_tiny_images(channels: int, size: tuple[int, int]) -> None:
    """Jitter and luma on one pixel, one row and one column: compiled equals reference for many draws."""
    spec = Spec((None, None, channels), "uint8", "HWC")
    for seed in range(20):
        image = noise(*size, channels, seed=seed)
        for op in (tr.ColorJitter(1.0, 1.0, 1.0, 0.5), tr.Grayscale(), tr.Grayscale(3)):
            assert np.array_equal(op.fast(image, spec, Random(seed, 1)), op.apply(image, spec, Random(seed, 1)))


@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_grey_pictures_have_no_hue_to_turn(level: int) -> None:
    """A flat grey picture stays as it is under any turn of hue and any saturation."""
    image = np.full((3, 5, 3), level, np.uint8)
    spec = Spec((3, 5, 3), "uint8", "HWC")
    for sample in range(10):
        for op in (tr.ColorJitter(hue=0.5), tr.ColorJitter(saturation=1.0)):
            assert np.array_equal(op.fast(image, spec, Random(1, sample)), image)


@pytest.mark.parametrize("factor", [(0.0, 0.0), (50.0, 50.0), (1e6, 1e6)])
def test_factors_far_outside_are_clipped(factor: tuple[float, float]) -> None:
    """Factors of zero and of a million clip to black and white instead of wrapping, compiled as by the reference."""
    image = noise(9, 9)
    spec = Spec((9, 9, 3), "uint8", "HWC")
    for name in ("brightness", "contrast", "saturation"):
        op = tr.ColorJitter(**{name: factor})
        fast = op.fast(image, spec, Random(0, 0))
        assert np.array_equal(fast, op.apply(image, spec, Random(0, 0)))
    bright = tr.ColorJitter(brightness=factor).fast(image, spec, Random(0, 0))
    assert (bright[image == 0] == 0).all()
    assert (bright[image > 5] == (0 if factor == (0.0, 0.0) else 255)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_whole_chains_on_tiny_files(size: tuple[int, int], kind: str) -> None:
    """The usual training chain on files of one pixel or one line, in every encoding: run equals reference."""
    chain = compile_chain("i", fields.Image(), [tr.RandomResizedCrop(33), tr.RandomHorizontalFlip(), tr.ColorJitter(0.4), tr.Normalize(0.5, 0.5)])
    data = encode(noise(*size), kind)
    for sample in range(5):
        out = np.full((3, 33, 33), np.nan, np.float32)
        chain.run(data, 9, sample, out)
        assert np.array_equal(out, chain.reference(data, 9, sample))


def test_one_output_pixel() -> None:
    """A chain may end in a single pixel, in every dtype that a table can hold."""
    data = encode(photo(60, 80), "png")
    for dtype in ("uint8", "float32", "float16", "float64", "int64", "uint16"):
        chain = compile_chain("i", PNG, [tr.Resize((1, 1)), tr.ToDtype(dtype)])
        out = np.empty((3, 1, 1), dtype)
        chain.run(data, 0, 0, out)
        assert np.array_equal(out, chain.reference(data, 0, 0))
        assert 0 < out.min() < 255


@pytest.mark.parametrize("size", [(63, 64), (64, 64), (65, 513), (128, 1025)])
def test_sizes_that_no_scale_divides(size: tuple[int, int]) -> None:
    """JPEGs whose sides are no multiple of eight are reduced with their last row and column as the reference has them."""
    data = encode(photo(*size), quality=95)
    chain = compile_chain("i", fields.Image("jpeg"), [tr.Resize((7, 8)), tr.ToLayout("HWC")])
    out = np.empty((7, 8, 3), np.uint8)
    chain.run(data, 0, 0, out)
    assert np.array_equal(out, chain.reference(data, 0, 0))
