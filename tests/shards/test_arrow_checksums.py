"""Verifying an Arrow shard of ours names the exact row and the column of whatever was changed, and no row where none was."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from contracts.shard_formats import CASES, MIXED, NUMBERS, mixed, numbers, write_shard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.fields import Array, Schema, Text, Tokens
from penstock.shards import commits
from penstock.shards.arrow import open_shard
from penstock.shards.arrow_checksums import BLOCK_KEY, COLUMNS_KEY, ROWS_KEY, row_checksums, to_metadata
from penstock.shards.arrow_columns import columns_of
from penstock.shards.arrow_types import arrow_type
from penstock.shards.formats import open_reader
from penstock.shards.manifest import Shard
from penstock.shards.verify import Problem, verify

SCHEMA: Schema = {**NUMBERS, **MIXED, "mask": Array((2, 3), "bool"), "text": Text(), "halves": Tokens("float16")}
ROWS: list[dict[str, Any]] = [
    {
        **a,
        **b,
        "mask": np.arange(6).reshape(2, 3) % 2 == i % 2,
        "text": "ü" * (i % 4) + "word",
        "halves": np.arange(i % 3, dtype=np.float16),
    }
    for i, (a, b) in enumerate(zip(numbers(41), mixed(41), strict=True))
]
FIRST = 5
"""Rows of a shard before the one that is damaged."""

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Place:
    """Where a row's value of one column lies in a shard: bytes of the file, and in each the bits that are the row's own."""

    def __init__(self, data: bytes, row: int, name: str) -> None:
        """Find it by the addresses that Arrow gives."""
        whole = pa.py_buffer(data)
        file = pa.ipc.open_file(whole)
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        number = row // batches[0].num_rows
        array, self.row, self.block = batches[number].column(name), row % batches[0].num_rows, number
        first, last = self.row, self.row + 1
        self.offsets: list[int] = []  # places of the offsets of all rows of the block
        while True:
            values = array.buffers()[-1] if array.type in {pa.string(), pa.binary()} else None
            if pa.types.is_list(array.type) or values is not None:
                bounds = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1]
                start = array.buffers()[1].address - whole.address
                self.offsets = [start + 4 * k for k in range(len(array) + 1)]
                first, last = int(bounds[first]), int(bounds[last])
            if values is not None:
                self.bits = [(values.address - whole.address + at, bit) for at in range(first, last) for bit in range(8)]
                return
            if pa.types.is_fixed_size_list(array.type):
                first, last = first * array.type.list_size, last * array.type.list_size
            elif not pa.types.is_list(array.type):
                break
            array = array.values
        width, begin = array.type.bit_width, array.buffers()[1].address - whole.address
        self.bits = [(begin + at // 8, at % 8) for at in range(first * width, last * width)]


def dataset(root: Path) -> tuple[Path, bytes]:
    """Commit a small shard and one of the rows in blocks; return the second's file and its bytes."""
    if not (root / "b.arrow").exists():
        shards = [
            write_shard(root / "a.arrow", "arrow", SCHEMA, ROWS[:FIRST]),
            write_shard(root / "b.arrow", "arrow", SCHEMA, ROWS, block_bytes=1700),
        ]
        commits.commit(root, operation="create", schema=SCHEMA, added=shards)
        (root / "whole").write_bytes((root / "b.arrow").read_bytes())
    return root / "b.arrow", (root / "whole").read_bytes()


def damaged(root: Path, *bits: tuple[int, int]) -> list[Problem]:
    """Flip bits of the second shard and return what verifying finds."""
    path, data = dataset(root)
    changed = bytearray(data)
    for at, bit in bits:
        changed[at] ^= 1 << bit
    path.write_bytes(changed)
    return list(verify(str(root)))


def named(problem: Problem) -> tuple[Any, ...]:
    """Return where a problem is said to be."""
    return problem.shard, problem.row, problem.dataset_row, problem.field


@QUIET
@given(row=st.integers(0, len(ROWS) - 1), name=st.sampled_from(list(SCHEMA)), pick=st.randoms(use_true_random=False))
def test_any_bit_of_any_value_names_its_row_and_column(tmp_path: Path, row: int, name: str, pick: Any) -> None:
    """Whichever bit of whichever value of whichever kind of column flips, exactly that row and that column are named, once."""
    bits = Place(dataset(tmp_path)[1], row, name).bits
    assume(bits)
    (problem,) = damaged(tmp_path, pick.choice(bits))
    assert named(problem) == ("b.arrow", row, FIRST + row, name)
    assert "restore" in problem.reason


