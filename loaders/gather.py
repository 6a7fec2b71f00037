"""Copies rows of a fixed column from mapped shards into a batch: one kernel call a batch, no Python per row.

A table holds the address of every block that was opened; a row's shard is found by bisection, its block by division, and its bytes are
copied. A block that is not open yet stops the kernel, is opened, and the kernel goes on. Only columns whose blocks are views of a mapped
file take this path (the memory is the file's, so keeping views costs nothing); others are taken row by row.

Cost: about 100 ns for a row of 128 bytes whose cache line is not near. Memory: 8 bytes a block, touched when used.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fields import Field
from ..jit import Held, Kernel
from ..shards.columns import FixedColumn
from ..shards.manifest import Manifest
from .lookup import Lookup

MAX_BLOCKS = 2**24
"""A dataset with more blocks is taken row by row: the table would need 128 MiB."""


_AHEAD = 64
"""Rows whose memory is asked for before the first of them is copied, so that the processor waits for many at once."""

_gather = Kernel("loaders.gather_kernel", "gather", "i8(i8[:] i8[:] i8[:] u8[:] u8[:] u8 u8 i8 i8 u8)", sources=("kernel_memory",))


class Gather:
    """The table of one dataset's blocks for one fixed column."""

    def __init__(self, manifest: Manifest, field: Field, name: str, lookup: Lookup) -> None:
        """Prepare an empty table of the column `name`."""
        rows = np.array([shard.rows for shard in manifest.shards], np.int64)
        self._starts = manifest.starts
        self._block_rows = np.array([max(shard.block_rows, 1) for shard in manifest.shards], np.int64)
        self._block_base = np.zeros(rows.size + 1, np.int64)
        np.cumsum(-(-rows // self._block_rows), out=self._block_base[1:])
        self._addresses = np.zeros(int(self._block_base[-1]), np.uint64)
        self._row_bytes = prod(field.shape) * np.dtype(field.dtype).itemsize
        self._name = name
        self._lookup = lookup
        tables = (self._starts, self._block_rows, self._block_base, self._addresses, np.empty(_AHEAD, np.uint64))
        self._call = _gather.bind(*map(Held, tables), self._row_bytes)
        self._views: list[npt.NDArray[Any]] = []

    @staticmethod
    def suits(manifest: Manifest) -> bool:
        """Return whether every shard is an Arrow file of equal blocks, and the blocks are few enough for a table."""
        if not all(shard.format == "arrow" and shard.block_rows > 0 for shard in manifest.shards):
            return False
        return sum(-(-shard.rows // shard.block_rows) for shard in manifest.shards) <= MAX_BLOCKS

    def into(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """Copy `rows` of the dataset into `out`, `[rows, *shape]`; both are C-contiguous."""
        done, count, at, to = 0, rows.size, rows.ctypes.data, out.ctypes.data
        while (done := self._call(at, count, done, to)) < count:
            if not self._open(int(rows[done])):
                place = self._lookup.places(rows[done : done + 1])[0]
                out[done] = place.value(self._name)
                done += 1

    def _open(self, row: int) -> bool:
        """Note where the block of a row lies; return False when it is memory of its own, which must not be kept."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        block = (row - int(self._starts[shard])) // int(self._block_rows[shard])
        if not self._lookup.mapped(shard):
            return False
        column = self._lookup.block(shard, block)[self._name]
        assert isinstance(column, FixedColumn)
        values = np.ascontiguousarray(column.values)
        self._views.append(values)
        self._addresses[self._block_base[shard] + block] = values.ctypes.data
        return True
