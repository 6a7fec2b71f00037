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

import penstock.transforms as T
from penstock.transforms.base import Encoded, Given, Op, Ragged, Spec

IMAGE = Spec((None, None, 3), "uint8", "HWC")
GRAY = Spec((None, None, 1), "uint8", "HWC")
KNOWN = Spec((40, 60, 3), "uint8", "HWC")
FLOATS = Spec((5,), "float32")

CASES: list[tuple[Op, Given, Any]] = [
    (T.Decode(), Encoded("jpeg"), encode(photo(40, 60))),
    (T.Decode(mode="GRAY"), Encoded("png"), encode(photo(40, 60), "png")),
    (T.Decode(apply_exif_orientation=True), Encoded(), encode(photo(40, 60), "webp")),
    *[
        (op, spec, noise(40, 60, spec.shape[2] or 3))
        for spec in (IMAGE, GRAY, KNOWN)
        for op in (
            T.Resize(20),
            T.Resize(20, max_size=25),
            T.Resize((7, 90)),
            T.CenterCrop(24),
            T.CenterCrop((50, 70)),
            T.RandomCrop(16),
            T.RandomCrop((44, 64), padding=4, fill=9),
            T.RandomCrop((64, 16), pad_if_needed=True),
            T.RandomResizedCrop(24),
            T.RandomResizedCrop((8, 40), scale=(0.5, 0.6), ratio=(1.0, 2.0)),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.4, 0.4, 0.4, 0.1),
            T.ColorJitter(hue=(-0.5, 0.5)),
            T.Grayscale(),
            T.Grayscale(3),
            T.Normalize(0.5, 0.25),
            T.ToDtype("float32", scale=True),
            T.ToDtype("float16"),
            T.ToLayout("CHW"),
            T.ToLayout("HWC"),
            T.Cast("int64"),
        )
    ],
    (T.Normalize((0.1, 0.2, 0.3), (1, 2, 3)), Spec((3, 4, 5), "float32", "CHW"), noise(3, 4, 5).astype(np.float32)),
    (T.Normalize((0.1, 0.2, 0.3), (1, 2, 3)), Spec((3, 4, 5), "uint8", "CHW"), noise(3, 4, 5)),
    (T.ToLayout("HWC"), Spec((3, 4, 5), "uint8", "CHW"), noise(3, 4, 5)),
    (T.Normalize(0.5, 2.0), FLOATS, np.arange(5, dtype=np.float32)),
    (T.Normalize((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)), FLOATS, np.arange(5, dtype=np.float32)),
    (T.Normalize(3, 2), Spec((), "float64"), np.array(7.0)),
    (T.Cast("float64"), FLOATS, np.arange(5, dtype=np.float32)),
    (T.Cast("float32"), Ragged("int32"), np.arange(5, dtype=np.int32)),
    (T.ToDtype("uint8", scale=True), FLOATS, np.linspace(0, 1, 5, dtype=np.float32)),
    (T.ToDtype("uint8", scale=True), Spec((3,), "uint16"), np.array([0, 256, 65535], np.uint16)),
    (T.ToDtype("int32", scale=True), Spec((3,), "uint8"), np.array([0, 1, 255], np.uint8)),
    (T.Pad(8, value=-1), Ragged("int32"), np.arange(5, dtype=np.int32)),
    (T.Pad(3, truncate=True), Ragged("uint8"), np.arange(5, dtype=np.uint8)),
    (T.Pad(8), FLOATS, np.arange(5, dtype=np.float32)),
    (T.Pad(8, value=float("nan")), Ragged("float32"), np.arange(5, dtype=np.float32)),
]


@pytest.mark.parametrize(
    ("op", "given", "value"), CASES, ids=lambda part: str(part)[:60] if isinstance(part, (Op, Encoded, Spec, Ragged)) else "value"
)
def test_keeps_the_contract(op: Op, given: Given, value: Any) -> None:
    """The op passes the checker of the contract of ops."""
    check_op(op, given, value)


def test_no_public_op_is_forgotten() -> None:
    """Every op that the package hands out stands in the list above."""
    public = {getattr(T, name) for name in T.__all__ if name not in ("Op", "Map")}
    assert public == {type(op) for op, _, _ in CASES}


@settings(max_examples=60, deadline=None)
@drawn(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.data())
def test_image_ops_declare_right_for_any_size(height: int, width: int, channels: int, data: st.DataObject) -> None:
    """With a known size, every image op that takes it declares exactly what it yields."""
    size = data.draw(st.integers(1, 40))
    ops = (
        T.Resize(size),
        T.Resize((size, 5)),
        T.CenterCrop(size),
        T.RandomCrop(size, pad_if_needed=True),
        T.RandomResizedCrop(size),
        T.RandomHorizontalFlip(),
        T.Grayscale(3),
    )
    op = data.draw(st.sampled_from(ops))
    check_op(op, Spec((height, width, channels), "uint8", "HWC"), noise(height, width, channels))


def test_the_checker_can_fail() -> None:
    """A value of another shape or dtype does not pass for what was declared."""
    assert not fits(np.zeros(3, np.float32), Spec((4,), "float32"))
    assert not fits(np.zeros(4, np.float64), Spec((4,), "float32"))
    assert not fits(np.zeros((4, 1), np.float32), Ragged("float32"))
    assert fits(np.zeros((4, 9), np.float32), Spec((4, None), "float32"))
