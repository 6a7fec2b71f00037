"""Reads a WebDataset tar in any order, through its index and a map of the file.

A tar is one block. Bytes-like fields are views of the map; numbers and arrays, which a tar keeps as small files, are `ParsedColumn`s parsed
when a row is asked for. Whatever the index or a member says is checked against the file before it is used.

Must never: unpickle, follow a link, copy a blob. Cost: the index, 16 bytes a field a row; about 2 µs to parse a number.
Refused: reading tars front to back as WebDataset does, which cannot shuffle globally or resume at a position.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import BadData, BadRequest
from ..fields import Array, Audio, Bytes, Field, Image, Json, Scalar, Schema, Text, Tokens
from .columns import Column, ParsedColumn, RaggedColumn
from .manifest import Shard
from .npy import array_of
from .reader import ShardReader
from .storage import map_file
from .tarindex import TarIndex, build, differs, sample_hashes
from .tarkeep import load
from .tarnames import KEY

_GROUPS: dict[type[Field], tuple[str, ...]] = {
    Image: ("image",),
    Audio: ("audio",),
    Text: ("text",),
    Json: ("json",),
    Scalar: ("scalar", "json", "npy"),
    Array: ("npy",),
    Tokens: ("npy",),
}
_MAX_NUMBER_BYTES = 64

Parse = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]


class TarReader(ShardReader):
    """One tar, open; see `ShardReader`."""

    def __init__(self, path: Path, shard: Shard, schema: Schema, index: TarIndex, data: npt.NDArray[np.uint8]) -> None:
        """Take a mapped tar and an index that fits it."""
        self._path = path
        self._shard = shard
        self.schema = schema
        self.rows = index.rows
        self.block_starts = np.array([0, index.rows] if index.rows else [0], np.int64)
        self._index = index
        self._data = self.pages = data
        columns = {name: self._column(name, field, index, data) for name, field in schema.items()}
        self.mapped = all(isinstance(column, RaggedColumn) and column.values is data for column in columns.values())
        self._columns: dict[str, Column] | None = columns

    def _column(self, name: str, field: Field, index: TarIndex, data: npt.NDArray[np.uint8]) -> Column:
        if name == KEY and name not in index.facts and isinstance(field, Text):
            return _keys(index.keys)
        facts = index.facts.get(name)
        if facts is None:
            raise BadData(f"the tar has no such column; it has {', '.join(index.facts)}", field=name).at(path=self._path, shard=self._shard.path)
        if not isinstance(field, Bytes) and facts.group not in _GROUPS[type(field)]:
            raise BadData(f"described as {field} but stored as {facts.group} files", field=name).at(path=self._path, shard=self._shard.path)
        raw = RaggedColumn(starts=index.starts[name], ends=index.starts[name] + index.sizes[name], values=data)
        return raw if (parse := parser(field, facts.group)) is None else ParsedColumn(raw=raw, parse=parse)

    def block(self, number: int) -> dict[str, Column]:
        """Return the columns of the one block there is."""
        if self._columns is None:
            raise BadRequest(f"shard {self._shard.path} is closed; open it again to read block {number}")
        if number != 0 or not self.rows:
            raise BadRequest(f"block {number}: the shard has {min(self.rows, 1)} blocks")
        return self._columns

    def row(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return row `number` as one array per column; a damaged value is named with its place."""
        row = {}
        for name, column in self.block(0).items():
            try:
                row[name] = column.row(number)
            except BadData as error:
                raise error.at(path=self._path, shard=self._shard.path, row=number, field=name) from None
        return row

    def check(self, number: int) -> None:
        """Compare each sample with its checksum, if the tar was hashed, and the index with the tar; parse every small file and text.

        Raises:
            BadData: a bit has changed since it was written, or a value is not what its column says; names the first such row.
        """
        columns = self.block(number)
        self._check_samples()
        self._check_index()
        for name, column in columns.items():
            field = self.schema[name]
            if isinstance(column, RaggedColumn) and not isinstance(field, (Text, Json)):
                continue  # any bytes are right
            for row in range(self.rows):
                try:
                    value = column.row(row)
                    if isinstance(field, (Text, Json)):
                        field.decode(value)
                except BadData as error:
                    raise error.at(path=self._path, shard=self._shard.path, row=row, field=name) from None

    def _check_samples(self) -> None:
        expected, data = self._index.hashes, self._data
        found = None if expected is None else sample_hashes(data, self._index)
        if expected is not None and found is not None and (wrong := np.flatnonzero(expected != found)).size:
            row = int(wrong[0])
            reason = f"sample {self._index.keys[row].as_py()!r} has checksum {found[row]:016x} where {expected[row]:016x} was written: the tar has changed; restore it"
            raise BadData(reason, path=self._path, shard=self._shard.path, row=row)

    def _check_index(self) -> None:
        """Walk the tar's headers again and refuse an index that says anything else."""
        try:
            scanned = build(self._data, hashed=False)
            if (difference := differs(self._index, scanned)) is not None:
                name, row = difference
                reason = f"the index {self._path.name}.idx says another {name} than the tar; delete the index and it is built again"
                raise BadData(reason, row=row)  # noqa: TRY301 (one place adds where)
        except BadData as error:
            raise error.at(path=self._path, shard=self._shard.path) from None

    def close(self) -> None:
        """Let go of the map; views handed out keep it."""
        self._columns = self.pages = None
        self._data = _NOTHING


