"""Ops in every order and columns in every layout: what a chain leaves out changes nothing, and what would be lost is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contracts.pictures import encode, noise, photo
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock.transforms as tr
from penstock import fields
from penstock.errors import BadRequest
from penstock.transforms.base import Encoded, Op, Ragged, Spec, dtype_name, image_spec
from penstock.transforms.chain import Chain, compile_chain
from penstock.transforms.random import Random

JPEG = fields.Image("jpeg")
PLANES = fields.Array((3, 9, 8), "uint8")


def run(chain: Chain, value: Any, sample: int = 0) -> Any:
    """Return what a chain writes, after comparing it with the reference."""
    assert isinstance(chain.output, Spec)
    out = np.full(chain.output.fixed_shape, 77, chain.output.dtype)
    chain.run(value, 5, sample, out)
    assert np.array_equal(out, chain.reference(value, 5, sample))
    return out


@pytest.mark.parametrize(
    "between",
    [
        [tr.Cast("float32"), tr.Normalize(0, 2), tr.Cast("uint8")],
        [tr.Cast("bool"), tr.Cast("uint8")],
        [tr.Normalize(0.5, 0.5), tr.ToDtype("uint8", scale=True)],
        [tr.ToDtype("float16", scale=True), tr.Cast("uint8")],
        [tr.ToDtype("int8", scale=True), tr.ToDtype("uint8", scale=True)],
    ],
)
@pytest.mark.parametrize("image_op", [tr.CenterCrop(8), tr.ColorJitter(0.4), tr.Grayscale(3)])
def test_values_changed_in_front_of_an_image_op_are_refused(between: list[Op], image_op: Op) -> None:
    """Ops that change a byte's value and stand before an image op are refused by name: they are never left out without a word."""
    with pytest.raises(BadRequest, match=r"column 'i': \[.*\] change values in front of .*: put them behind all image ops"):
        compile_chain("i", JPEG, [tr.CenterCrop(9), *between, image_op, tr.CenterCrop(8)])


@pytest.mark.parametrize(
    "between",
    [
        [tr.Cast("uint8")],
        [tr.ToDtype("uint8", scale=True)],
        [tr.Cast("int64"), tr.Cast("uint8")],
        [tr.ToLayout("CHW"), tr.ToLayout("HWC")],
        [tr.ToDtype("float32", scale=True), tr.ToDtype("uint8", scale=True)],
    ],
)
def test_what_changes_nothing_is_left_out(between: list[Op]) -> None:
    """Conversions there and back in front of an image op give the pixels that the chain gives without them."""
    data = encode(photo(40, 50))
    image_ops: list[Op] = [tr.RandomResizedCrop(16), tr.ColorJitter(0.4), tr.ToLayout("CHW")]
    plain = compile_chain("i", JPEG, image_ops)
    odd = compile_chain("i", JPEG, [tr.Decode(), *between, *image_ops])
    assert len(odd.body) == 2
    for sample in range(3):
        expected = compile_chain("i", JPEG, [tr.Decode(), *[tr.Cast("uint8")] * len(between), *image_ops])
        assert np.array_equal(run(odd, data, sample), run(expected, data, sample))  # equal places key equal draws
    assert run(plain, data).shape == run(odd, data).shape


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([tr.RandomHorizontalFlip(), tr.Resize((7, 5)), tr.RandomCrop(4, padding=1), tr.ColorJitter(0.3), tr.Grayscale(3)]), max_size=3
    ),
    st.sampled_from([[], [tr.ToLayout("CHW")], [tr.Normalize(0.5, 0.5), tr.ToLayout("CHW")], [tr.ToDtype("float32", scale=True)]]),
    st.integers(0, 2**40),
)
def test_planes_are_turned_first(ops: list[Op], tail: list[Op], sample: int) -> None:
    """A column stored as planes (CHW), turned by ToLayout, gives what the same picture stored as pixels gives."""
    planes = np.random.default_rng(1).integers(0, 256, (3, 9, 8), np.uint8)
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0))
    ours = compile_chain("x", PLANES, [tr.ToLayout("HWC"), *ops, *tail])
    same = compile_chain("x", fields.Array((9, 8, 3), "uint8"), [tr.ToLayout("HWC"), *ops, *tail])
    assert ours.output == same.output
    assert np.array_equal(run(ours, planes, sample), run(same, pixels, sample))


def test_planes_from_memory_that_must_not_be_written() -> None:
    """Turned planes are read where they are, read-only, and are not changed."""
    planes = np.random.default_rng(1).integers(0, 256, (3, 9, 8), np.uint8)
    before = planes.copy()
    planes.flags.writeable = False
    chain = compile_chain("x", PLANES, [tr.ToLayout("HWC"), tr.RandomHorizontalFlip(1.0), tr.ToLayout("CHW")])
    assert np.array_equal(run(chain, planes), before[:, :, ::-1])
    assert np.array_equal(planes, before)


def test_one_plane() -> None:
    """A single plane is a grey picture."""
    plane = np.random.default_rng(1).integers(0, 256, (1, 9, 8), np.uint8)
    chain = compile_chain("x", fields.Array((1, 9, 8), "uint8"), [tr.ToLayout("HWC"), tr.CenterCrop((3, 4)), tr.ToLayout("CHW")])
    assert np.array_equal(run(chain, plane), plane[:, 3:6, 2:6])


