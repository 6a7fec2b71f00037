"""Copies rows of fixed columns from mapped shards into a batch: a kernel call for a batch, or for each part of a large one; no Python per row.

A table holds the address of every block that was opened; a row's block is found in a second table, and its bytes are copied, those of all columns
in one pass. A block that is not open yet stops the kernel, is opened, and the kernel goes on. Only columns whose blocks are views of a mapped file
take this path (the memory is the file's, so keeping views costs nothing); others are taken row by row.

Cost: about 45 ns for a row of 128 bytes whose cache line is not near. Memory: some 16 bytes a block, and 8 more a column, touched when used.
Refused: bisection over shards and division by their blocks' size, which is what is found here, but costs 25 ns more for shuffled rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..fields import Field
from ..jit import Held, Kernel
from ..shards.columns import FixedColumn
from ..shards.manifest import Manifest
from .lookup import Lookup
from .team import Copying, Spread

MAX_BLOCKS = 2**22
"""A dataset with more blocks is taken row by row: the tables would need 100 MiB."""

LINES = 8
"""Cache lines that are asked for at the beginning of a row."""

_AHEAD = 32
"""Cache lines that are asked for before they are copied: more than a core can wait for at once only keep it waiting."""

_LINE = 64
"""Bytes of a cache line."""

_STREAM_BYTES = 1 << 20
"""Bytes of a column in a batch from which on it is written past the caches. A store into a cache reads the line first: with batches that leave the cache
before they are read, streaming takes a third of the traffic away."""

_gather = Kernel("loaders.gather_kernel", "gather", "i8(i8[:] i4[:] i8 u8[:,:] u8[:] u1[:] u8[:] u8[:,:] i8 u8 i8 i8)", sources=("kernel_memory",))


class _Table(NamedTuple):
    """What the kernel is told of one batch: whether each column is written past the caches, and to where."""

    streamed: npt.NDArray[np.uint8]
    outs: npt.NDArray[np.uint64]
    spread: Spread


class Gather:
    """The table of one dataset's blocks for some of its fixed columns."""

    def __init__(self, manifest: Manifest, fields: Mapping[str, Field], lookup: Lookup, *, threads: int = 1) -> None:
        """Prepare an empty table of the columns `fields`; large batches are copied by so many threads."""
        self._starts = manifest.starts
        self._firsts, self._base = blocks_of(manifest)
        guide, shift = guide_of(self._firsts)
        self._lookup = lookup
        self._names = tuple(fields)
        self._addresses = np.zeros((len(fields), self._firsts.size - 1), np.uint64)
        widths = np.array([prod(field.shape) * np.dtype(field.dtype).itemsize for field in fields.values()], np.uint64)
        self._widths = widths.tolist()
        ahead = max(_AHEAD // max(int(np.clip((widths + 63) // 64, 1, LINES).sum()), 1), 2)
        head, scratch = (Held(self._firsts), Held(guide), shift, Held(self._addresses), Held(widths)), (len(fields), _AHEAD)

        def table() -> _Table:
            streamed, outs = np.zeros(len(fields), np.uint8), np.zeros(len(fields), np.uint64)
            held = (*head, Held(streamed), Held(outs))
            return _Table(streamed, outs, Spread(lambda: _gather.bind(*held, Held(np.empty(scratch, np.uint64)), ahead), 3, threads))

        self._tables = [table(), table()]
        self._views: list[npt.NDArray[Any]] = []

    @staticmethod
    def suits(manifest: Manifest) -> bool:
        """Return whether every shard is an Arrow file of equal blocks, and the blocks are few enough for a table."""
        if manifest.formats != {"arrow"} or not (manifest.block_rows > 0).all():
            return False
        return int(_counts(manifest).sum()) <= MAX_BLOCKS

    def into(self, rows: npt.NDArray[np.int64], outs: Sequence[npt.NDArray[Any]], *, streams: bool = False) -> None:
        """Copy `rows` of the dataset into `outs`, one `[rows, *shape]` for each column; all are C-contiguous.

        With `streams` what is too large for a core's own cache goes past all caches, for a reader on another core, later.
        """
        copying = self.prepare(rows, outs, streams=streams)
        copying.begin()
        copying.finish()

    @property
    def shared(self) -> bool:
        """Whether other threads work between `begin` and `finish` of what was prepared."""
        return self._tables[0].spread.shared

    def prepare(self, rows: npt.NDArray[np.int64], outs: Sequence[npt.NDArray[Any]], *, streams: bool = False) -> Copying:
        """Return what does what `into` does. The one prepared before may be under way, the one before that must be finished."""
        self._tables.reverse()
        table = self._tables[0]
        table.spread.prepare((self, rows, outs), sum([out.nbytes for out in outs]), rows.ctypes.data, rows.size)
        for column, out in enumerate(outs):
            table.outs[column] = address = out.ctypes.data
            table.streamed[column] = streams and out.nbytes >= _STREAM_BYTES and not (address % _LINE or self._widths[column] % _LINE)
        return Copying(table.spread, lambda: self._finish(table, rows, outs))

    def _finish(self, table: _Table, rows: npt.NDArray[np.int64], outs: Sequence[npt.NDArray[Any]]) -> None:
        at, call = rows.ctypes.data, table.spread.call
        for begin, end in table.spread.left():
            done = begin
            while (done := call(at, end, done)) < end:
                if not self._open(int(rows[done])):
                    place = self._lookup.places(rows[done : done + 1])[0]
                    for name, out in zip(self._names, outs, strict=True):
                        out[done] = place.value(name)
                    done += 1

    def _open(self, row: int) -> bool:
        """Note where the block of a row lies; return False when it is memory of its own, which must not be kept."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        block = int(np.searchsorted(self._firsts, row, side="right")) - 1
        if not self._lookup.mapped(shard):
            return False
        columns = self._lookup.block(shard, block - int(self._base[shard]))
        for number, name in enumerate(self._names):
            column = columns[name]
            assert isinstance(column, FixedColumn)
            values = np.ascontiguousarray(column.values)
            self._views.append(values)
            self._addresses[number, block] = values.ctypes.data
        return True


def blocks_of(manifest: Manifest) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first row of each block, and behind them the number of rows; and the number of each shard's first block."""
    counts = _counts(manifest)
    base = np.cumsum(counts) - counts
    shards = np.repeat(np.arange(counts.size), counts)
    firsts = manifest.starts[shards] + (np.arange(shards.size) - base[shards]) * manifest.block_rows[shards]
    return np.append(firsts, manifest.rows), base


def _counts(manifest: Manifest) -> npt.NDArray[np.int64]:
    """Return how many blocks each shard has, all of equal rows but the last."""
    return np.asarray(-(-np.diff(manifest.starts) // manifest.block_rows))


def guide_of(firsts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], int]:
    """Return the blocks of rows 0, 2**shift, 2 * 2**shift and so on, and the last block; and the shift, such that there are about as many as blocks."""
    rows, blocks = int(firsts[-1]), firsts.size - 1
    shift = max(rows // max(blocks, 1), 1).bit_length() - 1
    granules = np.arange(0, rows, 1 << shift)
    return np.append(np.searchsorted(firsts[:-1], granules, side="right") - 1, blocks - 1).astype(np.int32), shift
