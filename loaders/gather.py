"""Copies rows of a fixed column from mapped shards into a batch: one kernel call a batch, no Python per row.

A table holds the address of every block that was opened; a row's shard is found by bisection, its block by division, and its bytes are
copied. A block that is not open yet stops the kernel, is opened, and the kernel goes on. Only columns whose blocks are views of a mapped
file take this path (the memory is the file's, so keeping views costs nothing); others are taken row by row.

Cost: about 100 ns for a row of 128 bytes whose cache line is not near. Memory: 8 bytes a block, touched when used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..fields import Field
from ..shards.columns import Column, FixedColumn
from ..shards.manifest import Manifest

MAX_BLOCKS = 2**24
"""A dataset with more blocks is taken row by row: the table would need 128 MiB."""


@intrinsic
def _copy(_context: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """Copy `_size` bytes from address `_source` to address `_target` (memcpy)."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        to, origin, count = arguments
        cgutils.raw_memcpy(builder, builder.inttoptr(to, pointer), builder.inttoptr(origin, pointer), count, 1)  # type: ignore[no-untyped-call]
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64, types.uint64, types.uint64), generate


@numba.njit(nogil=True, cache=True)
def gather(
    rows: Any, begin: Any, starts: Any, block_rows: Any, block_base: Any, addresses: Any, row_bytes: Any, out: Any
) -> Any:  # pragma: no cover  (compiled)
    """Copy rows[begin:] to address `out` + i * row_bytes; return how many are done: fewer than all when a block is not open."""
    shard = 0
    for i in range(begin, rows.size):
        row = rows[i]
        if row < starts[shard] or row >= starts[shard + 1]:
            shard = np.searchsorted(starts, row, side="right") - 1
        local = row - starts[shard]
        block = local // block_rows[shard]
        address = addresses[block_base[shard] + block]
        if address == 0:
            return i
        index = np.uint64(local - block * block_rows[shard])
        _copy(out + np.uint64(i) * row_bytes, address + index * row_bytes, row_bytes)  # type: ignore[call-arg]  # numba passes the context
    return rows.size


class Gather:
    """The table of one dataset's blocks for one fixed column."""

    def __init__(self, manifest: Manifest, field: Field, name: str, open_block: Callable[[int, int], Mapping[str, Column]]) -> None:
        """Prepare an empty table of the column `name`; `open_block(shard, block)` opens one block."""
        rows = np.array([shard.rows for shard in manifest.shards], np.int64)
        self._starts = manifest.starts
        self._block_rows = np.array([max(shard.block_rows, 1) for shard in manifest.shards], np.int64)
        self._block_base = np.zeros(rows.size + 1, np.int64)
        np.cumsum(-(-rows // self._block_rows), out=self._block_base[1:])
        self._addresses = np.zeros(int(self._block_base[-1]), np.uint64)
        self._row_bytes = np.uint64(prod(field.shape) * np.dtype(field.dtype).itemsize)
        self._name = name
        self._open_block = open_block
        self._views: list[npt.NDArray[Any]] = []

    @staticmethod
    def suits(manifest: Manifest) -> bool:
        """Return whether every shard is an Arrow file of equal blocks, and the blocks are few enough for a table."""
        if not all(shard.format == "arrow" and shard.block_rows > 0 for shard in manifest.shards):
            return False
        return sum(-(-shard.rows // shard.block_rows) for shard in manifest.shards) <= MAX_BLOCKS

    def into(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        """Copy `rows` of the dataset into `out`, `[rows, *shape]`, C-contiguous."""
        done = 0
        while True:
            done = gather(rows, done, self._starts, self._block_rows, self._block_base, self._addresses, self._row_bytes, np.uint64(out.ctypes.data))
            if done >= rows.size:
                return
            self._open(int(rows[done]))

    def _open(self, row: int) -> None:
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        block = (row - int(self._starts[shard])) // int(self._block_rows[shard])
        column = self._open_block(shard, block)[self._name]
        assert isinstance(column, FixedColumn)
        values = np.ascontiguousarray(column.values)
        self._views.append(values)
        self._addresses[self._block_base[shard] + block] = values.ctypes.data