def test_planes_without_turning_are_refused() -> None:
    """An image op on planes says where ToLayout belongs, and planes changed before they are turned are refused."""
    with pytest.raises(BadRequest, match=r"column 'x': RandomHorizontalFlip.*works on uint8 images laid out HWC, not on uint8 \[3, 9, 8\] CHW"):
        compile_chain("x", PLANES, [tr.RandomHorizontalFlip()])
    with pytest.raises(BadRequest, match="change values in front of"):
        compile_chain("x", PLANES, [tr.Cast("bool"), tr.Cast("uint8"), tr.ToLayout("HWC"), tr.RandomHorizontalFlip()])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (4, 4, 4)])
def test_rowwise_equals_row_by_row_for_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    """A batch in one call equals its rows one by one, for every dtype and shape a column may have."""
    field = fields.Array(shape, dtype) if shape else fields.Scalar(dtype)
    chain = compile_chain("x", field, [tr.Cast("float64"), tr.Normalize(1.5, 2.0), tr.Cast("float32")])
    assert chain.rowwise
    values = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (6, *shape)).astype(dtype)
    out = np.empty((6, *shape), np.float32)
    chain.run_rows(values, out)
    for index in range(6):
        assert np.array_equal(run(chain, values[index, ...]), out[index, ...])
        assert np.allclose(out[index, ...], (values[index, ...].astype(float) - 1.5) / 2)


def test_a_chain_that_is_not_rowwise_refuses_batches() -> None:
    """Image chains are told sample by sample, and say so."""
    chain = compile_chain("i", JPEG, [tr.CenterCrop(8)])
    with pytest.raises(BadRequest, match="need each sample on its own; use run"):
        chain.run_rows(np.zeros((2, 8), np.uint8), np.zeros((2, 3, 8, 8), np.uint8))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Encoded(), "encoded image bytes"),
        (Encoded("webp"), "encoded webp bytes"),
        (Spec((None, 3), "int8"), "int8 [any, 3]"),
        (Spec((), "bool"), "bool []"),
        (Spec((1, 2, 3), "uint8", "HWC"), "uint8 [1, 2, 3] HWC"),
        (Ragged("float16"), "float16 [any length]"),
    ],
)
def test_specs_speak(spec: Any, text: str) -> None:
    """Each description shows itself the way messages quote it."""
    assert str(spec) == text


def test_known_shapes() -> None:
    """A spec knows whether all its dimensions are known, and gives those that are."""
    assert Spec((2, 3), "int8").known
    assert not Spec((2, None), "int8").known
    assert Spec((2, 3), "int8").fixed_shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "message"), [("complex64", "not numeric"), ("U3", "not numeric"), (object(), "not known"), ("datetime64[s]", "not")]
)
def test_dtypes_that_are_none(given: Any, message: str) -> None:
    """What is no numeric dtype is refused with the op's name and the value."""
    with pytest.raises(BadRequest, match=f"Op: dtype .*{message}"):
        dtype_name("Op", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Spec((4, 5), "uint8"), "use it on a column of Image, or of Array"),
        (Spec((4, 5, None), "uint8", "HWC"), "works on images"),
        (Spec((4, 5, 3), "float32", "HWC"), "put it before Normalize, ToDtype and ToLayout"),
        (Ragged("uint8"), "use it on a column of Image"),
        (Encoded("png"), r"Decode\(\) comes first"),
    ],
)
def test_what_is_no_image(given: Any, message: str) -> None:
    """image_spec refuses everything but bytes with their channels last, each with its own remedy."""
    with pytest.raises(BadRequest, match=message):
        image_spec(tr.CenterCrop(3), given)
    assert image_spec(tr.CenterCrop(3), Spec((None, 5, 1), "uint8", "HWC")) == (None, 5, 1)


def test_equal_draws_for_equal_places() -> None:
    """An implied Decode has the place an explicit one has, so that writing it out changes no draw."""
    data = encode(photo(50, 60))
    ops = [tr.RandomResizedCrop(12), tr.RandomHorizontalFlip(), tr.ColorJitter(0.3)]
    for sample in range(5):
        assert np.array_equal(run(compile_chain("i", JPEG, ops), data, sample), run(compile_chain("i", JPEG, [tr.Decode(), *ops]), data, sample))


def test_the_reference_does_not_share_state_with_the_fast_path() -> None:
    """Chains of different sizes run alternately on one thread, whose scratch memory grows and is reused, without a changed bit."""
    small, large = encode(noise(9, 9), "png"), encode(photo(300, 400))
    one = compile_chain("i", fields.Image(), [tr.Resize((5, 5)), tr.Normalize(0.5, 0.5)])
    two = compile_chain("i", fields.Image(), [tr.RandomResizedCrop(200)])
    first = run(one, small).tobytes(), run(two, large, 3).tobytes()
    for _ in range(3):
        assert (run(one, small).tobytes(), run(two, large, 3).tobytes()) == first
    assert Random(1, 2).op(3).number == 3
