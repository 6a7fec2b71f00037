"""Every op passes the one checker, and no op is forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contracts.ops import check_op, fits
from contracts.pictures import encode, noise, photo
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock.transforms.base import Encoded, Given, Op, Ragged, Spec

IMAGE = Spec((None, None, 3), "uint8", "HWC")
GRAY = Spec((None, None, 1), "uint8", "HWC")
KNOWN = Spec((40, 60, 3), "uint8", "HWC")
FLOATS = Spec((5,), "float32")

CASES: list[tuple[Op, Given, Any]] = [
    (tr.Decode(), Encoded("jpeg"), encode(photo(40, 60))),
    (tr.Decode(mode="GRAY"), Encoded("png"), encode(photo(40, 60), "png")),
    (tr.Decode(apply_exif_orientation=True), Encoded(), encode(photo(40, 60), "webp")),
    *[
        (op, spec, noise(40, 60, spec.shape[2] or 3))
        for spec in (IMAGE, GRAY, KNOWN)
        for op in (
            tr.Resize(20),
            tr.Resize(20, max_size=25),
            tr.Resize((7, 90)),
            tr.CenterCrop(24),
            tr.CenterCrop((50, 70)),
            tr.RandomCrop(16),
            tr.RandomCrop((44, 64), padding=4, fill=9),
            tr.RandomCrop((64, 16), pad_if_needed=True),
            tr.RandomResizedCrop(24),
            tr.RandomResizedCrop((8, 40), scale=(0.5, 0.6), ratio=(1.0, 2.0)),
            tr.RandomHorizontalFlip(),
            tr.ColorJitter(0.4, 0.4, 0.4, 0.1),
            tr.ColorJitter(hue=(-0.5, 0.5)),
            tr.Grayscale(),
            tr.Grayscale(3),
            tr.Normalize(0.5, 0.25),
            tr.ToDtype("float32", scale=True),
            tr.ToDtype("float16"),
            tr.ToLayout("CHW"),
            tr.ToLayout("HWC"),
            tr.Cast("int64"),
        )
    ],
    (tr.Normalize((0.1, 0.2, 0.3), (1, 2, 3)), Spec((3, 4, 5), "float32", "CHW"), noise(3, 4, 5).astype(np.float32)),
    (tr.Normalize((0.1, 0.2, 0.3), (1, 2, 3)), Spec((3, 4, 5), "uint8", "CHW"), noise(3, 4, 5)),
    (tr.ToLayout("HWC"), Spec((3, 4, 5), "uint8", "CHW"), noise(3, 4, 5)),
    (tr.Normalize(0.5, 2.0), FLOATS, np.arange(5, dtype=np.float32)),
    (tr.Normalize((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)), FLOATS, np.arange(5, dtype=np.float32)),
    (tr.Normalize(3, 2), Spec((), "float64"), np.array(7.0)),
    (tr.RandomErasing(0.9, value=(1, 2, 3)), Spec((9, 7, 3), "uint8", "HWC"), np.zeros((9, 7, 3), np.uint8)),
    (tr.RandomErasing(0.9), Spec((3, 9, 7), "float32", "CHW"), np.ones((3, 9, 7), np.float32)),
    (tr.Cast("float64"), FLOATS, np.arange(5, dtype=np.float32)),
    (tr.Cast("float32"), Ragged("int32"), np.arange(5, dtype=np.int32)),
    (tr.ToDtype("uint8", scale=True), FLOATS, np.linspace(0, 1, 5, dtype=np.float32)),
    (tr.ToDtype("uint8", scale=True), Spec((3,), "uint16"), np.array([0, 256, 65535], np.uint16)),
    (tr.ToDtype("int32", scale=True), Spec((3,), "uint8"), np.array([0, 1, 255], np.uint8)),
    (tr.Pad(8, value=-1), Ragged("int32"), np.arange(5, dtype=np.int32)),
    (tr.Pad(3, truncate=True), Ragged("uint8"), np.arange(5, dtype=np.uint8)),
    (tr.Pad(8), FLOATS, np.arange(5, dtype=np.float32)),
    (tr.Pad(8, value=float("nan")), Ragged("float32"), np.arange(5, dtype=np.float32)),
    (tr.ShiftLabels(), Ragged("int64"), np.arange(5)),
    (tr.ShiftLabels(0), Spec((5,), "uint16"), np.arange(5, dtype=np.uint16)),
    (tr.MaskTokens(9, 8, p=0.5, special_ids=(2,)), Ragged("int32"), np.arange(5, dtype=np.int32)),
    (tr.MaskTokens(9, 8, p=0.5).labels(), Spec((5,), "int64"), np.arange(5)),
]


@pytest.mark.parametrize(
    ("op", "given", "value"), CASES, ids=lambda part: str(part)[:60] if isinstance(part, (Op, Encoded, Spec, Ragged)) else "value"
)
def test_keeps_the_contract(op: Op, given: Given, value: Any) -> None:
    """The op passes the checker of the contract of ops."""
    check_op(op, given, value)


def test_no_public_op_is_forgotten() -> None:
    """Every op that the package hands out stands in the list above, but for From, which is taken off a chain before ops are asked, and those on batches."""
    public = {getattr(tr, name) for name in tr.__all__ if name not in ("Op", "Map", "From", "MixUp", "CutMix")}
    assert public == {type(op) for op, _, _ in CASES}


@settings(max_examples=60, deadline=None)
@drawn(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.data())
def test_image_ops_declare_right_for_any_size(height: int, width: int, channels: int, data: st.DataObject) -> None:
    """With a known size, every image op that takes it declares exactly what it yields."""
    size = data.draw(st.integers(1, 40))
    ops = (
        tr.Resize(size),
        tr.Resize((size, 5)),
        tr.CenterCrop(size),
        tr.RandomCrop(size, pad_if_needed=True),
        tr.RandomResizedCrop(size),
        tr.RandomHorizontalFlip(),
        tr.Grayscale(3),
    )
    op = data.draw(st.sampled_from(ops))
    check_op(op, Spec((height, width, channels), "uint8", "HWC"), noise(height, width, channels))


def test_the_checker_can_fail() -> None:
    """A value of another shape or dtype does not pass for what was declared."""
    assert not fits(np.zeros(3, np.float32), Spec((4,), "float32"))
    assert not fits(np.zeros(4, np.float64), Spec((4,), "float32"))
    assert not fits(np.zeros((4, 1), np.float32), Ragged("float32"))
    assert fits(np.zeros((4, 9), np.float32), Spec((4, None), "float32"))
