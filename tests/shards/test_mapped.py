"""What a reader says of its memory is true, for files of ours and of others, and so is what it says of nulls without Arrow's help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.shard_formats import MIXED, NUMBERS, as_table, check_mapped, encoded, mixed, numbers, write_shard
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.fields import Array, Bytes, Field, Image, Scalar, Schema, Text, Tokens
from penstock.shards.arrow_columns import column_of, nulls_of
from penstock.shards.arrow_types import arrow_type
from penstock.shards.columns import FixedColumn
from penstock.shards.formats import open_reader
from penstock.shards.hfarrow import ForeignArrowReader
from penstock.shards.manifest import Shard
from penstock.shards.plain import PlainReader
from penstock.shards.reader import ShardReader
from penstock.shards.storage import let_go_of_pages

TABLE = as_table(mixed(40), MIXED)


def foreign(path: Path, table: pa.Table, schema: Schema, columns: list[str] | None = None, **options: Any) -> ShardReader:
    """Write a table as another library would and return its reader."""
    make = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    with make(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as sink:
        sink.write_table(table, max_chunksize=16)
    shard = Shard(path=path.name, format="arrow", rows=table.num_rows, bytes=path.stat().st_size, xxh3=None, block_rows=0)
    return open_reader(path.parent, shard, schema, columns)


@pytest.mark.parametrize(
    ("kind", "schema", "expected"), [("arrow", NUMBERS, True), ("arrow", MIXED, True), ("tar", NUMBERS, False), ("tar", MIXED, False)]
)
def test_shards_of_ours(tmp_path: Path, kind: str, schema: Schema, expected: bool) -> None:
    """An Arrow shard of ours is views of the map; a tar with numbers, which are parsed, is not."""
    rows = numbers(30) if schema is NUMBERS else mixed(30)
    reader = open_reader(tmp_path, write_shard(tmp_path / f"x.{kind}", kind, schema, rows), schema)
    assert reader.mapped is expected
    check_mapped(reader, tmp_path / f"x.{kind}")


def test_a_tar_of_files_is_mapped(tmp_path: Path) -> None:
    """A tar of which only images and text are read is views of the map, whatever else lies in it."""
    shard = write_shard(tmp_path / "x.tar", "tar", MIXED, mixed(30))
    reader = open_reader(tmp_path, shard, MIXED, ["image", "caption", "note"])
    assert reader.mapped
    check_mapped(reader, tmp_path / "x.tar")


@pytest.mark.parametrize("suffix", ["arrow", "arrows"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compression_is_noticed(tmp_path: Path, suffix: str, compression: str | None) -> None:
    """A foreign file or stream is mapped unless its buffers are compressed."""
    path = tmp_path / f"x.{suffix}"
    reader = foreign(path, TABLE, MIXED, compression=compression)
    assert reader.mapped is (compression is None)
    check_mapped(reader, path)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string()], ids=str)
def test_converted_columns_are_noticed(tmp_path: Path, kind: pa.DataType) -> None:
    """View and dictionary types are converted, which copies, and wide ones are not; a column that is not read does not count."""
    words = [f"a word of more than twelve letters {i}" for i in range(40)]
    array = pa.array(words).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(words, kind)
    table = pa.table({"word": array, "n": pa.array(range(40), pa.int64())})
    schema: Schema = {"word": Text(), "n": Scalar("int64")}
    for path, columns in ((tmp_path / "all.arrow", None), (tmp_path / "some.arrow", ["n"])):
        reader = foreign(path, table, schema, columns)
        assert reader.mapped is (columns is not None or "large" in str(kind) or str(kind) == "string")
        check_mapped(reader, path)


def test_an_empty_file_is_mapped(tmp_path: Path) -> None:
    """A file without a record batch has nothing compressed."""
    assert foreign(tmp_path / "x.arrow", TABLE.slice(0, 0), MIXED, compression="zstd").mapped


def test_a_damaged_message_counts_as_compressed(tmp_path: Path) -> None:
    """A message that says nothing sensible is not taken for views, and reading it is what reports the damage."""
    path = tmp_path / "x.arrow"
    shard = write_shard(path, "arrow", NUMBERS, numbers(30))
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xff\xff\xff", 16)  # the first record batch's message: marker, length, flatbuffer
    data[at + 8 : at + 40] = b"\xff" * 32
    path.write_bytes(data)
    reader = open_reader(tmp_path, shard, NUMBERS)
    assert not reader.mapped
    with pytest.raises(BadData):
        reader.block(0)


def wrapped(count: int) -> tuple[pa.Table, Schema]:
    """Return what datasets makes of images and of arrays."""
    images = pa.array(
        [{"bytes": b"\xff\xd8\xff" + bytes([i]), "path": None} for i in range(count)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    grids = pa.array([[[i, 1, 2], [3, 4, 5]] for i in range(count)], pa.list_(pa.list_(pa.int32())))
    note = {"info": {"features": {"image": {"_type": "Image"}, "grid": {"_type": "Array2D", "shape": [2, 3], "dtype": "int32"}}}}
    table = pa.table({"image": images, "grid": grids}).replace_schema_metadata({"huggingface": json.dumps(note)})
    return table, {"image": Image("any"), "grid": Array((2, 3), "int32")}


def test_wrapped_columns_are_views_and_bring_their_reader(tmp_path: Path) -> None:
    """Structs of bytes and path and lists in lists, sliced at odd places, are views too, and only they bring the reader that unwraps them."""
    table, schema = wrapped(50)
    reader = foreign(tmp_path / "x.arrow", table.slice(3, 41), schema)
    assert isinstance(reader, ForeignArrowReader)
    assert reader.mapped
    check_mapped(reader, tmp_path / "x.arrow")
    for row in (0, 17, 40):
        assert reader.row(row)["grid"].tolist() == [[row + 3, 1, 2], [3, 4, 5]]
        assert reader.row(row)["image"].tobytes() == b"\xff\xd8\xff" + bytes([row + 3])
    plain = foreign(tmp_path / "y.arrow", TABLE, MIXED)
    assert not isinstance(plain, ForeignArrowReader)


@pytest.mark.parametrize("shape", [(), (64,), (4, 16)])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_arrays_of_truth_values_are_weighed(tmp_path: Path, shape: tuple[int, ...], compression: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are unpacked into memory of their own, of which no more is kept than may be, by either reader; a single one a row is let pass."""
    for module in ("plain", "arrow"):
        monkeypatch.setattr(f"penstock.shards.{module}.CACHE_BYTES", 3000)
    schema: Schema = {"mask": Array(shape, "bool") if shape else Scalar("bool")}
    rows = [{"mask": np.full(shape, number % 3 == 0)} for number in range(160)]
    reader = foreign(tmp_path / "x.arrow", as_table(rows, schema), schema, compression=compression)
    assert isinstance(reader, PlainReader) is (compression is None)
    assert reader.mapped is (not shape and compression is None)
    for row in range(160):
        assert (reader.row(row)["mask"] == (row % 3 == 0)).all()
        assert (16 * 64 if shape else 0) <= reader.held_bytes <= 3000


