"""Parquet shards: the contract of a reader, row groups as blocks, a bounded cache, and files that lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.shard_formats import CASES, NUMBERS, as_table, check_reader, check_refuses_damage, numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest, StorageError
from penstock.fields import Array, Bytes, Scalar, Schema, Text, Tokens
from penstock.shards import parquet
from penstock.shards.columns import RaggedColumn
from penstock.shards.hf import schema_of
from penstock.shards.manifest import Shard
from penstock.shards.parquet import ParquetReader, open_shard


def write(path: Path, table: pa.Table, **options: Any) -> Shard:
    """Write a table as Parquet and return the shard that adopting makes of it."""
    pq.write_table(table, path, **options)
    return Shard(path=path.name, format="parquet", rows=table.num_rows, bytes=path.stat().st_size, xxh3=None, block_rows=0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("group", [7, 1000])
def test_parquet_keeps_the_contract(tmp_path: Path, name: str, group: int) -> None:
    """The reader passes the checker of every format, for small row groups and for one."""
    schema, rows = CASES[name]
    check_reader(tmp_path, write(tmp_path / "a.parquet", as_table(rows, schema), row_group_size=group), schema, rows)


@pytest.mark.parametrize("name", CASES)
def test_parquet_refuses_damage(tmp_path: Path, name: str) -> None:
    """A cut file, and a manifest that promises other rows, name the shard."""
    schema, rows = CASES[name]
    check_refuses_damage(tmp_path, write(tmp_path / "a.parquet", as_table(rows, schema)), schema)


def test_a_block_is_a_row_group(tmp_path: Path) -> None:
    """Blocks are the row groups that have rows."""
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("n", pa.int64())])) as writer:
        for rows in (3, 0, 5):
            writer.write_table(pa.table({"n": np.arange(rows)}))
    size = (tmp_path / "a.parquet").stat().st_size
    shard = Shard(path="a.parquet", format="parquet", rows=8, bytes=size, xxh3=None, block_rows=0)
    reader = open_shard(tmp_path / "a.parquet", shard, {"n": Scalar()})
    assert reader.block_starts.tolist() == [0, 3, 8]
    assert [int(reader.row(i)["n"]) for i in range(8)] == [0, 1, 2, 0, 1, 2, 3, 4]


TYPES: list[tuple[pa.Array, Any, list[Any]]] = [
    (pa.array(["a", "é"], pa.large_string()), Text(), ["a", "é"]),
    (pa.array(["a", "b", "a"]).dictionary_encode(), Text(), ["a", "b", "a"]),
    (pa.array([b"x", b""], pa.large_binary()), Bytes(), [b"x", b""]),
    (pa.array([[1, 2], [3]], pa.list_(pa.int32())), Tokens("int32"), [[1, 2], [3]]),
    (pa.array([[1, 2], [3]], pa.large_list(pa.int64())), Tokens("int64"), [[1, 2], [3]]),
    (pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)), Array((2,), "float32"), [[1.0, 2.0]] * 2),
    (pa.array([True, False]), Scalar("bool"), [True, False]),
]


@pytest.mark.parametrize(("array", "field", "values"), TYPES, ids=[str(array.type) for array, _, _ in TYPES])
def test_foreign_types_are_read(tmp_path: Path, array: pa.Array, field: Any, values: list[Any]) -> None:
    """Large, dictionary and list types of other writers become the fields that hold them."""
    table = pa.table({"x": array})
    shard = write(tmp_path / "a.parquet", table)
    assert schema_of(table.schema) == {"x": field}
    reader = open_shard(tmp_path / "a.parquet", shard, {"x": field})
    for index, value in enumerate(values):
        found = field.decode(reader.row(index)["x"])
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value


def test_a_null_is_named(tmp_path: Path) -> None:
    """A null has no place in a batch; shard, row and field are in the error, the row counted over the whole shard."""
    shard = write(tmp_path / "a.parquet", pa.table({"n": [1, 2, 3, None, 5]}), row_group_size=2)
    reader = open_shard(tmp_path / "a.parquet", shard, {"n": Scalar()})
    reader.block(0)
    with pytest.raises(BadData, match="null") as caught:
        reader.block(1)
    assert (caught.value.shard, caught.value.row, caught.value.field) == ("a.parquet", 3, "n")


@pytest.mark.parametrize(
    ("schema", "words"), [({"m": Scalar()}, "no such column"), ({"n": Scalar("int32")}, "holds Scalar"), ({"n": Text()}, "holds Scalar")]
)
def test_other_columns_than_promised_are_refused(tmp_path: Path, schema: Schema, words: str) -> None:
    """A file that was replaced by one with other columns is noticed when it is opened."""
    shard = write(tmp_path / "a.parquet", pa.table({"n": [1, 2]}))
    with pytest.raises(BadData, match=words) as caught:
        open_shard(tmp_path / "a.parquet", shard, schema)
    assert caught.value.shard == "a.parquet"


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded row groups are kept up to a number of bytes, the newest always, and views of a dropped one stay valid."""
    monkeypatch.setattr(parquet, "CACHE_BYTES", 20_000)
    shard = write(tmp_path / "a.parquet", pa.table({"n": np.arange(10_000)}), row_group_size=1000)
    reader = open_shard(tmp_path / "a.parquet", shard, {"n": Scalar()})
    assert isinstance(reader, ParquetReader)
    first = reader.row(5)["n"]
    for index in range(0, 10_000, 1000):
        reader.row(index)
    assert len(reader._blocks) == 2
    assert first == 5
    assert reader.block(9) is reader.block(9)


