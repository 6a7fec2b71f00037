"""The compiled half of the law of order; see `order`, whose `permute_reference` it equals bit for bit. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .kernel_memory import longs

MASK = 2**32 - 1
MIX_1 = 0x7FEB352D
MIX_2 = 0x846CA68B


@numba.njit(inline="always")
def _mix(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(16))) * np.uint64(MIX_1) & np.uint64(MASK)
    value = (value ^ (value >> np.uint64(15))) * np.uint64(MIX_2) & np.uint64(MASK)
    return value ^ (value >> np.uint64(16))


@numba.njit(inline="always")
def _turn(target: Any, source: Any, side: Any, key: Any) -> Any:
    moved = target + ((_mix(source ^ key) * side) >> np.uint64(32))
    return moved - side if moved >= side else moved


@numba.njit
def permute(keys: Any, left: Any, right: Any, n: Any, a: Any, b: Any, address: Any, count: Any) -> None:
    """Replace each of `count` positions at an address by its row; `left` and `right` are scratch of equal size.

    Blocks go through one round at a time, so that the loops hold no branch and become vector code; the few values beyond n walk alone.
    """
    out = longs(address)
    for start in range(0, count, left.size):
        size = min(left.size, count - start)
        for i in range(size):
            value = np.uint64(out[start + i])
            left[i] = value // b
            right[i] = value - left[i] * b
        for number in range(0, keys.size, 2):
            for i in range(size):
                left[i] = _turn(left[i], right[i], a, keys[number])
            for i in range(size):
                right[i] = _turn(right[i], left[i], b, keys[number + 1])
        for i in range(size):
            value = left[i] * b + right[i]
            while value >= n:
                one = value // b
                two = value - one * b
                for number in range(0, keys.size, 2):
                    one = _turn(one, two, a, keys[number])
                    two = _turn(two, one, b, keys[number + 1])
                value = one * b + two
            out[start + i] = np.int64(value)
