"""Reads an Arrow shard of plain columns as views of the mapped file, without pyarrow; everything else is left to `arrow`.

It gives the values that `arrow.ArrowReader` gives: what is not plain, or not as it should be, is handed to that reader, which imports pyarrow and
reads it or says what is wrong. So there is one place that judges files, and this one that is quick. Damage to metadata that is not used here may
pass; `check`, which is Arrow's work, finds it.

Must never: answer where it is not sure. Cost: opening reads the footer, about 0.2 ms; a block about 20 microseconds.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from ..errors import BadRequest
from ..fields import Field, Schema
from .columns import Column, FixedColumn, RaggedColumn, unpacked_bytes
from .ipc import Body, Memory, NotPlain, PlainFile, Stored, take
from .later import load_later
from .manifest import Shard
from .reader import CACHE_BYTES, ShardReader

_KEPT_BLOCKS = 512
"""Opened blocks a reader remembers, a few hundred bytes of views each beside arrays of truth values."""

_OF_ITS_TYPE = {"string": "text", "binary": "bytes"}
"""What a column without a description of ours is taken for, by its kind; see `arrow_types`."""


@final
class PlainReader(ShardReader):
    """One plain Arrow shard, open."""

    def __init__(self, memory: Memory, path: Path, shard: Shard, schema: Schema) -> None:
        """Compare a mapped file with what the manifest says.

        Raises:
            NotPlain: it is for `arrow` to read, or to refuse.
        """
        self.schema = schema
        self.rows = shard.rows
        self._path = path
        self._shard = shard
        self._file: PlainFile | None = PlainFile(memory)
        self.pages = memory
        self._places = _places(self._file.columns, schema)
        self._counts = sum(stored.nodes for stored in self._file.columns), sum(stored.buffers for stored in self._file.columns)
        self._blocks: OrderedDict[int, dict[str, Column]] = OrderedDict()
        self.mapped = not any(field.dtype == "bool" and field.shape for field in schema.values())
        self._other: ShardReader | None = None
        self.block_starts = _starts(self._file, shard)
        if self._file.count:
            self._file.body(0)  # a writer compresses all batches or none

    def block(self, number: int) -> dict[str, Column]:
        """Return the views of record batch `number`, checked when first asked for."""
        found = self._blocks.get(number)
        if found is None:
            if self._file is None:
                raise BadRequest(f"{self._path} is closed; open it again to read block {number}")
            try:
                found = self._views(self._file, number)
            except (NotPlain, IndexError):  # there is no such block, which Arrow says as well
                found = self._slow().block(number)
            self._blocks[number] = found
            self.held_bytes += unpacked_bytes(found)
            while len(self._blocks) > (_KEPT_BLOCKS if self.held_bytes <= CACHE_BYTES else 1):
                self.held_bytes -= unpacked_bytes(self._blocks.popitem(last=False)[1])
        return found

    def _body(self, file: PlainFile, number: int) -> Body:
        if number < 0:
            raise NotPlain(f"record batch {number}")
        body = file.body(number)
        if body.rows != int(self.block_starts[number + 1] - self.block_starts[number]):
            raise NotPlain(f"{body.rows} rows")
        if (len(body.nodes), len(body.buffers)) != self._counts:
            raise NotPlain(f"{len(body.nodes)} field nodes and {len(body.buffers)} buffers")
        return body

    def _views(self, file: PlainFile, number: int) -> dict[str, Column]:
        body = self._body(file, number)
        made: dict[str, Column] = {}
        for name, field in self.schema.items():
            found = take(body, *self._places[name], field.dtype)
            if not field.ragged:
                made[name] = FixedColumn(values=found.reshape(body.rows, *field.shape))
                continue
            offsets, values = found
            starts, ends = offsets[:-1], offsets[1:]
            if body.rows and (offsets[0] < 0 or offsets[-1] > len(values) or (ends < starts).any()):
                raise NotPlain("offsets that decrease, or leave their values")
            made[name] = RaggedColumn(starts=starts, ends=ends, values=values)
        return made

    def elements(self, number: int, field: str) -> int | None:
        """Return the last offset less the first, which is right when the offsets are."""
        if self._file is None:
            return None
        try:
            offsets, values = take(self._body(self._file, number), *self._places[field], self.schema[field].dtype)
        except (NotPlain, IndexError):  # which Arrow's reader judges
            return None
        first, last = int(offsets[0]), int(offsets[-1])
        return last - first if 0 <= first <= last <= len(values) else None

    def _slow(self) -> ShardReader:
        """Return Arrow's reader of the same shard, opened when first needed."""
        if self._other is None:
            self._other = load_later("arrow").open_shard(self._path, self._shard, self.schema)
        return self._other

    def check(self, number: int) -> None:
        """Compare block `number` with its checksums, which is Arrow's work.

        Raises:
            BadData: a bit has changed since it was written, or the structure is damaged.
        """
        self._slow().check(number)

    def close(self) -> None:
        """Let go of the file; views handed out stay valid."""
        self._blocks.clear()
        self.held_bytes = 0
        self._file = self.pages = None
        if self._other is not None:
            self._other.close()


def _places(columns: Sequence[Stored], schema: Schema) -> dict[str, tuple[Stored, int, int]]:
    """Return each wanted column's type, first field node and first buffer."""
    made: dict[str, tuple[Stored, int, int]] = {}
    node = buffer = 0
    for stored in columns:
        field = schema.get(stored.name)
        if field is not None:
            if stored.name in made or not _holds(stored, field):
                raise NotPlain(f"column {stored.name!r}, stored as {stored}")
            made[stored.name] = (stored, node, buffer)
        node += stored.nodes
        buffer += stored.buffers
    if len(made) != len(schema):
        raise NotPlain(f"the columns {[stored.name for stored in columns]}")
    return made


def _holds(stored: Stored, field: Field) -> bool:
    """Return whether a column is stored as Penstock stores the field, and says that it is this one."""
    if stored.description is not None:
        try:
            described = json.loads(stored.description)
        except (ValueError, RecursionError):
            return False
        if described != field.to_json():
            return False
    elif field.kind not in ("scalar", "array", "tokens", _OF_ITS_TYPE.get(stored.kind)):
        return False
    shape = []
    item: Stored | None = stored
    while item is not None and item.kind == "fixed":
        shape.append(item.size)
        item = item.items
    if item is None or tuple(shape) != field.shape:
        return False
    if not field.ragged:
        return item.kind == field.dtype
    if field.kind == "tokens":
        return item.kind == "list" and item.items is not None and item.items.kind == field.dtype
    return item.kind == ("string" if field.kind in ("text", "json") else "binary")


def _starts(file: PlainFile, shard: Shard) -> Any:
    """Return `[blocks + 1]` int64, the first row of each block, when they are what the manifest says."""
    if shard.block_rows:
        expected = -(-shard.rows // shard.block_rows)
        starts = np.minimum(np.arange(file.count + 1, dtype=np.int64) * shard.block_rows, shard.rows)
    else:
        expected = file.count
        starts = np.zeros(file.count + 1, np.int64)
        np.cumsum([file.body(number).rows for number in range(file.count)], out=starts[1:])
    if file.count != expected or int(starts[-1]) != shard.rows:
        raise NotPlain(f"{file.count} record batches of {starts[-1]} rows")
    return starts
