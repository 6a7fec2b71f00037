"""The compiled half of `gather`: rows from the addresses of open blocks to a run of memory. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..kernel_memory import longs, prefetch


@intrinsic
def _copied(_context: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """Copy `_size` bytes from address `_source` to address `_target` (memcpy)."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        to, origin, count = arguments
        cgutils.raw_memcpy(builder, builder.inttoptr(to, pointer), builder.inttoptr(origin, pointer), count, 1)  # type: ignore[no-untyped-call]
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64, types.uint64, types.uint64), generate


_copy: Any = _copied
"""`memcpy`: target, source, bytes."""


@intrinsic
def _streamed(_context: Any, _target: Any, _source: Any) -> Any:
    """Copy 64 bytes from one address to another that is a multiple of 32, past the caches."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(64), 4).as_pointer()
        target, source = (builder.inttoptr(address, lanes) for address in arguments)
        once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        for place in range(2):
            value = builder.load(builder.gep(source, [ir.IntType(32)(place)]), align=1)
            builder.store(value, builder.gep(target, [ir.IntType(32)(place)]), align=32).set_metadata("nontemporal", once)
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64, types.uint64), generate


_stream: Any = _streamed
"""Copy a cache line to memory: target, source."""


@intrinsic
def _fenced(_context: Any) -> Any:
    """Let no later store be seen before what was streamed."""

    def generate(_: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(), generate


_fence: Any = _fenced

LINES = 8
"""Cache lines that are asked for at the beginning of a row, as `gather` counts them too."""


@numba.njit
def gather(
    firsts: Any,
    guide: Any,
    shift: Any,
    addresses: Any,
    widths: Any,
    streamed: Any,
    outs: Any,
    sources: Any,
    ahead: Any,
    at: Any,
    count: Any,
    begin: Any,
) -> Any:
    """Copy every column of the rows from number `begin` of the `count` at address `at` on to addresses `outs[column]` + i * `widths[column]`.

    `firsts` holds the first row of each block and the number of rows, `guide` the block of every row that is a multiple of 2**`shift`, and last the
    last block. Columns that are `streamed` are copied by cache lines and past the caches, others by `memcpy`, which knows what this processor does best.
    Returns how many are done: fewer than all when a block is not open.

    A row is located, and its memory asked for, `ahead` rows before it is copied; `sources` holds that many addresses for each column, rounded up to a
    power of two.
    """
    rows, mask, end = longs(at), sources.shape[1] - 1, count
    for i in range(begin, count + ahead):
        done = i - ahead
        if done >= end:
            break
        if done >= begin:
            for column in range(widths.size):
                width, source = widths[column], sources[column, done & mask]
                target = outs[column] + np.uint64(done) * width
                if streamed[column]:
                    for line in range(width // np.uint64(64)):
                        _stream(target + np.uint64(line) * np.uint64(64), source + np.uint64(line) * np.uint64(64))
                else:
                    _copy(target, source, width)
        if i < end and not _locate(firsts, guide, rows[i], shift, addresses, widths, sources, i & mask):
            end = i
    _fence()
    return end


@numba.njit
def _locate(firsts: Any, guide: Any, row: Any, shift: Any, addresses: Any, widths: Any, sources: Any, place: Any) -> Any:
    """Note where a row's columns lie, and ask for their memory; return whether its block is open."""
    block = _block(firsts, guide, row >> shift, row)
    offset = np.uint64(row - firsts[block])
    for column in range(widths.size):
        if addresses[column, block] == 0:
            return False
        source = addresses[column, block] + offset * widths[column]
        sources[column, place] = source
        _ask(source, widths[column])
    return True


@numba.njit
def _block(firsts: Any, guide: Any, granule: Any, row: Any) -> Any:
    """Return the block of a row. Shuffled rows make every branch on them a wrong guess, so there is none where blocks are as long as granules."""
    low, high = np.int64(guide[granule]), np.int64(guide[granule + 1])
    while high - low > 1:
        middle = (low + high) // 2
        if row >= firsts[middle]:
            low = middle
        else:
            high = middle
    return low + np.int64(row >= firsts[low + 1])


@numba.njit
def _ask(source: Any, width: Any) -> None:
    """Ask for the beginning of a row: at most `LINES` cache lines, since the processor finds the rest by itself."""
    prefetch(source)
    if width > 64:
        prefetch(source + np.uint64(64))
    if width > 128:
        for line in range(2, min((width + np.uint64(63)) // np.uint64(64), np.uint64(LINES))):
            prefetch(source + np.uint64(line) * np.uint64(64))
