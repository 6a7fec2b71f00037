"""Writes one Arrow IPC file: uncompressed, equal rows in each record batch, checksums beside each, the file hashed on the way out.

The rows of a batch are fixed when the first has gathered `block_bytes` of values or 65,536 rows; the last batch may be shorter. Each record
batch message carries the checksums of its block, its columns and its rows as custom metadata (`arrow_checksums`).

Cost: fixed columns are copied once, into the block being gathered; runs of bytes are kept as the objects they came as and joined once a
block. A table's rows are written as slices of its own memory whenever a block lies inside one of its batches. No Arrow object per row.
Taking the checksums copies the fixed columns of a block once more, if there are several columns, and costs about 0.2 µs a row.
Refused: checksums in the footer, which is written from the front and cannot know them; unequal blocks, which would need an index to seek.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import BadData
from ..fields import Field, Schema
from .arrow_checksums import to_metadata
from .arrow_columns import MOST_ROW_BYTES, batch_of, columns_of, row_bytes
from .arrow_types import schema_to_arrow
from .columns import Column, FixedColumn, RaggedColumn
from .shardwriter import BLOCK_ROWS, ShardStats, ShardWriter
from .sink import HashingFile

_FULL_BYTES = 2**30
"""A block that has gathered this much before it has its rows ends the shard: its offsets have 32 bits."""


class _FixedBuilder:
    """Rows of one shape, copied into the block's own memory."""

    def __init__(self, field: Field) -> None:
        self.row_bytes = np.dtype(field.dtype).itemsize * prod(field.shape)
        self._values = np.zeros((16, *field.shape), field.dtype)
        self._rows = 0

    def put(self, value: Any) -> int:
        """Take one row; return its bytes."""
        if self._rows == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._rows] = value
        self._rows += 1
        return self.row_bytes

    def keep(self, rows: int) -> None:
        """Forget what came behind the first `rows`."""
        self._rows = rows

    def take(self, *, keep: bool) -> FixedColumn:
        """Return what has gathered and begin anew; with `keep` it outlives the next row."""
        values = self._values[: self._rows]
        self._rows = 0
        return FixedColumn(values=values.copy() if keep else values)


class _RunBuilder:
    """Runs of bytes or numbers, joined when the block is written."""

    def __init__(self, field: Field) -> None:
        self._dtype = np.dtype(field.dtype)
        self._turn: Callable[[Any], bytes] = self._numbers if field.kind == "tokens" else str.encode if field.kind in {"text", "json"} else bytes
        self._parts: list[bytes] = []

    def put(self, value: Any) -> int:
        """Take one row; return its bytes."""
        part = self._turn(value)
        if len(part) > MOST_ROW_BYTES:
            raise BadData(f"the value has {len(part)} bytes; one row may have {MOST_ROW_BYTES}: cut it into several rows, or keep it in a file")
        self._parts.append(part)
        return len(part) + 4

    def _numbers(self, value: Any) -> bytes:
        return np.asarray(value, self._dtype).tobytes()  # also turns a run of the other byte order

    def keep(self, rows: int) -> None:
        """Forget what came behind the first `rows`."""
        del self._parts[rows:]

    def take(self, *, keep: bool) -> RaggedColumn:
        """Return what has gathered and begin anew; it is always a copy."""
        del keep
        bounds = np.zeros(len(self._parts) + 1, np.int64)
        np.cumsum([len(part) for part in self._parts], out=bounds[1:])
        bounds //= self._dtype.itemsize
        values = np.frombuffer(b"".join(self._parts), self._dtype)
        self._parts = []
        return RaggedColumn(starts=bounds[:-1], ends=bounds[1:], values=values)


