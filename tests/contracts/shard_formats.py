"""One checker for every shard format: what its writer promises, what its reader promises, in the same words for Arrow, tar and Parquet.

`check_writer` writes the cases in both ways and reads them back; `check_reader` holds for any shard, ours or foreign. `CASES` are schemas with
rows that have found bugs before: empty runs, text outside ASCII, truth values that do not fill a byte, one row, no extra rows in a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import BadData, BadRequest
from penstock.fields import Array, Bytes, Field, Image, Json, Scalar, Schema, Text, Tokens
from penstock.shards.arrow_types import arrow_type, schema_to_arrow
from penstock.shards.columns import FixedColumn, ParsedColumn, RaggedColumn
from penstock.shards.formats import open_reader
from penstock.shards.manifest import Shard
from penstock.shards.reader import ShardReader
from penstock.shards.shardwriter import ShardStats, open_shard_writer

Rows = list[dict[str, Any]]

JPEG = b"\xff\xd8\xff\xe0 not a whole jpeg, but it begins as one"


def numbers(count: int) -> Rows:
    """Return rows of fixed shape: what a table of features is made of."""
    random = np.random.default_rng(0)
    return [{"x": random.random((2, 3), np.float32), "label": i - 2, "even": i % 2 == 0, "weight": i / 7} for i in range(count)]


def mixed(count: int) -> Rows:
    """Return rows of every ragged kind, with empty runs and text outside ASCII among them."""
    return [
        {
            "image": JPEG + bytes([i % 251]) * (i % 13),
            "caption": "é🙂" * (i % 3),
            "tokens": np.arange(i % 4, dtype=np.int32),
            "raw": bytes(i % 5),
            "note": {"n": i, "list": [1.5, None, "ü"]},
            "label": i,
        }
        for i in range(count)
    ]


NUMBERS: Schema = {"x": Array((2, 3), "float32"), "label": Scalar("int64"), "even": Scalar("bool"), "weight": Scalar("float64")}
MIXED: Schema = {"image": Image("jpeg"), "caption": Text(), "tokens": Tokens("int32"), "raw": Bytes(), "note": Json(), "label": Scalar("int64")}

CASES: dict[str, tuple[Schema, Rows]] = {
    "numbers": (NUMBERS, numbers(101)),
    "mixed": (MIXED, mixed(57)),
    "one row": (MIXED, mixed(1)),
    "one column": ({"label": Scalar("int8")}, [{"label": i - 50} for i in range(100)]),
}
"""Schemas with rows for every format."""


def same(a: Any, b: Any) -> bool:
    """Whether two decoded values are equal, dtype and shape included."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and bool(a == b)


def encoded(row: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Return a row as a shard writer takes it."""
    return {name: field.encode(row[name]) for name, field in schema.items()}


def as_table(rows: Rows, schema: Schema) -> pa.Table:
    """Return rows as an Arrow table of the fields' own types, made by pyarrow and not by us."""

    def column(name: str, field: Field) -> pa.Array:
        values = [row[name] for row in rows]
        if isinstance(field, Json):
            return pa.array([field.encode(value) for value in values], pa.string())
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values], arrow_type(field))

    return pa.table([column(name, field) for name, field in schema.items()], schema=schema_to_arrow(schema))


def shard_of(path: Path, kind: str, stats: ShardStats) -> Shard:
    """Return what a commit would say of a closed shard."""
    return Shard(path=path.name, format=kind, rows=stats.rows, bytes=stats.bytes, xxh3=stats.xxh3, block_rows=stats.block_rows)


def write_shard(path: Path, kind: str, schema: Schema, rows: Rows, **options: Any) -> Shard:
    """Write rows one by one and return the shard."""
    writer = open_shard_writer(path, schema, kind, **options)
    for row in rows:
        writer.write_row(encoded(row, schema))
    return shard_of(path, kind, writer.close())


def check_reader(root: Path, shard: Shard, schema: Schema, rows: Rows) -> None:
    """A shard's reader gives exactly these rows, block by block, for all columns and for some, and refuses what is not there."""
    reader = open_reader(root, shard, schema)
    assert reader.rows == len(rows) == shard.rows
    assert list(reader.schema) == list(schema)
    starts = reader.block_starts
    assert starts.dtype == np.int64
    assert starts[0] == 0
    assert starts[-1] == len(rows)
    assert (np.diff(starts) > 0).all()
    if shard.block_rows:
        assert (np.diff(starts)[:-1] == shard.block_rows).all()
    for number in range(len(starts) - 1):
        _check_block(reader.block(number), schema, rows[starts[number] : starts[number + 1]])
        reader.check(number)
    check_mapped(reader, root / shard.path)
    blocks, places = reader.places(np.arange(len(rows)))
    assert (starts[blocks] + places == np.arange(len(rows))).all()
    for index in {0, len(rows) // 2, len(rows) - 1}:
        _check_row(reader.row(index), schema, rows[index])
    views = reader.row(len(rows) - 1)
    reader.close()
    reader.close()
    _check_row(views, schema, rows[-1])
    _check_some_columns(root, shard, schema, rows)


def _check_block(block: dict[str, Any], schema: Schema, rows: Sequence[dict[str, Any]]) -> None:
    assert list(block) == list(schema)
    for name, field in schema.items():
        column = block[name]
        if isinstance(column, FixedColumn):
            assert column.values.shape == (len(rows), *field.shape)
            assert column.values.dtype == field.dtype
        if isinstance(column, RaggedColumn):
            assert column.values.ndim == 1
            assert column.values.dtype == field.dtype
            assert len(column.starts) == len(column.ends) == len(rows)
        for index, row in enumerate(rows):
            assert same(field.decode(column.row(index)), row[name]), (name, index)


def check_mapped(reader: ShardReader, path: Path) -> None:
    """A reader that says it gives views of the mapped file does, by the kernel's own list of maps, and one that gives none does not say so."""
    blocks = [reader.block(number) for number in range(len(reader.block_starts) - 1)]
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in maps if fields[5:] == [str(path.resolve())]]
    copied = [
        name
        for block in blocks
        for name, column in block.items()
        if isinstance(column, ParsedColumn) or not all(_inside(values, spans) for values in _memory(column))
    ]
    assert reader.mapped is not bool(copied), copied


