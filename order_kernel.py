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


@numba.njit(inline="always")
def _mix_small(value: Any) -> Any:
    value = np.uint32(np.uint32(value ^ np.uint32(value >> np.uint32(16))) * np.uint32(MIX_1))
    value = np.uint32(np.uint32(value ^ np.uint32(value >> np.uint32(15))) * np.uint32(MIX_2))
    return np.uint32(value ^ np.uint32(value >> np.uint32(16)))


@numba.njit(inline="always")
def _turn_small(target: Any, source: Any, side: Any, key: Any) -> Any:
    """As `_turn`, the product's upper 32 bits put together from halves, since side < 2**16: eight lanes of 32 bits and not four of 64."""
    mixed = _mix_small(np.uint32(source ^ key))
    high = np.uint32(np.uint32(mixed >> np.uint32(16)) * side)
    low = np.uint32(np.uint32(np.uint32(mixed & np.uint32(0xFFFF)) * side) >> np.uint32(16))
    moved = np.uint32(target + np.uint32(np.uint32(high + low) >> np.uint32(16)))
    return min(moved, np.uint32(moved - side))  # below side, the difference wraps to a larger number


@numba.njit
def permute_small(keys: Any, left: Any, right: Any, n: Any, a: Any, b: Any, address: Any, count: Any) -> None:
    """Do what `permute` does for n up to 2**31, in 32-bit arithmetic."""
    out = longs(address)
    tall, wide = np.uint32(a), np.uint32(b)
    share = 1.0 / np.float64(b)
    for start in range(0, count, left.size):
        size = min(left.size, count - start)
        for i in range(size):
            value = np.int32(out[start + i])
            one = np.int32(np.float64(value) * share)
            two = np.int32(value - np.int32(one * np.int32(b)))
            less, more = np.int32(two < 0), np.int32(two >= np.int32(b))  # the share was rounded
            left[i] = np.uint32(one - less + more)
            right[i] = np.uint32(two + np.int32(b) * np.int32(less - more))
        for number in range(0, keys.size, 2):
            key = keys[number]
            for i in range(size):
                left[i] = _turn_small(left[i], right[i], tall, key)
            key = keys[number + 1]
            for i in range(size):
                right[i] = _turn_small(right[i], left[i], wide, key)
        for i in range(size):
            value = np.uint64(left[i]) * b + np.uint64(right[i])
            while value >= n:
                one = np.uint32(value // b)
                two = np.uint32(value - np.uint64(one) * b)
                for number in range(0, keys.size, 2):
                    one = _turn_small(one, two, tall, keys[number])
                    two = _turn_small(two, one, wide, keys[number + 1])
                value = np.uint64(one) * b + np.uint64(two)
            out[start + i] = np.int64(value)


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