def test_parquet_is_decoded(tmp_path: Path) -> None:
    """A Parquet row group is memory of its own."""
    path = tmp_path / "x.parquet"
    pq.write_table(as_table(numbers(30), NUMBERS), path)
    shard = Shard(path=path.name, format="parquet", rows=30, bytes=path.stat().st_size, xxh3=None, block_rows=30)
    reader = open_reader(tmp_path, shard, NUMBERS)
    assert not reader.mapped
    check_mapped(reader, path)


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 70), st.integers(0, 70))
def test_nulls_are_found_where_arrow_finds_them(present: list[bool], start: int, length: int) -> None:
    """The places of nulls read from the bitmap are those that Arrow itself names, in slices that begin inside a byte too."""
    array = pa.array([i if there else None for i, there in enumerate(present)], pa.int32()).slice(start, length)
    assert nulls_of(array).tolist() == [i for i, value in enumerate(array.to_pylist()) if value is None]


def test_nulls_without_a_bitmap() -> None:
    """An array of the null type is null everywhere, and one without a bitmap nowhere."""
    assert nulls_of(pa.nulls(3)).tolist() == [0, 1, 2]
    assert nulls_of(pa.array([1, 2])).tolist() == []


@pytest.mark.parametrize("field", [Scalar("int32"), Array((2,), "int32"), Tokens("int32")], ids=str)
def test_a_false_count_of_nulls_is_not_believed(field: Field) -> None:
    """An array that claims a null which its bitmap does not have is read as it is, and not looked at past its end."""
    bitmap, data = pa.py_buffer(b"\xff"), pa.py_buffer(np.arange(4, dtype=np.int32))
    counted = pa.Array.from_buffers(pa.int32(), 4, [bitmap, data], null_count=1)
    assert counted.null_count == 1
    array = {
        "scalar": counted,
        "array": pa.FixedSizeListArray.from_arrays(counted, 2),
        "tokens": pa.ListArray.from_arrays(pa.array([0, 3, 4], pa.int32()), counted),
    }[field.kind]
    column = column_of(array, field)
    assert column.row(0).tolist() == {"scalar": 0, "array": [0, 1], "tokens": [0, 1, 2]}[field.kind]