def open_shard(path: Path, shard: Shard, schema: Schema) -> TarReader:
    """Return the reader of a tar.

    Args:
        path: the file.
        shard: what the manifest says of it.
        schema: the columns that are wanted.

    Raises:
        BadData: the tar, or the index beside a shard of ours, is not what the manifest says, or lacks a column.
        StorageError: the file cannot be read.
    """
    data = map_file(path)
    if len(data) != shard.bytes:
        raise BadData(f"the tar has {len(data)} bytes and the manifest says {shard.bytes}; it was cut or changed", path=path, shard=shard.path)
    if shard.rows == 0:
        return TarReader(path, shard, {}, _EMPTY, data)
    try:
        index = load(path)
    except BadData as error:
        raise error.at(path=path, shard=shard.path) from None
    if index.rows != shard.rows or index.tar_bytes != len(data):
        raise BadData(
            f"the index has {index.rows} samples of a tar of {index.tar_bytes} bytes; the manifest says {shard.rows} of {shard.bytes}",
            path=path,
            shard=shard.path,
        )
    return TarReader(path, shard, schema, index, data)


_NOTHING = np.empty(0, np.uint8)
_EMPTY = TarIndex(keys=pa.nulls(0, pa.string()), starts={}, sizes={}, facts={}, hashes=None, tar_bytes=0, tar_mtime_ns=None)


def _keys(keys: pa.StringArray) -> RaggedColumn:
    _, offsets, values = keys.buffers()
    places = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    return RaggedColumn(starts=places[:-1], ends=places[1:], values=np.frombuffer(values, np.uint8))


def parser(field: Field, group: str) -> Parse | None:
    """Return what turns a member's bytes into a row of `field`, or None when the bytes are the row."""
    match field:
        case Scalar() if group == "scalar":
            return _whole_number(field.dtype) if field.dtype.startswith(("int", "uint")) else _json_number(field.dtype)
        case Scalar() if group == "json":
            return _json_number(field.dtype)
        case Scalar() | Array():
            return _array(field.dtype, field.shape)
        case Tokens():
            return _array(field.dtype, None)
        case _:
            return None


def _whole_number(dtype: str) -> Parse:
    limits = np.iinfo(dtype)
    low, high, kind = int(limits.min), int(limits.max), np.dtype(dtype)

    def parse(raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        text = raw.tobytes()
        try:
            value = int(text) if len(text) <= _MAX_NUMBER_BYTES and b"_" not in text else None
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise BadData(f"{text[:_MAX_NUMBER_BYTES]!r} is not a whole number that {dtype} can hold")
        return np.array(value, kind)

    return parse


def _json_number(dtype: str) -> Parse:
    kind = np.dtype(dtype)
    wanted: tuple[type, ...] = {"b": (bool,), "f": (int, float)}.get(kind.kind, (int,))

    def parse(raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        text = raw[: _MAX_NUMBER_BYTES + 1].tobytes()
        try:
            value = json.loads(text)
            right = isinstance(value, wanted) and isinstance(value, bool) == (kind.kind == "b") and len(text) <= _MAX_NUMBER_BYTES
            array = np.array(value, kind) if right else None
        except (ValueError, OverflowError, RecursionError):
            array = None
        if array is None or (kind.kind in "iu" and int(array) != value):
            raise BadData(f"{text[:_MAX_NUMBER_BYTES]!r} is not a JSON value that {dtype} can hold")
        return array

    return parse


def _array(dtype: str, shape: tuple[int, ...] | None) -> Parse:
    kind = np.dtype(dtype)

    def parse(raw: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        array = array_of(raw)
        if array.dtype != kind or (array.ndim != 1 if shape is None else array.shape != shape):
            wanted = "a run" if shape is None else f"shape {shape}"
            raise BadData(f"the .npy file holds {array.dtype} of shape {array.shape}; the column is {dtype}, {wanted}")
        return array

    return parse
