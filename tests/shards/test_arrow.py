"""Arrow shards: the contract of every format, equal bytes however rows come, views without copies, and checksums."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from contracts.shard_formats import (
    CASES,
    MIXED,
    NUMBERS,
    Rows,
    as_table,
    check_reader,
    check_refuses_damage,
    check_writer,
    encoded,
    mixed,
    numbers,
    shard_of,
    write_shard,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest
from penstock.fields import Array, Bytes, Field, Scalar, Text, Tokens
from penstock.shards import formats
from penstock.shards.columns import FixedColumn, RaggedColumn
from penstock.shards.manifest import Shard
from penstock.shards.shardwriter import BLOCK_ROWS, open_shard_writer


@pytest.mark.parametrize("name", CASES)
def test_arrow_keeps_the_contract(tmp_path: Path, name: str) -> None:
    """The Arrow writer and reader pass the checker of every format."""
    check_writer(tmp_path, "arrow", *CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_arrow_refuses_damage(tmp_path: Path, name: str) -> None:
    """A cut file, and a manifest that promises other rows, name the shard."""
    schema, rows = CASES[name]
    check_refuses_damage(tmp_path, write_shard(tmp_path / "a.arrow", "arrow", schema, rows), schema)


def test_blocks_are_equal_and_the_last_is_shorter(tmp_path: Path) -> None:
    """Rows per block are fixed by the row that fills the first block."""
    shard = write_shard(tmp_path / "a.arrow", "arrow", {"x": Array((10,), "float32")}, [{"x": np.ones(10, np.float32)}] * 23, block_bytes=381)
    assert shard.block_rows == 10
    with pa.ipc.open_file(str(tmp_path / "a.arrow")) as file:
        assert [file.get_batch(i).num_rows for i in range(file.num_record_batches)] == [10, 10, 3]


def test_a_block_never_has_more_rows_than_the_limit(tmp_path: Path) -> None:
    """Tiny rows end a block by number, also when they come as one table."""
    table = pa.table({"n": pa.array(np.zeros(BLOCK_ROWS * 2 + 5, np.int8))})
    writer = open_shard_writer(tmp_path / "a.arrow", {"n": Scalar("int8")})
    writer.write_table(table)
    assert writer.close().block_rows == BLOCK_ROWS


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=6), block_bytes=st.integers(1, 4000))
def test_equal_rows_give_equal_bytes_however_they_come(tmp_path: Path, cuts: list[tuple[int, bool]], block_bytes: int) -> None:
    """Rows one by one, one table, and any mixture of rows and slices of tables make the same file."""
    rows = [{**a, **b} for a, b in zip(numbers(90), mixed(90), strict=True)]
    schema = {**NUMBERS, **MIXED}
    table = as_table(rows, schema)
    plain, other = tmp_path / "plain.arrow", tmp_path / "other.arrow"
    plain.unlink(missing_ok=True)
    other.unlink(missing_ok=True)
    write_shard(plain, "arrow", schema, rows, block_bytes=block_bytes)
    writer = open_shard_writer(other, schema, "arrow", block_bytes=block_bytes)
    edges = [(0, True), *sorted(cuts), (90, True)]
    for (start, as_rows), (stop, _) in pairwise(edges):
        if as_rows:
            for row in rows[start:stop]:
                writer.write_row(encoded(row, schema))
        else:
            writer.write_table(table.slice(start, stop - start))
    writer.close()
    assert plain.read_bytes() == other.read_bytes()


def test_values_may_be_reused_after_write(tmp_path: Path) -> None:
    """A buffer that the caller fills again does not change rows already taken."""
    schema = {"x": Array((3,), "int64"), "t": Tokens("int64")}
    writer = open_shard_writer(tmp_path / "a.arrow", schema)
    buffer = np.zeros(3, np.int64)
    for i in range(50):
        buffer[:] = i
        writer.write_row({"x": buffer, "t": buffer})
    shard = shard_of(tmp_path / "a.arrow", "arrow", writer.close())
    check_reader(tmp_path, shard, schema, [{"x": np.full(3, i), "t": np.full(3, i)} for i in range(50)])


def test_a_run_of_the_other_byte_order_is_turned(tmp_path: Path) -> None:
    """Big-endian numbers are stored as the numbers they are."""
    schema = {"x": Array((2,), "int32"), "t": Tokens("int32")}
    given = np.array([1, 2], ">i4")
    shard = write_shard(tmp_path / "a.arrow", "arrow", schema, [{"x": given, "t": given}])
    check_reader(tmp_path, shard, schema, [{"x": given.astype("<i4"), "t": given.astype("<i4")}])


def _address(values: np.ndarray[Any, Any]) -> int:
    return int(values.ctypes.data)


def test_a_block_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    """Fixed and ragged columns copy nothing: their bytes lie in the map, cannot be written, and asking again gives the same."""
    shard = write_shard(tmp_path / "a.arrow", "arrow", {"x": Array((3,), "float32"), "b": Bytes()}, [{"x": np.ones(3, np.float32), "b": b"abc"}] * 9)
    before = pa.total_allocated_bytes()
    reader = formats.open_reader(tmp_path, shard, {"x": Array((3,), "float32"), "b": Bytes()})
    block = reader.block(0)
    x, b = block["x"], block["b"]
    assert isinstance(x, FixedColumn)
    assert isinstance(b, RaggedColumn)
    assert pa.total_allocated_bytes() == before
    assert not x.values.flags.owndata
    assert not x.values.flags.writeable
    assert not b.values.flags.writeable
    again = reader.block(0)["x"]
    assert isinstance(again, FixedColumn)
    assert _address(again.values) == _address(x.values)
    reader.close()
    assert bytes(b.row(8)) == b"abc"


def test_a_table_in_the_written_types_is_not_copied(tmp_path: Path) -> None:
    """Slices of a table go to the file from the table's own memory, but for the offsets, which begin at zero in every block."""
    table = pa.table({"b": pa.array([b"x" * 100_000] * 200, pa.binary())})
    writer = open_shard_writer(tmp_path / "a.arrow", {"b": Bytes()})
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    writer.write_table(table)
    assert pool.bytes_allocated() - before < 1_000_000
    assert writer.close().rows == 200