def test_closing_twice_and_asking_after(tmp_path: Path) -> None:
    """A closed reader says so; what it gave stays valid."""
    shard = write(tmp_path / "a.parquet", pa.table({"t": ["abc", "de"]}))
    reader = open_shard(tmp_path / "a.parquet", shard, {"t": Text()})
    column = reader.block(0)["t"]
    assert isinstance(column, RaggedColumn)
    reader.close()
    reader.close()
    assert column.row(0).tobytes() == b"abc"
    with pytest.raises(BadRequest, match="closed"):
        reader.block(0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is a storage error that names it."""
    with pytest.raises(StorageError, match=r"gone\.parquet"):
        open_shard(tmp_path / "gone.parquet", Shard(path="gone.parquet", format="parquet", rows=1, bytes=1, xxh3=None, block_rows=0), {"n": Scalar()})


def test_a_corrupt_footer_is_refused(tmp_path: Path) -> None:
    """A footer with its length or its content destroyed gives no reader."""
    path = tmp_path / "a.parquet"
    shard = write(path, as_table(numbers(20), NUMBERS))
    good = path.read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    for at, new in ((len(good) - 8, b"\xff\xff\xff\x7f"), (len(good) - 4, b"XXXX"), (len(good) - 8 - length, bytes(40))):
        path.write_bytes(good[:at] + new + good[at + len(new) :])
        with pytest.raises(BadData) as caught:
            open_shard(path, shard, NUMBERS)
        assert caught.value.shard == "a.parquet"


@pytest.mark.parametrize("claimed", [101, 120])
def test_a_row_group_that_lies_is_refused(tmp_path: Path, claimed: int) -> None:
    """A footer that counts more rows than its pages hold, in agreement with itself and the manifest, is noticed when they are decoded."""
    path = tmp_path / "a.parquet"
    shard = write(path, pa.table({"n": np.arange(100)}), compression="none", use_dictionary=False, write_statistics=False)
    good = path.read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    footer = good[-8 - length : -8]
    counts = [at for at in range(len(footer)) if footer.startswith(varint(100), at)]
    assert len(counts) >= 3
    lying = footer.replace(varint(100), varint(claimed))
    path.write_bytes(good[: -8 - length] + lying + good[-8:])
    told = Shard(**{**shard.to_json(), "rows": claimed})
    with pytest.raises(BadData) as caught:
        open_shard(path, told, {"n": Scalar()}).block(0)
    assert caught.value.shard == "a.parquet"


def varint(number: int) -> bytes:
    """Return a number from 64 to 8191 as Thrift's compact protocol writes it."""
    return bytes([(number * 2 & 0x7F) | 0x80, number * 2 >> 7])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_makes_it_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    """Flipped bytes anywhere give rows or a BadData, nothing else."""
    path = tmp_path / "a.parquet"
    schema, rows = CASES["mixed"]
    shard = write(path, as_table(rows, schema), row_group_size=20)
    bad = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    try:
        reader = open_shard(path, shard, schema)
    except BadData:
        return
    for number in range(len(reader.block_starts) - 1):
        try:
            columns = reader.block(number)
        except BadData:
            continue
        assert all(len(column.row(0)) >= 0 for name, column in columns.items() if schema[name].ragged)
    reader.close()
