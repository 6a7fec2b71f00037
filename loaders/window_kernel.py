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


@numba.njit
def gather_windows(stored: Any, made: Any, firsts: Any, addresses: Any, length: Any, at: Any, count: Any, begin: Any, out: Any) -> Any:
    """Copy windows from number `begin` of the `count` at address `at` on to address `out`, `length` elements each.

    `stored` and `made` are arrays of the dtypes on either side; nothing of them is read. Returns how many windows are done: fewer than all when one
    of the blocks of the next is not open.
    """
    windows, target = longs(at), _at(out, made)
    block = 0
    for window in range(begin, count):
        if window + 1 < count:
            _ask(firsts, addresses, windows[window + 1] * length, stored.itemsize)
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
                for i in range(here):
                    target[base + i] = source[i]
                done += here
            piece += 1
    return count


@numba.njit
def _ask(firsts: Any, addresses: Any, start: Any, itemsize: Any) -> None:
    """Ask for the beginning of the next window while this one is copied; the processor finds the rest by itself."""
    block = np.searchsorted(firsts, start, side="right") - 1
    if addresses[block] != 0:
        source = addresses[block] + np.uint64((start - firsts[block]) * itemsize)
        for line in range(8):
            prefetch(source + np.uint64(line * 64))