def test_the_file_hash_is_the_hash_of_the_file(tmp_path: Path) -> None:
    """The hash taken while writing is that of the bytes on disk."""
    shard = write_shard(tmp_path / "a.arrow", "arrow", *CASES["mixed"])
    assert shard.xxh3 == xxhash.xxh3_64((tmp_path / "a.arrow").read_bytes()).hexdigest()


def test_a_flipped_bit_fails_the_check_of_its_own_block(tmp_path: Path) -> None:
    """A value's byte, flipped, fails exactly the check of its own block, which names its row; sound blocks pass."""
    schema = {"x": Array((4,), "float32"), "t": Text()}
    rows: Rows = [{"x": np.arange(4, dtype=np.float32) + i, "t": "word"} for i in range(60)]
    shard = write_shard(tmp_path / "a.arrow", "arrow", schema, rows, block_bytes=400)
    path = tmp_path / "a.arrow"
    data = path.read_bytes()
    reader = formats.open_reader(tmp_path, shard, schema)
    starts = reader.block_starts
    for block in range(len(starts) - 1):
        reader.check(block)
    for row in (0, 17, 59):
        at = data.index(rows[row]["x"].tobytes())
        path.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 4]) + data[at + 6 :])
        damaged = formats.open_reader(tmp_path, shard, schema)
        bad = int(damaged.places(np.array([row]))[0][0])
        for block in range(len(starts) - 1):
            if block != bad:
                damaged.check(block)
        with pytest.raises(BadData, match="checksum") as caught:
            damaged.check(bad)
        assert (caught.value.shard, caught.value.row, caught.value.field) == ("a.arrow", row, "x")
    path.write_bytes(data)


def test_a_foreign_file_has_its_structure_checked(tmp_path: Path) -> None:
    """Without a checksum, text that is not UTF-8 is still found."""
    good = pa.array(["plain text"] * 3)
    bad = pa.Array.from_buffers(pa.string(), 3, [None, good.buffers()[1], pa.py_buffer(b"plain tex\xff" * 3)])
    for name, array in (("good", good), ("bad", bad)):
        with pa.ipc.new_file(str(tmp_path / f"{name}.arrow"), pa.schema([("t", pa.string())])) as file:
            file.write_batch(pa.record_batch([array], ["t"]))
        shard = _foreign(tmp_path / f"{name}.arrow", 3)
        reader = formats.open_reader(tmp_path, shard, {"t": Text()})
        if name == "good":
            reader.check(0)
        else:
            with pytest.raises(BadData, match="UTF8"):
                reader.check(0)
        reader.close()


def _foreign(path: Path, rows: int) -> Any:
    return Shard(path=path.name, format="arrow", rows=rows, bytes=path.stat().st_size, xxh3=None, block_rows=0)


def _write_foreign(path: Path, batches: list[pa.RecordBatch], *, stream: bool = False, options: Any = None) -> Any:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), batches[0].schema, options=options) as file:
        for batch in batches:
            file.write_batch(batch)
    return _foreign(path, sum(batch.num_rows for batch in batches))


FOREIGN: dict[str, tuple[pa.Array, Field, list[Any]]] = {
    "large_binary": (pa.array([b"a", b"", b"ccc"], pa.large_binary()), Bytes(), [b"a", b"", b"ccc"]),
    "binary_view": (pa.array([b"a", b"", b"c" * 40], pa.binary_view()), Bytes(), [b"a", b"", b"c" * 40]),
    "large_string": (pa.array(["a", "", "é"], pa.large_string()), Text(), ["a", "", "é"]),
    "string_view": (pa.array(["a", "", "é" * 40], pa.string_view()), Text(), ["a", "", "é" * 40]),
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), Text(), ["a", "b", "a"]),
    "list": (pa.array([[1], [], [2, 3]], pa.list_(pa.int16())), Tokens("int16"), [[1], [], [2, 3]]),
    "large_list": (pa.array([[1], [], [2, 3]], pa.large_list(pa.int16())), Tokens("int16"), [[1], [], [2, 3]]),
    "bool": (pa.array([True, False, True]), Scalar("bool"), [True, False, True]),
    "fixed list": (pa.array([[1, 2]] * 3, pa.list_(pa.float64(), 2)), Array((2,), "float64"), [[1, 2]] * 3),
    "bool list": (pa.array([[True, False, True]] * 3, pa.list_(pa.bool_(), 3)), Array((3,), "bool"), [[True, False, True]] * 3),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", ["file", "stream", "lz4", "sliced"])