def _memory(column: FixedColumn | RaggedColumn) -> list[np.ndarray[Any, Any]]:
    """Return the arrays of a column that have bytes of values; truth values are unpacked and do not count."""
    return [column.values] if column.values.size and column.values.dtype != np.bool_ else []


def _inside(values: np.ndarray[Any, Any], spans: list[tuple[int, ...]]) -> bool:
    start = values.ctypes.data
    return any(first <= start and start + values.nbytes <= last for first, last in spans)


def _check_row(found: dict[str, Any], schema: Schema, row: dict[str, Any]) -> None:
    for name, field in schema.items():
        assert found[name].dtype == field.dtype
        assert same(field.decode(found[name]), row[name]), name


def _check_some_columns(root: Path, shard: Shard, schema: Schema, rows: Rows) -> None:
    chosen = list(schema)[::2][::-1]
    reader = open_reader(root, shard, schema, chosen)
    assert list(reader.schema) == list(schema)[::2]
    _check_row(reader.row(0), {name: schema[name] for name in chosen}, rows[0])
    check_mapped(reader, root / shard.path)
    reader.close()
    with pytest.raises(BadRequest, match="nowhere"):
        open_reader(root, shard, schema, ["nowhere"])


def check_writer(folder: Path, kind: str, schema: Schema, rows: Rows) -> None:
    """A format's writer gives equal bytes for equal rows, says what it wrote, leaves nothing after abort, and overwrites nothing."""
    first, second, table = (folder / f"{name}.{kind}" for name in ("first", "second", "table"))
    shard = write_shard(first, kind, schema, rows)
    assert shard.bytes == first.stat().st_size
    assert write_shard(second, kind, schema, rows).xxh3 == shard.xxh3
    assert first.read_bytes() == second.read_bytes()
    check_reader(folder, shard, schema, rows)
    writer = open_shard_writer(table, schema, kind)
    writer.write_table(as_table(rows, schema))
    assert (writer.rows, writer.size_bytes) == (len(rows), _size(folder, kind, schema, rows))
    stats = writer.close()
    assert writer.close() == stats
    assert table.read_bytes() == first.read_bytes()
    before = first.read_bytes()
    with pytest.raises(OSError, match=first.name):
        open_shard_writer(first, schema, kind)
    assert first.read_bytes() == before
    _check_abort(folder / f"aborted.{kind}", kind, schema, rows)


def _size(folder: Path, kind: str, schema: Schema, rows: Rows) -> int:
    writer = open_shard_writer(folder / f"sized.{kind}", schema, kind)
    for row in rows:
        writer.write_row(encoded(row, schema))
    size = writer.size_bytes
    writer.abort()
    return size


def _check_abort(path: Path, kind: str, schema: Schema, rows: Rows) -> None:
    writer = open_shard_writer(path, schema, kind)
    writer.write_row(encoded(rows[0], schema))
    with pytest.raises(BadData):
        writer.write_row({})
    writer.abort()
    writer.abort()
    assert not list(path.parent.glob(path.name + "*"))


def check_refuses_damage(root: Path, shard: Shard, schema: Schema) -> None:
    """A shard that was cut or emptied, or has fewer rows than promised, is refused by name, and never read past its end."""
    path = root / shard.path
    data = path.read_bytes()
    try:
        for size in (0, 1, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:size])
            cut = Shard(**{**shard.to_json(), "bytes": size})
            for claimed in (shard, cut):
                with pytest.raises(BadData) as caught:
                    _read_all(root, claimed, schema)
                assert caught.value.shard == shard.path
    finally:
        path.write_bytes(data)
    for wrong in ({"rows": shard.rows + 1}, {"rows": shard.rows + 1, "block_rows": 0}):
        with pytest.raises(BadData, match=r"rows|record batches|samples|row groups") as caught:
            _read_all(root, Shard(**{**shard.to_json(), **wrong}), schema)
        assert caught.value.shard == shard.path


def _read_all(root: Path, shard: Shard, schema: Schema) -> None:
    reader = open_reader(root, shard, schema)
    try:
        for number in range(len(reader.block_starts) - 1):
            for column in reader.block(number).values():
                column.row(0)
    finally:
        reader.close()
