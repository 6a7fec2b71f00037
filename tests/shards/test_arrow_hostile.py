"""Hostile Arrow shards: lies in the footer, the schema, the offsets or the values are refused by name, and never crash the reader."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.shard_formats import MIXED, NUMBERS, check_reader, encoded, mixed, numbers, same, shard_of, write_shard

from penstock.errors import BadData
from penstock.fields import Array, Bytes, Image, Scalar, Schema, Text, Tokens
from penstock.shards.arrow_types import field_to_arrow
from penstock.shards.formats import open_reader
from penstock.shards.manifest import Shard
from penstock.shards.shardwriter import open_shard_writer

SCHEMA: Schema = {"b": Bytes(), "n": Scalar("int64")}


def read_all(root: Path, shard: Shard, schema: Schema) -> list[dict[str, Any]]:
    """Read and check every block; return the decoded rows."""
    reader = open_reader(root, shard, schema)
    with contextlib.closing(reader):
        rows = [{name: field.decode(reader.row(i)[name]) for name, field in schema.items()} for i in range(reader.rows)]
        for number in range(len(reader.block_starts) - 1):
            reader.check(number)
    return rows


def _file(path: Path, batches: list[pa.RecordBatch], **options: Any) -> Shard:
    with pa.ipc.new_file(str(path), batches[0].schema) as file:
        for batch in batches:
            file.write_batch(batch)
    rows = sum(batch.num_rows for batch in batches)
    sound = {"path": path.name, "format": "arrow", "rows": rows, "bytes": path.stat().st_size, "xxh3": None, "block_rows": 0}
    return Shard(**{**sound, **options})


def _patched(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


OFFSETS = {
    "negative": [-8, 4, 8, 12],
    "decreasing": [0, 8, 4, 12],
    "past the end": [0, 4, 8, 2**30],
    "wrapping": [0, 4, 2**31 - 1, 12],
    "all past the end": [2**30, 2**30, 2**30, 2**30],
}


@pytest.mark.parametrize("name", OFFSETS)
@pytest.mark.parametrize("kind", ["binary", "list"])
def test_offsets_that_leave_the_values_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    """No offset of a file is followed before it was compared with the values it points into."""
    field: Any = Bytes() if kind == "binary" else Tokens("uint8")
    values = [b"\x01\x02\x03\x04"] * 3
    array = pa.array(values, pa.binary()) if kind == "binary" else pa.array([list(v) for v in values], pa.list_(pa.uint8()))
    shard = _file(tmp_path / "a.arrow", [pa.record_batch([array], ["v"])])
    _patched(tmp_path / "a.arrow", np.array([0, 4, 8, 12], np.int32).tobytes(), np.array(OFFSETS[name], np.int32).tobytes())
    with pytest.raises(BadData) as caught:
        read_all(tmp_path, shard, {"v": field})
    assert (caught.value.shard, caught.value.field) == ("a.arrow", "v")


def test_a_file_whose_first_offset_is_not_zero_is_read(tmp_path: Path) -> None:
    """Offsets may begin anywhere, as in a slice that another library wrote as it was."""
    shard = _file(tmp_path / "a.arrow", [pa.record_batch([pa.array([b"abcd"] * 3, pa.binary())], ["v"])])
    _patched(tmp_path / "a.arrow", np.array([0, 4, 8, 12], np.int32).tobytes(), np.array([2, 4, 8, 8], np.int32).tobytes())
    assert [row["v"] for row in read_all(tmp_path, shard, {"v": Bytes()})] == [b"cd", b"abcd", b""]


def _two_names(path: Path) -> Shard:
    return _file(path, [pa.record_batch([pa.array([1]), pa.array([b"x"]), pa.array([2])], ["n", "b", "n"])])


def _other_type(path: Path) -> Shard:
    return _file(path, [pa.record_batch([pa.array([1.5]), pa.array([b"x"])], ["n", "b"])])


def _missing(path: Path) -> Shard:
    return _file(path, [pa.record_batch([pa.array([b"x"])], ["b"])])


def _nested(path: Path) -> Shard:
    return _file(path, [pa.record_batch([pa.array([{"a": 1}]), pa.array([b"x"])], ["n", "b"])])


def _lying_metadata(path: Path) -> Shard:
    field = field_to_arrow("n", Image())
    return _file(
        path,
        [pa.record_batch([pa.array([1]), pa.array([b"x"])], pa.schema([pa.field("n", pa.int64(), metadata=field.metadata), ("b", pa.binary())]))],
    )


def _unequal_blocks(path: Path) -> Shard:
    batches = [pa.record_batch([pa.array(range(k)), pa.array([b"x"] * k)], ["n", "b"]) for k in (3, 1, 2)]
    return _file(path, batches, block_rows=2)


def _more_rows(path: Path) -> Shard:
    return _file(path, [pa.record_batch([pa.array([1]), pa.array([b"x"])], ["n", "b"])], rows=2**40)


def _text(path: Path) -> Shard:
    path.write_text("I am not an Arrow file\n" * 10)
    return Shard(path=path.name, format="arrow", rows=1, bytes=path.stat().st_size, xxh3=None, block_rows=0)


def _magic_only(path: Path) -> Shard:
    path.write_bytes(b"ARROW1\0\0" + b"\xff" * 64 + b"\xff\xff\xff\x7fARROW1")
    return Shard(path=path.name, format="arrow", rows=1, bytes=path.stat().st_size, xxh3=None, block_rows=0)


@pytest.mark.parametrize("make", [_two_names, _other_type, _missing, _nested, _lying_metadata, _unequal_blocks, _more_rows, _text, _magic_only])
def test_a_file_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path, make: Callable[[Path], Shard]) -> None:
    """Twin columns, other types, missing columns, lying metadata and wrong counts name the shard."""
    shard = make(tmp_path / "a.arrow")
    with pytest.raises(BadData) as caught:
        read_all(tmp_path, shard, SCHEMA)
    assert caught.value.shard == "a.arrow"


def test_a_dictionary_that_points_nowhere_is_refused(tmp_path: Path) -> None:
    """Indices of a foreign dictionary are compared with its size."""
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1], pa.int32()), ["yes", "no"])
    shard = _file(tmp_path / "a.arrow", [pa.record_batch([array], ["t"])])
    _patched(tmp_path / "a.arrow", np.array([0, 1, 0, 1], np.int32).tobytes(), np.array([0, 1, 2**20, 1], np.int32).tobytes())
    with pytest.raises(BadData) as caught:
        read_all(tmp_path, shard, {"t": Text()})
    assert caught.value.shard == "a.arrow"


def test_text_that_is_not_utf8_names_its_row(tmp_path: Path) -> None:
    """Whoever decodes the row learns which it is; the rows beside it are still read."""
    shard = _file(tmp_path / "a.arrow", [pa.record_batch([pa.array(["good", "b\u00e4d!", "fine"])], ["t"])])
    _patched(tmp_path / "a.arrow", "b\u00e4d!".encode(), b"b\xff\xffd!")
    reader = open_reader(tmp_path, shard, {"t": Text()})
    assert Text().decode(reader.row(2)["t"]) == "fine"
    with pytest.raises(BadData, match="UTF-8"):
        Text().decode(reader.row(1)["t"])
    reader.close()


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    """The manifest's shape and the file's must agree, not only their sizes."""
    shard = write_shard(tmp_path / "a.arrow", "arrow", {"x": Array((2, 3), "int8")}, [{"x": np.zeros((2, 3), np.int8)}])
    with pytest.raises(BadData, match="holds Array") as caught:
        read_all(tmp_path, shard, {"x": Array((3, 2), "int8")})
    assert caught.value.field == "x"


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Over a thousand damaged files each either fail as bad data of that shard or give every row as it was: no other error, and no crash."""
    schema = {**NUMBERS, **MIXED}
    rows = [{**a, **b} for a, b in zip(numbers(9), mixed(9), strict=True)]
    sound = write_shard(tmp_path / "a.arrow", "arrow", schema, rows, block_bytes=300)
    data = (tmp_path / "a.arrow").read_bytes()
    claims = (sound, Shard(**{**sound.to_json(), "block_rows": 0}))
    dice = random.Random(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 4))):
            at = dice.randrange(len(damaged))
            damaged[at] = dice.choice((0, 255, damaged[at] ^ (1 << dice.randrange(8)), 127, 128))
        (tmp_path / "a.arrow").write_bytes(damaged)
        for claim in claims:
            try:
                found = read_all(tmp_path, claim, schema)
            except BadData:
                refused += 1
                continue
            for row, expected in zip(found, rows, strict=True):
                assert all(same(row[name], expected[name]) for name in schema)
    assert refused > 600


def test_a_row_writer_that_is_given_nonsense_takes_nothing(tmp_path: Path) -> None:
    """A value that cannot be stored leaves no part of its row in the block."""
    rows = mixed(3)
    writer = open_shard_writer(tmp_path / "a.arrow", MIXED)
    for row in rows:
        writer.write_row(encoded(row, MIXED))
        with pytest.raises(TypeError):
            writer.write_row({**encoded(row, MIXED), "note": 5})
    check_reader(tmp_path, shard_of(tmp_path / "a.arrow", "arrow", writer.close()), MIXED, rows)