def test_foreign_arrow_types_are_read(tmp_path: Path, name: str, kind: str) -> None:
    """Large, view, dictionary and list types, in files of unequal batches, in streams, compressed and cut from larger arrays."""
    array, field, values = FOREIGN[name]
    if kind == "sliced":
        array = pa.concat_arrays([array, array]).slice(2, 3)
        values = [values[2], values[0], values[1]]
    batches = [pa.record_batch([array], ["v"]), pa.record_batch([array.slice(1, 1)], ["v"])]
    options = pa.ipc.IpcWriteOptions(compression="lz4") if kind == "lz4" else None
    shard = _write_foreign(tmp_path / "f.arrow", batches, stream=kind == "stream", options=options)
    reader = formats.open_reader(tmp_path, shard, {"v": field})
    found = [field.decode(reader.row(i)["v"]) for i in range(4)]
    assert [v.tolist() if isinstance(v, np.ndarray) else v for v in found] == [*values, values[1]]
    reader.close()


@pytest.mark.parametrize(
    ("array", "field", "row"),
    [
        (pa.array([1, 2, None]), Scalar("int64"), 2),
        (pa.array(["a", None]), Text(), 1),
        (pa.array([[1, 2], [3, None]], pa.list_(pa.int64(), 2)), Array((2,), "int64"), 1),
        (pa.array([[1], [], [2, None]], pa.list_(pa.int64())), Tokens("int64"), 2),
        (pa.array(["a", "b", None]).dictionary_encode(), Text(), 2),
        (pa.array([b"a", None], pa.binary_view()), Bytes(), 1),
    ],
)
def test_a_null_names_shard_row_and_field(tmp_path: Path, array: pa.Array, field: Any, row: int) -> None:
    """A row without a value is refused where it stands, also in the second batch."""
    shard = _write_foreign(tmp_path / "f.arrow", [pa.record_batch([array.slice(0, 1)], ["v"]), pa.record_batch([array], ["v"])])
    reader = formats.open_reader(tmp_path, shard, {"v": field})
    reader.block(0)
    with pytest.raises(BadData, match="null") as caught:
        reader.block(1)
    assert (caught.value.shard, caught.value.row, caught.value.field) == ("f.arrow", row + 1, "v")
    reader.close()


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    """A block that was not read before `close` cannot be read after it."""
    shard = write_shard(tmp_path / "a.arrow", "arrow", *CASES["numbers"])
    reader = formats.open_reader(tmp_path, shard, NUMBERS)
    reader.close()
    with pytest.raises(BadRequest, match="closed"):
        reader.block(0)


def test_a_value_too_large_for_a_block_is_refused_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused value leaves no part of its row behind, and the writer goes on."""
    monkeypatch.setattr("penstock.shards.arrow_write.MOST_ROW_BYTES", 10)
    monkeypatch.setattr("penstock.shards.arrow_columns.MOST_ROW_BYTES", 10)
    schema = {"n": Scalar("int64"), "b": Bytes()}
    writer = open_shard_writer(tmp_path / "a.arrow", schema)
    writer.write_row({"n": np.int64(1), "b": b"1234567890"})
    with pytest.raises(BadData, match="11 bytes"):
        writer.write_row({"n": np.int64(2), "b": b"12345678901"})
    with pytest.raises(BadData, match="11 bytes"):
        writer.write_table(pa.table({"n": [2], "b": [b"12345678901"]}))
    writer.write_table(pa.table({"n": [3, 4, 5], "b": [b"12345678"] * 3}))
    shard = shard_of(tmp_path / "a.arrow", "arrow", writer.close())
    rows: Rows = [{"n": 1, "b": b"1234567890"}, *({"n": n, "b": b"12345678"} for n in (3, 4, 5))]
    check_reader(tmp_path, shard, schema, rows)


def test_a_block_that_gathers_too_much_ends_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose rows grow says that it is full before 32-bit offsets overflow."""
    monkeypatch.setattr("penstock.shards.arrow_write._FULL_BYTES", 1000)
    writer = open_shard_writer(tmp_path / "a.arrow", {"b": Bytes()}, block_bytes=20)
    for _ in range(10):
        writer.write_row({"b": b""})
    before = writer.full
    writer.write_row({"b": b"x" * 1000})
    assert (before, writer.full) == (False, True)
    assert writer.close().rows == 11
