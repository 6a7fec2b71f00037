"""Writes the rows of one part into staged shards, one row of shards a split, none larger than asked.

A shard's file is bounded before it is written: each row is counted with what the format adds to it (a tar's headers and padding, an Arrow block's
alignment). Where a shard ends depends on the rows of the part alone. A file grows under a temporary name and takes its final name when closed
and flushed, so a marker that names it can be believed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import BadData
from ..fields import Schema
from ..shards.arrow_columns import columns_of, row_bytes
from ..shards.columns import FixedColumn, RaggedColumn
from ..shards.shardwriter import ShardWriter, open_shard_writer
from ..shards.staging import move_shard
from .assign import Ints

_TAR_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A finished shard in the job's folder.

    Attributes:
        name: its file name there.
        split: which split it belongs to.
        rows: how many rows it has.
        bytes: the file's size.
        xxh3: of the file.
        block_rows: rows a block.
    """

    name: str
    split: int
    rows: int
    bytes: int
    xxh3: str
    block_rows: int


class Refused(NamedTuple):
    """A row that a shard's writer does not take: its number, the column at fault, and why."""

    row: int
    field: str | None
    reason: str


def file_bytes(batch: pa.RecordBatch, schema: Schema, format: str) -> Ints:  # noqa: A002 - the design's name
    """Return how much each row adds to a shard's file, at most."""
    columns = columns_of(batch, schema)
    if format != "tar":
        values = np.asarray(row_bytes(columns), np.int64)
        return np.broadcast_to(values + values // 1000 + 1, (batch.num_rows,))
    total: npt.NDArray[Any] = np.zeros(batch.num_rows, np.int64)
    for column in columns.values():
        if isinstance(column, RaggedColumn):
            size = (column.ends - column.starts).astype(np.int64) * column.values.dtype.itemsize
        else:
            assert isinstance(column, FixedColumn)
            size = np.full(batch.num_rows, column.values.dtype.itemsize * int(np.prod(column.values.shape[1:])), np.int64)
        total += _TAR_BLOCK + -(-(size + 128) // _TAR_BLOCK) * _TAR_BLOCK  # 128: an .npy header
    return total


def overhead_bytes(schema: Schema, format: str) -> int:  # noqa: A002 - the design's name
    """Return what a shard's file has beside its rows."""
    return 10_240 + 1024 if format == "tar" else 2048 + 1024 * len(schema)


class Output:
    """The shards of one part, being written."""

    def __init__(self, folder: Path, prefix: str, schema: Schema, *, format: str, shard_bytes: int) -> None:  # noqa: A002 - the design's name
        """Write to `folder` under names that begin with `prefix`."""
        self.staged: list[Staged] = []
        self._folder, self._prefix, self._schema, self._format = folder, prefix, schema, format
        self._room = max(shard_bytes - overhead_bytes(schema, format), 1)
        self._open: dict[int, tuple[ShardWriter, Path, int]] = {}
        self._count: dict[int, int] = {}

    def write(self, batch: pa.RecordBatch, split: int) -> list[Refused]:
        """Take canonical rows of one split; return those that a tar's writer does not take, of which nothing is written."""
        ends = np.cumsum(file_bytes(batch, self._schema, self._format))
        refused: list[Refused] = []
        done = 0
        while done < batch.num_rows:
            writer, path, used = self._open.get(split) or self._begin(split)
            before = int(ends[done - 1]) if done else 0
            stop = int(np.searchsorted(ends, before + self._room - used, side="right"))
            if (stop <= done and writer.rows) or writer.full:
                self._end(split)
                continue
            stop = max(stop, done + 1)
            fault = _write(writer, batch.slice(done, stop - done), self._format)
            if fault is not None:
                stop = done + fault.row
                refused.append(Refused(stop, fault.field, fault.reason))
            self._open[split] = (writer, path, used + (int(ends[stop - 1]) if stop else 0) - before)
            done = stop + (fault is not None)
        return refused

    def begun(self, split: int) -> int:
        """Return how many shards of a split have been begun."""
        return self._count.get(split, 0)

    def _begin(self, split: int) -> tuple[ShardWriter, Path, int]:
        number = self._count.get(split, 0)
        self._count[split] = number + 1
        path = self._folder / f"{self._prefix}-{split:03d}-{number:05d}.{os.getpid()}.tmp"
        with contextlib.suppress(FileNotFoundError):  # an earlier process with this number died here
            path.unlink()
        self._open[split] = (open_shard_writer(path, self._schema, self._format), path, 0)
        return self._open[split]

    def _end(self, split: int) -> None:
        writer, path, _ = self._open[split]
        if not writer.rows:  # each of its rows was refused
            writer.abort()
            del self._open[split]
            return
        stats = writer.close()  # a full disk shows here, or below: until it is named, `abort` must know the writer
        name = f"{path.name.split('.', 1)[0]}.{self._format}"
        move_shard(path, path.with_name(name))
        del self._open[split]
        self.staged.append(Staged(name=name, split=split, rows=stats.rows, bytes=stats.bytes, xxh3=stats.xxh3, block_rows=stats.block_rows))

    def close(self) -> list[Staged]:
        """Finish the shards that are open and return all, by split and in the order of their rows."""
        for split in sorted(self._open):
            self._end(split)
        return sorted(self.staged, key=lambda shard: shard.name)

    def abort(self) -> None:
        """Remove what is not finished."""
        for writer, _, _ in self._open.values():
            writer.abort()
        self._open = {}


def _write(writer: ShardWriter, batch: pa.RecordBatch, format: str) -> Refused | None:  # noqa: A002 - the design's name
    """Write rows; return the first that a tar's writer refuses, counted in the batch, behind which nothing is written.

    A tar is written row by row, so what came before the refused one is in it. Other formats refuse nothing that is canonical.
    """
    before = writer.rows
    try:
        writer.write_batch(batch)
    except BadData as error:
        if format != "tar":
            raise
        return Refused(writer.rows - before, error.field, error.reason)
    return None


def by_split(splits: npt.NDArray[np.int64], count: int) -> Sequence[tuple[int, Ints]]:
    """Return the numbers of the rows of each split that has any, in their order; rows with split -1 are left out."""
    return [(split, rows) for split in range(count) if len(rows := np.flatnonzero(splits == split))]
