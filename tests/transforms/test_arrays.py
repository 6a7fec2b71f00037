"""Array ops: conversions, normalising, layouts, padding, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contracts.pictures import noise

import penstock.transforms as tr
from penstock.errors import BadData, BadRequest
from penstock.transforms.base import Encoded, Ragged, Spec
from penstock.transforms.random import Random

RNG = Random(0, 0)
HWC = Spec((4, 5, 3), "uint8", "HWC")
CHW = Spec((3, 4, 5), "uint8", "CHW")


def test_normalize_is_torchs() -> None:
    """A byte image, scaled and normalised, equals torch's arithmetic within one unit in the last place, in either layout."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = noise(4, 5)
    tensor = torch.from_numpy(image).permute(2, 0, 1).to(torch.float32).mul_(1.0 / 255)
    expected = ((tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).numpy()
    last = tr.Normalize(mean, std).apply(image, HWC, RNG)
    first = tr.Normalize(mean, std).apply(np.ascontiguousarray(image.transpose(2, 0, 1)), CHW, RNG)
    np.testing.assert_array_max_ulp(first, expected, 1)
    assert np.array_equal(last.transpose(2, 0, 1), first)


@pytest.mark.parametrize("dtype", ["float32", torch.float32, np.float32, np.dtype("float32")])
def test_dtypes_in_every_spelling(dtype: Any) -> None:
    """Names, numpy's and torch's dtypes mean the same."""
    assert tr.Cast(dtype) == tr.Cast("float32")
    assert tr.ToDtype(dtype, scale=True) == tr.ToDtype("float32", True)


def test_to_dtype_scales_ranges() -> None:
    """Full ranges map onto each other: bytes to [0, 1], [0, 1] to bytes, 16 bits to 8 and back up by shifting, float to float unchanged."""
    levels = np.array([0, 1, 128, 255], np.uint8)
    scaled = tr.ToDtype("float32", scale=True).apply(levels, HWC, RNG)
    assert scaled.tolist() == pytest.approx([0, 1 / 255, 128 / 255, 1], abs=1e-7)
    assert tr.ToDtype("uint8", scale=True).apply(scaled, HWC, RNG).tolist() == [0, 1, 128, 255]
    assert tr.ToDtype("uint16", scale=True).apply(levels, HWC, RNG).tolist() == [0, 256, 128 * 256, 255 * 256]
    assert tr.ToDtype("uint8", scale=True).apply(np.array([65535], np.uint16), HWC, RNG).tolist() == [255]
    assert tr.ToDtype("float64", scale=True).apply(np.array([7.0], np.float32), HWC, RNG).tolist() == [7.0]
    assert tr.ToDtype("float32").apply(levels, HWC, RNG).tolist() == [0, 1, 128, 255]


def test_layouts_are_views_and_inverses() -> None:
    """Channels move to the front and back without a copy; the layout an image has already is left alone."""
    image = noise(4, 5)
    first = tr.ToLayout("CHW").apply(image, HWC, RNG)
    assert first.shape == (3, 4, 5)
    assert np.shares_memory(first, image)
    assert np.array_equal(tr.ToLayout("HWC").apply(first, CHW, RNG), image)
    assert tr.ToLayout("HWC").apply(image, HWC, RNG) is image
    assert tr.ToLayout("CHW").declare(Spec((None, 5, 3), "float32", "HWC")) == Spec((3, None, 5), "float32", "CHW")


def test_pad_fills_and_only_cuts_when_told() -> None:
    """Short runs are filled, long ones are an error that names both lengths, and are cut on request."""
    run = np.arange(5, dtype=np.int32)
    assert tr.Pad(7, value=-1).apply(run, Ragged("int32"), RNG).tolist() == [0, 1, 2, 3, 4, -1, -1]
    assert tr.Pad(5).apply(run, Ragged("int32"), RNG).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(BadData, match=r"a run of 5 elements does not fit into Pad\(length=4\); raise length, or truncate=True"):
        tr.Pad(4).apply(run, Ragged("int32"), RNG)
    assert tr.Pad(4, truncate=True).apply(run, Ragged("int32"), RNG).tolist() == [0, 1, 2, 3]
    assert tr.Pad(2).apply(run[:0], Ragged("int32"), RNG).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tr.Cast("complex64"), "Cast: dtype 'complex64' is not numeric"),
        (lambda: tr.Cast("flaot32"), "Cast: dtype 'flaot32' is not known to numpy"),
        (lambda: tr.ToDtype("bool", scale=True), "dtype='bool' has no range to scale to"),
        (lambda: tr.Normalize(0.5, 0.0), "std=0.0 needs finite numbers, above 0"),
        (lambda: tr.Normalize((0.5, float("nan")), 1.0), "mean=.* needs finite numbers"),
        (lambda: tr.Normalize("a", 1.0), "mean='a' is not a number"),
        (lambda: tr.ToLayout("CWH"), "layout='CWH' is not one of 'CHW', 'HWC'"),
        (lambda: tr.Pad(0), "length=0 is not an integer of at least 1"),
    ],
)
def test_refused_arguments(make: Any, message: str) -> None:
    """An argument that cannot work is refused when the op is made, with its name and value."""
    with pytest.raises(BadRequest, match=message):
        make()


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        (tr.Cast("int8"), Encoded("png"), r"Cast\(dtype='int8'\) works on arrays, not on encoded png bytes: Decode\(\) comes first"),
        (tr.Normalize(0, 1), Spec((3,), "int64"), r"works on floats, not on int64 \[3\]: put Cast\('float32'\) before it"),
        (tr.Normalize(0, 1), Spec((3,), "uint8"), r"put Cast\('float32'\) before it"),
        (tr.Normalize(0, 1), Ragged("float32"), r"arrays of one shape, not on float32 \[any length\]: put Pad"),
        (tr.Normalize((0, 1), 1), HWC, "has 2 values for 3 channels"),
        (tr.Normalize((0, 1, 2), 1), Spec((), "float32"), "has 3 values for 1 channels"),
        (tr.ToDtype("float32", scale=True), Spec((3,), "bool"), "has no range to scale from"),
        (tr.ToLayout("CHW"), Spec((3,), "float32"), r"works on images, not on float32 \[3\]"),
        (tr.ToLayout("CHW"), Encoded(), r"not on encoded image bytes: Decode\(\) comes first"),
        (tr.Pad(4), Spec((2, 2), "float32"), r"works on runs of any length \(Tokens, Text, Bytes, Json\), not on float32 \[2, 2\]"),
        (tr.Pad(4), Spec((5,), "float32"), r"would cut float32 \[5\]: raise length, or truncate=True"),
        (tr.Pad(4, value=-1), Ragged("uint8"), "value=-1 does not fit into uint8; put Cast before it"),
        (tr.Pad(4, value=float("nan")), Ragged("int32"), "value=nan does not fit into int32"),
    ],
)
def test_refused_inputs(op: Any, given: Any, message: str) -> None:
    """An op refuses what it cannot take, naming itself, what it got and the remedy."""
    with pytest.raises(BadRequest, match=message):
        op.declare(given)