@given(st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_arrays_in_slices_equal_arrows_own(start: int, length: int, shape: list[int]) -> None:
    """Nested fixed-size lists, sliced anywhere, give the numbers that Arrow's `to_pylist` gives."""
    field = Array(tuple(shape), "int16")
    rows = np.arange(10 * int(np.prod(shape)), dtype=np.int16).reshape(10, *shape)
    array = pa.array(rows.tolist(), arrow_type(field)).slice(start, length)
    column = column_of(array, field)
    assert isinstance(column, FixedColumn)
    assert column.values.tolist() == array.to_pylist()


def test_every_reader_checks_its_blocks(tmp_path: Path) -> None:
    """`check` is part of every reader's contract: it passes on what was written and names the first row that changed."""
    rows = numbers(64)
    for kind in ("arrow", "tar"):
        path = tmp_path / f"x.{kind}"
        shard = write_shard(path, kind, NUMBERS, rows)
        reader = open_reader(tmp_path, shard, NUMBERS)
        reader.check(0)
        reader.close()
        needle = np.ascontiguousarray(encoded(rows[5], NUMBERS)["x"]).tobytes()
        data = bytearray(path.read_bytes())
        data[data.index(needle)] ^= 1
        path.write_bytes(data)
        with pytest.raises(BadData, match="checksum") as caught:
            open_reader(tmp_path, shard, NUMBERS).check(0)
        assert caught.value.row == 5


def resident_bytes(path: Path) -> int:
    """Return how much of a mapped file counts as this process's own."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize("kind", ["arrow", "tar", "foreign"])
def test_pages_that_were_let_go_of_are_read_again(tmp_path: Path, kind: str) -> None:
    """No page of a mapped shard counts as the process's own any more, and its rows are what they were; a closed reader has none to let go of."""
    schema: Schema = {"image": Image("jpeg"), "caption": Text()}
    path = tmp_path / ("x.tar" if kind == "tar" else "x.arrow")
    if kind == "foreign":
        schema = {"image": Bytes(), "caption": Text()}
        rows = [{"image": b"\xff\xd8" + bytes([n]) * 5000, "caption": f"c{n}"} for n in range(200)]
        reader = foreign(path, pa.table({name: [row[name] for row in rows] for name in schema}), schema)
    else:
        reader = open_reader(tmp_path, write_shard(path, kind, MIXED, mixed(200)), MIXED, list(schema))
    before = [[value.tobytes() for value in reader.row(n).values()] for n in range(200)]
    assert reader.mapped
    assert resident_bytes(path) > 0
    reader.let_go_of_pages()
    assert resident_bytes(path) == 0
    assert [[value.tobytes() for value in reader.row(n).values()] for n in range(200)] == before
    reader.close()
    reader.let_go_of_pages()


def test_memory_that_is_no_map_is_left_alone() -> None:
    """Advice about a file's pages would empty memory of the process's own."""
    memory = np.full(1 << 20, 7, np.uint8)
    let_go_of_pages(memory)
    let_go_of_pages(memory[4096:])
    assert (memory == 7).all()