class ArrowShardWriter(ShardWriter):
    """One Arrow IPC file, being written."""

    def __init__(self, path: Path, schema: Schema, *, block_bytes: int) -> None:
        """Make the file."""
        self.schema = schema
        self.rows = 0
        self.size_bytes = 0
        self._block_bytes = block_bytes
        self._block_rows = 0  # not known until the first block has gathered
        self._arrow_schema = schema_to_arrow(schema)
        self._builders = [_RunBuilder(field) if field.ragged else _FixedBuilder(field) for field in schema.values()]
        self._names = list(schema)
        self._puts = [builder.put for builder in self._builders]
        self._built = 0  # rows in the builders
        self._pieces: list[pa.RecordBatch] = []  # slices of tables, before the rows in the builders
        self._pending = 0  # rows in pieces and builders
        self._pending_bytes = 0
        self._stats: ShardStats | None = None
        self._sink = HashingFile(path)
        self._file = pa.ipc.new_file(self._sink, self._arrow_schema)

    @property
    def full(self) -> bool:
        """Whether the block being gathered is so large that no row should follow."""
        return self._pending_bytes >= _FULL_BYTES

    def write_row(self, row: Mapping[str, Any]) -> None:
        """Take one row of encoded values."""
        try:
            values = [row[name] for name in self._names]
        except KeyError as error:
            raise BadData(f"the row has no column {error.args[0]!r}; it has {sorted(row)}", row=self.rows) from None
        taken = 0
        try:
            for put, value in zip(self._puts, values, strict=True):
                taken += put(value)
        except (BadData, TypeError, ValueError, AttributeError):
            for builder in self._builders:
                builder.keep(self._built)
            raise
        self._built += 1
        self._count(1, taken)
        if self._pending == self._block_rows or (self._block_rows == 0 and self._is_first_block()):
            self._emit()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Take canonical rows as slices of the batch's own memory."""
        columns = columns_of(batch, self.schema)
        sizes = np.broadcast_to(np.asarray(row_bytes(columns), np.int64), (batch.num_rows,))
        ends = np.cumsum(sizes)
        done = 0
        self._seal()
        while done < batch.num_rows:
            before = int(ends[done - 1]) if done else 0
            if self._block_rows:
                fit = self._block_rows - self._pending
            else:  # the row that fills the first block is the last of it, as in write_row
                fit = int(np.searchsorted(ends, self._block_bytes - self._pending_bytes + before)) + 1 - done
                fit = min(fit, BLOCK_ROWS - self._pending)
            fit = min(fit, batch.num_rows - done)
            self._pieces.append(batch.slice(done, fit))
            done += fit
            self._count(fit, int(ends[done - 1]) - before)
            if self._pending == self._block_rows or (self._block_rows == 0 and self._is_first_block()):
                self._emit()

    def _count(self, rows: int, size: int) -> None:
        self.rows += rows
        self.size_bytes += size
        self._pending += rows
        self._pending_bytes += size

    def _is_first_block(self) -> bool:
        return self._pending_bytes >= self._block_bytes or self._pending >= BLOCK_ROWS

    def _seal(self) -> None:
        """Put the rows in the builders behind the pieces."""
        if self._built:
            self._pieces.append(batch_of(self._take(keep=True), self.schema, self._arrow_schema))

    def _take(self, *, keep: bool) -> dict[str, Column]:
        self._built = 0
        return {name: builder.take(keep=keep) for name, builder in zip(self._names, self._builders, strict=True)}

    def _emit(self) -> None:
        """Write the block that has gathered."""
        if self._pieces:
            self._seal()
            joined = self._pieces[0] if len(self._pieces) == 1 else pa.concat_batches(self._pieces)
            columns = columns_of(joined, self.schema)
            self._pieces = []
        else:
            columns = self._take(keep=False)
        batch = batch_of(columns, self.schema, self._arrow_schema)
        self._file.write_batch(batch, custom_metadata=to_metadata(columns))
        self._block_rows = self._block_rows or self._pending
        self._pending = self._pending_bytes = 0

    def close(self) -> ShardStats:
        """Write the last block and the footer, and put the file on disk."""
        if self._stats is None:
            if self._pending:
                self._emit()
            self._file.close()
            self._sink.close()
            self._stats = ShardStats(rows=self.rows, bytes=self._sink.size_bytes, xxh3=self._sink.hexdigest(), block_rows=self._block_rows)
        return self._stats

    def abort(self) -> None:
        """Close and remove the file."""
        self._pieces = []
        self._sink.abort()


def open_writer(path: Path, schema: Schema, *, block_bytes: int) -> ShardWriter:
    """Return the writer of a new Arrow shard."""
    return ArrowShardWriter(path, schema, block_bytes=block_bytes)