@pytest.mark.parametrize("name", SCHEMA)
def test_every_row_is_named_by_its_first_bit(tmp_path: Path, name: str) -> None:
    """Going through all rows that have a value, in every block, each is named when its first bit flips."""
    data = dataset(tmp_path)[1]
    for row in range(len(ROWS)):
        if bits := Place(data, row, name).bits:
            assert [named(problem) for problem in damaged(tmp_path, bits[0])] == [("b.arrow", row, FIRST + row, name)]


@QUIET
@given(rows=st.sets(st.integers(0, len(ROWS) - 1), min_size=2, max_size=4), names=st.lists(st.sampled_from(list(NUMBERS)), min_size=4, max_size=4))
def test_of_several_bad_rows_the_first_of_each_block_is_named(tmp_path: Path, rows: set[int], names: list[str]) -> None:
    """The first bad row of each block is named; its column only where all bad rows of the block share it, or the row is alone."""
    data = dataset(tmp_path)[1]
    places = [(row, name, Place(data, row, name)) for row, name in zip(sorted(rows), names, strict=False)]
    expected = []
    for block in sorted({place.block for _, _, place in places}):
        there = [(row, name) for row, name, place in places if place.block == block]
        field = there[0][1] if len({name for _, name in there}) == 1 else None
        expected.append(("b.arrow", there[0][0], FIRST + there[0][0], field))
    assert [named(problem) for problem in damaged(tmp_path, *(place.bits[0] for _, _, place in places))] == expected


