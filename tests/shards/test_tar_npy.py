"""Arrays in `.npy` form: numpy's own files are read as views, lies and pickles are refused."""

from __future__ import annotations

import pickle
import struct
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import pytest
from contracts.tars import npy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import BadData
from penstock.shards.npy import array_of, bytes_of, header_of

DTYPES = ["bool", "int8", "uint8", "<i2", ">i2", "<i4", ">u4", "<i8", "<u8", "<f2", ">f4", "<f4", "<f8", ">f8"]


def memory(data: bytes) -> npt.NDArray[np.uint8]:
    """Return bytes as mapped memory looks."""
    return np.frombuffer(data, np.uint8)


def said(header: str) -> bytes:
    """Return a file of five numbers with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(40)


@given(st.data())
def test_it_reads_what_numpy_saves(data: st.DataObject) -> None:
    """Every numeric dtype, byte order, shape and memory order comes back equal, in native bytes."""
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    saved = np.asfortranarray(array) if data.draw(st.booleans()) else array
    found = array_of(memory(npy(saved)))
    np.testing.assert_array_equal(found, array)
    assert found.dtype == dtype.newbyteorder("=")
    assert found.flags.c_contiguous


def test_it_copies_nothing() -> None:
    """A native array in C order is a view of the given memory."""
    data = memory(npy(np.arange(100, dtype=np.float32)))
    assert np.shares_memory(array_of(data), data)


def test_what_it_writes_numpy_reads_alike() -> None:
    """The writer's bytes are numpy's own, so other readers know them."""
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    assert bytes_of(array) == npy(array)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.array([{"a": 1}], object), pickled=True), "never unpickles"),
        (npy(np.zeros(3, [("a", "i4"), ("b", "f4")])), "no field holds"),
        (npy(np.array(["text"])), "no field holds"),
        (npy(np.zeros(3, "datetime64[s]")), "no field holds"),
        (npy(np.zeros(3, complex)), "no field holds"),
        (npy(np.arange(5))[:-1], "bytes in all, but there are"),
        (npy(np.arange(5)) + b"x", "bytes in all, but there are"),
        (npy(np.arange(5)).replace(b"(5,)", b"(6,)"), r"shape \(6,\)"),
        (said("{'descr': '<i8', 'fortran_order': False, 'shape': (-5,)}"), r"shape \(-5,\)"),
        (said("{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999999999, 9999999999)}"), "bytes in all"),
        (said("{'descr': '<i8', 'fortran_order': False, 'shape': 5}"), "shape 5"),
        (said("{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}"), "shape"),
        (said("{'descr': '<i8', 'fortran_order': 1, 'shape': (5,)}"), "fortran_order 1"),
        (said("{'descr': '|O', 'fortran_order': False, 'shape': (5,)}"), "never unpickles"),
        (said("{'descr': '<i8'}"), "cannot be read"),
        (said("(" * 5000), "cannot be read"),
        (said("{'descr': '<i8', 'fortran_order': False, 'shape': __import__('os').system('true')}"), "cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"{}", "claims 60010 bytes"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}", "claims"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 100, "not an .npy file"),
        (pickle.dumps([1, 2, 3]), "not an .npy file"),
        (b"", "not an .npy file"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    """Object and structured dtypes, headers that lie, and other files are each refused with the reason."""
    with pytest.raises(BadData, match=words):
        header_of(memory(data))


@given(st.binary(max_size=200), st.integers(0, 127), st.binary(min_size=1, max_size=6))
def test_no_bytes_make_it_fail_otherwise(tail: bytes, at: int, new: bytes) -> None:
    """Any file is an array or a BadData, nothing else."""
    good = npy(np.arange(6, dtype=np.int16))
    for data in (tail, b"\x93NUMPY\x01\x00" + tail, good[:at] + new + good[at + len(new) :]):
        with suppress(BadData):
            array_of(memory(data))
