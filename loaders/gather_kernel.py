"""The compiled half of `gather`: rows from the addresses of open blocks to a run of memory. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..kernel_memory import longs


@intrinsic
def _copy(_context: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """Copy `_size` bytes from address `_source` to address `_target` (memcpy)."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        to, origin, count = arguments
        cgutils.raw_memcpy(builder, builder.inttoptr(to, pointer), builder.inttoptr(origin, pointer), count, 1)  # type: ignore[no-untyped-call]
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64, types.uint64, types.uint64), generate


@intrinsic
def _prefetch(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64), generate


@numba.njit
def gather(
    starts: Any, block_rows: Any, block_base: Any, addresses: Any, sources: Any, row_bytes: Any, at: Any, count: Any, begin: Any, out: Any
) -> Any:
    """Copy rows from number `begin` of the `count` at address `at` on to address `out` + i * row_bytes.

    Returns how many are done: fewer than all when a block is not open.

    Runs of as many rows as `sources` holds are located and their memory asked for before the first of them is copied.
    """
    rows = longs(at)
    shard = 0
    lines = min((row_bytes + np.uint64(63)) // np.uint64(64), np.uint64(8))
    for first in range(begin, count, sources.size):
        size = min(sources.size, count - first)
        wanted = size
        for i in range(size):
            row = rows[first + i]
            if row < starts[shard] or row >= starts[shard + 1]:
                shard = np.searchsorted(starts, row, side="right") - 1
            local = row - starts[shard]
            block = local // block_rows[shard]
            address = addresses[block_base[shard] + block]
            if address == 0:
                size = i
                break
            sources[i] = address + np.uint64(local - block * block_rows[shard]) * row_bytes
            for line in range(lines):
                _prefetch(sources[i] + np.uint64(line) * np.uint64(64))  # type: ignore[call-arg]  # numba passes the context
        for i in range(size):
            _copy(out + np.uint64(first + i) * row_bytes, sources[i], row_bytes)  # type: ignore[call-arg]  # numba passes the context
        if size < wanted:
            return first + size
    return count
