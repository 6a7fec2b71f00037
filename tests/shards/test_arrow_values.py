"""What a table's values must be: text is looked at all at once, and that way agrees with Python's decoder row by row."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.fields import Array, Bytes, Field, Image, Json, Text, Tokens
from penstock.shards.arrow_columns import canonical, is_text
from penstock.shards.columns import RaggedColumn

Pieces = st.one_of(
    st.binary(max_size=5),
    st.text(max_size=5).map(str.encode),
    st.sampled_from([b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f\x99", b"\x82", b"\xf4\x90\x80\x80", b""]),
)
"""Bytes that are text, nearly text, the halves of one character, surrogates, overlong and too large."""


def column(rows: list[bytes], kind: Any = np.int32) -> RaggedColumn:
    """Return rows as a column whose runs follow each other."""
    ends = np.cumsum([len(row) for row in rows]).astype(kind)
    return RaggedColumn(starts=np.concatenate([[0], ends[:-1]]).astype(kind)[: len(rows)], ends=ends, values=np.frombuffer(b"".join(rows), np.uint8))


def decodes(row: bytes) -> bool:
    """Whether Python's decoder takes a row."""
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(deadline=None)  # the first example imports what pyarrow needs
@given(st.lists(Pieces, max_size=8), st.sampled_from([np.int32, np.int64]))
def test_whole_column_and_row_by_row_agree(rows: list[bytes], kind: Any) -> None:
    """A column is text exactly when each of its rows is, also when two rows hold the halves of one character."""
    assert is_text(column(rows, kind)) is all(map(decodes, rows))


@settings(deadline=None)  # the first example imports what pyarrow needs
@given(st.lists(Pieces, min_size=1, max_size=8))
def test_the_first_bad_row_is_named(rows: list[bytes]) -> None:
    """`canonical` refuses the column at the first row that is not text, with the decoder's words, and takes it when there is none."""
    batch = pa.record_batch([pa.array(rows, pa.large_binary())], ["t"])
    wrong = [number for number, row in enumerate(rows) if not decodes(row)]
    if not wrong:
        assert [row for part in canonical(batch, {"t": Text()}) for row in part["t"].to_pylist()] == [row.decode() for row in rows]
        return
    with pytest.raises(BadData, match="the value is not text: 'utf-8' codec can't decode") as caught:
        list(canonical(batch, {"t": Text()}))
    assert (caught.value.row, caught.value.field) == (wrong[0], "t")


def test_a_slice_is_judged_by_its_own_rows() -> None:
    """Bytes outside a slice do not count, neither before nor behind it."""
    array = pa.array([b"\xff", b"good", "é".encode(), b"\xff"], pa.large_binary())
    made = list(canonical(pa.record_batch([array], ["t"]).slice(1, 2), {"t": Text()}))
    assert made[0]["t"].to_pylist() == ["good", "é"]


@settings(deadline=None)  # the first example imports what pyarrow needs
@given(st.lists(st.lists(st.sampled_from([1, 2, 2**40]), max_size=3), min_size=1, max_size=6), st.data())
def test_a_cast_of_lists_judges_the_rows_of_a_slice_alone(rows: list[list[int]], data: st.DataObject) -> None:
    """Numbers too large in rows beside a slice do not spoil it, for lists of any length, of 64-bit offsets, and of one length."""
    low = data.draw(st.integers(0, len(rows) - 1))
    high = data.draw(st.integers(low + 1, len(rows)))
    kinds: list[tuple[pa.DataType, Field, list[Any]]] = [
        (pa.list_(pa.int64()), Tokens("int32"), rows),
        (pa.large_list(pa.int64()), Tokens("int16"), rows),
        (pa.list_(pa.int64(), 2), Array((2,), "int32"), [[*row, 0, 0][:2] for row in rows]),
        (pa.list_(pa.list_(pa.int64(), 1), 2), Array((2, 1), "int32"), [[[n] for n in [*row, 0, 0][:2]] for row in rows]),
    ]
    for kind, field, values in kinds:
        batch = pa.record_batch([pa.array(values, kind)], ["x"]).slice(low, high - low)
        if str(2**40) in str(values[low:high]):
            with pytest.raises(BadData, match="cannot be stored as"):
                list(canonical(batch, {"x": field}))
        else:
            assert [row for part in canonical(batch, {"x": field}) for row in part["x"].to_pylist()] == values[low:high]


@pytest.mark.parametrize(
    ("field", "rows", "reason"),
    [
        (Json(), [b"{}", b"{"], "the value is not json: Expecting"),
        (Json(), [b"1", b"\xff"], "the value is not json: 'utf-8'"),
        (Image("jpeg"), [b"\xff\xd8\xff", b"GIF8"], "image"),
    ],
)
def test_json_and_images_are_still_judged_one_by_one(field: Field, rows: list[bytes], reason: str) -> None:
    """The quick way is for text alone: the second row of other kinds is named with its own reason."""
    with pytest.raises(BadData, match=reason) as caught:
        list(canonical(pa.record_batch([pa.array(rows, pa.large_binary())], ["x"]), {"x": field}))
    assert caught.value.row == 1


def test_bytes_are_not_judged() -> None:
    """A column of bytes may hold anything."""
    batch = pa.record_batch([pa.array([b"\xff\xfe", b""])], ["x"])
    assert next(iter(canonical(batch, {"x": Bytes()})))["x"].to_pylist() == [b"\xff\xfe", b""]


def test_text_is_judged_many_times_faster_than_row_by_row() -> None:
    """200,000 short rows take far less time than decoding each, which is what the quick way is for."""
    rows = [b"row number %d" % i for i in range(200_000)]
    made = column(rows)
    began = time.perf_counter()
    assert is_text(made)
    quick = time.perf_counter() - began
    began = time.perf_counter()
    for row in range(len(made.starts)):
        made.row(row).tobytes().decode()
    assert quick < (time.perf_counter() - began) / 5
