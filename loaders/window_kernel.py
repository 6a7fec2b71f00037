"""Copies windows of tokens from the addresses of open blocks to a batch, widening them on the way. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..kernel_memory import longs, prefetch


@intrinsic
def _elements(_context: Any, _address: Any, like: Any) -> Any:
    """Return an address as a pointer to elements of the dtype of `like`."""
    pointer = types.CPointer(like.dtype)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.uint64, like), generate


_at: Any = _elements  # numba hands an intrinsic its context, which a checker of types does not know


PIECE = 128
"""Elements that are copied between asking for as many of the next window: asking for all at once would keep the processor from copying meanwhile."""


@numba.njit
def gather_windows(stored: Any, made: Any, firsts: Any, addresses: Any, length: Any, at: Any, count: Any, begin: Any, out: Any) -> Any:
    """Copy windows from number `begin` of the `count` at address `at` on to address `out`, `length` elements each.

    `stored` and `made` are arrays of the dtypes on either side; nothing of them is read. Returns how many windows are done: fewer than all when one
    of the blocks of the next is not open.
    """
    windows, target = longs(at), _at(out, made)
    block = 0
    for window in range(begin, count):
        following = _place(firsts, addresses, windows[window + 1] * length, stored.itemsize) if window + 1 < count else np.uint64(0)
        start = windows[window] * length
        if start < firsts[block] or start >= firsts[block + 1]:
            block = np.searchsorted(firsts, start, side="right") - 1
        done = np.int64(0)
        piece = block
        while done < length:
            here = min(length - done, firsts[piece + 1] - start - done)
            if here > 0:
                if addresses[piece] == 0:
                    return window
                source = _at(addresses[piece] + np.uint64((start + done - firsts[piece]) * stored.itemsize), stored)
                base = window * length + done
                for first in range(0, here, PIECE):
                    if following != 0:
                        _ask(following + np.uint64((done + first) * stored.itemsize), stored.itemsize)
                    for i in range(first, min(first + PIECE, here)):
                        target[base + i] = source[i]
                done += here
            piece += 1
    return count


@numba.njit
def _place(firsts: Any, addresses: Any, start: Any, itemsize: Any) -> Any:
    """Return the address of an element, or 0 when its block is not open."""
    block = np.searchsorted(firsts, start, side="right") - 1
    if addresses[block] == 0:
        return np.uint64(0)
    return addresses[block] + np.uint64((start - firsts[block]) * itemsize)


@numba.njit
def _ask(source: Any, itemsize: Any) -> None:
    """Ask for the memory of a piece; past the end of a block it may be any, which does no harm."""
    for line in range(PIECE * itemsize // 64):
        prefetch(source + np.uint64(line * 64))