@QUIET
@given(
    row=st.integers(0, len(ROWS) - 1),
    name=st.sampled_from([name for name, field in SCHEMA.items() if field.ragged]),
    bit=st.integers(0, 31),
    after=st.booleans(),
)
def test_any_bit_of_an_offset_names_the_first_row_it_bounds(tmp_path: Path, row: int, name: str, bit: int, *, after: bool) -> None:
    """A wrong offset makes the row before it end, and the row behind it begin, elsewhere: the first of them is named, also when it leads nowhere."""
    place = Place(dataset(tmp_path)[1], row, name)
    at = place.row + after
    first = row if after or place.row == 0 else row - 1
    problems = damaged(tmp_path, (place.offsets[at] + bit // 8, bit % 8))
    assert [named(problem) for problem in problems] == [("b.arrow", first, FIRST + first, name)]


def test_two_columns_of_one_row_name_the_first(tmp_path: Path) -> None:
    """When one row alone is bad, its first bad column is named, and the reason has them all."""
    data = dataset(tmp_path)[1]
    (problem,) = damaged(tmp_path, Place(data, 8, "label").bits[0], Place(data, 8, "x").bits[3])
    assert named(problem) == ("b.arrow", 8, FIRST + 8, "x")
    assert "in x, label" in problem.reason


def test_no_bit_of_the_file_passes_and_no_sound_row_is_named(tmp_path: Path) -> None:
    """Wherever a bit flips, something is found, and no row is blamed while all read as they were written, nor one before the first that does not."""
    path, data = dataset(tmp_path)
    for at in range(11, len(data), 89):
        problems = damaged(tmp_path, (at, at % 8))
        assert problems, at
        bad = first_unlike(tmp_path, path)
        rows = [problem.row for problem in problems if problem.row is not None]
        assert bool(rows) <= (bad is not None), (at, problems)
        assert not rows or bad is None or rows[0] in {bad[0], *range(*bad)}, (at, problems)


def first_unlike(root: Path, path: Path) -> tuple[int, int] | None:
    """Return the first row that Arrow does not read as it was written, and the end of its block; None when all do."""
    manifest = commits.load(str(root))
    shard = manifest.shards[1]
    try:
        reader = open_shard(Path(manifest.root) / shard.path, shard, manifest.schema)
    except BadData:
        return 0, shard.rows
    with contextlib.closing(reader):
        for row, expected in enumerate(ROWS):
            end = int(reader.block_starts[reader.block_starts > row][0])
            try:
                found = {name: field.decode(reader.row(row)[name]) for name, field in SCHEMA.items()}
            except BadData:
                return row, end
            if any(encoded_bytes(found[name], name) != encoded_bytes(expected[name], name) for name in SCHEMA):
                return row, end
    return None


def encoded_bytes(value: Any, name: str) -> bytes:
    """Return a value as bytes, so that NaN equals itself."""
    return np.asarray(SCHEMA[name].encode(value)).tobytes() if not isinstance(value, bytes | str) else str(value).encode()


def test_padding_and_a_stored_checksum_are_no_rows(tmp_path: Path) -> None:
    """Bits that are nobody's value, and a checksum that was itself changed, are told as such and blame no row."""
    _, data = dataset(tmp_path)
    last = Place(data, len(ROWS) - 1, "even").bits[0]
    (problem,) = damaged(tmp_path, (last[0], 7)) if last[1] < 7 else damaged(tmp_path, (last[0] + 1, 0))
    assert (problem.row, "the file has checksum" in problem.reason) == (None, True)
    (problem,) = damaged(tmp_path, (data.index(metadata_of(data)[BLOCK_KEY.encode()]), 0))
    assert (problem.row, "each row has its own" in problem.reason) == (None, True)
    (problem,) = damaged(tmp_path, (data.index(metadata_of(data)[ROWS_KEY.encode()]), 1))
    assert (problem.row, "the file has checksum" in problem.reason) == (None, True)


def metadata_of(data: bytes, block: int = 0) -> dict[bytes, bytes]:
    """Return the custom metadata of a block's message."""
    return dict(pa.ipc.open_file(pa.py_buffer(data)).get_batch_with_custom_metadata(block).custom_metadata)


@pytest.mark.parametrize("name", CASES)
def test_the_row_checksums_are_those_that_the_format_says(name: str) -> None:
    """The fast way equals hashing each row by itself: of each column in order the value, or the hash of the run."""
    schema, rows = CASES[name]
    arrays = [pa.array([_plain(field.encode(row[column])) for row in rows], arrow_type(field)) for column, field in schema.items()]
    columns = columns_of(pa.RecordBatch.from_arrays(arrays, list(schema)), schema)
    expected = []
    for index in range(len(rows)):
        hasher = xxhash.xxh3_64()
        for column, field in schema.items():
            value = columns[column].row(index).tobytes()
            hasher.update(xxhash.xxh3_64_intdigest(value).to_bytes(8, "little") if field.ragged else value)
        expected.append(hasher.intdigest() & 0xFFFFFF)
    assert row_checksums(columns).tolist() == expected
    packed = b"".join(value.to_bytes(3, "little") for value in expected)
    assert to_metadata(columns)[ROWS_KEY] == base64.b64encode(packed)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_the_metadata_is_text_and_small(tmp_path: Path) -> None:
    """Arrow's messages hold text, which a strict reader insists on: every value is ASCII, and rows have four characters each."""
    _, data = dataset(tmp_path)
    found = metadata_of(data)
    assert set(found) == {BLOCK_KEY.encode(), COLUMNS_KEY.encode(), ROWS_KEY.encode()}
    assert all(value.isascii() and value.isalnum() for value in (found[BLOCK_KEY.encode()], found[COLUMNS_KEY.encode()].replace(b" ", b"")))
    with pa.ipc.open_file(pa.py_buffer(data)) as file:
        assert len(found[ROWS_KEY.encode()]) == 4 * file.get_batch(0).num_rows


def rewritten(root: Path, change: dict[str, bytes | None]) -> tuple[Shard, Any]:
    """Write a block of three rows with other metadata than its own; return the shard and its reader."""
    schema: Schema = {"t": Text(), "n": Tokens("int8")}
    batch = pa.RecordBatch.from_arrays([pa.array(["one", "two", "three"]), pa.array([[1], [], [2]], pa.list_(pa.int8()))], ["t", "n"])
    kept = {**to_metadata(columns_of(batch, schema)), **change}
    with pa.ipc.new_file(str(root / "a.arrow"), batch.schema) as file:
        file.write_batch(batch, custom_metadata={key: value for key, value in kept.items() if value is not None})
    shard = Shard(path="a.arrow", format="arrow", rows=3, bytes=(root / "a.arrow").stat().st_size, xxh3=None, block_rows=0)
    return shard, open_reader(root, shard, schema)


@pytest.mark.parametrize("value", [b"", b"AAAA", b"A" * 16, b"AAA", b"A" * 11, "é".encode() * 5, b"A" * 100_000])
def test_row_checksums_that_are_not_one_for_each_row_are_refused(tmp_path: Path, value: bytes) -> None:
    """A value of another length is bad data of that shard, whatever the rows are; reading them does not look at it."""
    _, reader = rewritten(tmp_path, {ROWS_KEY: value})
    assert bytes(reader.row(2)["t"]) == b"three"
    with contextlib.closing(reader), pytest.raises(BadData, match=ROWS_KEY) as caught:
        reader.check(0)
    assert (caught.value.shard, caught.value.row) == ("a.arrow", None)


@pytest.mark.parametrize("value", [b"\xff\x00" * 6, b"AAAAAAAA====", b"AAAAAAAAAA==", b"AAAAAAAAAAA=", "é".encode() * 6, b"A" * 11 + b"\n"])
def test_row_checksums_that_cannot_be_read_are_refused_when_needed(tmp_path: Path, value: bytes) -> None:
    """A value that is not base64 is bad data of that shard as soon as a row is looked for; until then the block's checksum is enough."""
    _, reader = rewritten(tmp_path, {ROWS_KEY: value})
    reader.check(0)
    reader.close()
    _, reader = rewritten(tmp_path, {ROWS_KEY: value, BLOCK_KEY: b"no"})
    with contextlib.closing(reader), pytest.raises(BadData, match=ROWS_KEY) as caught:
        reader.check(0)
    assert (caught.value.shard, caught.value.row) == ("a.arrow", None)


@pytest.mark.parametrize("value", [b"", b"0 1 2", b"\xff \xfe \xfd", b"0123456789abcdef"])
def test_column_checksums_that_are_none_are_refused(tmp_path: Path, value: bytes) -> None:
    """There is one for each column, or the metadata is bad data."""
    _, reader = rewritten(tmp_path, {COLUMNS_KEY: value})
    with contextlib.closing(reader), pytest.raises(BadData, match=COLUMNS_KEY):
        reader.check(0)


def test_wrong_checksums_of_the_right_form_are_told_apart(tmp_path: Path) -> None:
    """Where the block's checksum is wrong the others say what is: a row, or nothing but the header."""
    cases: list[tuple[dict[str, bytes | None], tuple[Any, ...], str]] = [
        ({BLOCK_KEY: b"no"}, (None, None), "each row has its own"),
        ({BLOCK_KEY: b"\xff\xfe", ROWS_KEY: b"A" * 12}, (None, None), "each column has its own"),
        ({BLOCK_KEY: b"no", ROWS_KEY: b"A" * 12, COLUMNS_KEY: b"no no"}, (0, None), "3 of rows 0 to 2 differ, in t, n"),
        ({BLOCK_KEY: b"no", ROWS_KEY: b"A" * 12, COLUMNS_KEY: None}, (0, None), "3 of rows 0 to 2 differ"),
        ({BLOCK_KEY: b"no", ROWS_KEY: None, COLUMNS_KEY: None}, (0, None), "rows 0 to 2 have checksum"),
    ]
    for change, place, reason in cases:
        _, reader = rewritten(tmp_path, change)
        with contextlib.closing(reader), pytest.raises(BadData, match=reason) as caught:
            reader.check(0)
        assert (caught.value.row, caught.value.field) == place


def test_without_row_checksums_the_block_is_named(tmp_path: Path) -> None:
    """Without row checksums a whole file passes and a changed one names the first row of the bad block, or the row whose offsets lead nowhere."""
    shard, reader = rewritten(tmp_path, {ROWS_KEY: None, COLUMNS_KEY: None})
    data = (tmp_path / "a.arrow").read_bytes()
    reader.check(0)
    reader.close()
    for old, new, row, reason in (
        (b"three", b"trhee", 0, "rows 0 to 2 have checksum"),
        (np.array([0, 3, 6, 11], np.int32).tobytes(), np.array([0, 3, 2, 11], np.int32).tobytes(), 1, "offsets"),
    ):
        (tmp_path / "a.arrow").write_bytes(data.replace(old, new))
        with contextlib.closing(open_reader(tmp_path, shard, {"t": Text()})) as damaged_reader, pytest.raises(BadData, match=reason) as caught:
            damaged_reader.check(0)
        assert caught.value.row == row


def test_a_foreign_text_that_is_no_text_names_its_row_and_column(tmp_path: Path) -> None:
    """Without any checksum, the first row whose text is not UTF-8 is named, whichever column it is in."""
    good = pa.array(["fine"] * 6)
    bad = [
        pa.Array.from_buffers(pa.string(), 6, [None, good.buffers()[1], pa.py_buffer(b"fine" * row + b"\xff" * 4 + b"fine" * 6)]) for row in (4, 2)
    ]
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema([("late", pa.string()), ("early", pa.string())])) as file:
        file.write_batch(pa.record_batch([good, good], ["late", "early"]))
        file.write_batch(pa.record_batch(bad, ["late", "early"]))
    (problem,) = verify(str(tmp_path / "a.arrow"))
    assert named(problem) == ("a.arrow", 6 + 2, 6 + 2, "early")


def test_the_shard_that_is_damaged_has_several_blocks(tmp_path: Path) -> None:
    """The tests above go through several blocks, the last of them shorter: otherwise they would prove less than they say."""
    _, data = dataset(tmp_path)
    with pa.ipc.open_file(pa.py_buffer(data)) as file:
        *sizes, last = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
    assert len(sizes) > 1
    assert last < min(sizes) == max(sizes)
