"""The compiled half of mixing; see `mixing`, whose `deal_reference` it equals. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..kernel_memory import longs

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


@numba.njit(inline="always")
def _bits(key: Any, count: Any) -> Any:
    value = key + np.uint64(GOLDEN) * count
    value = (value ^ (value >> np.uint64(30))) * np.uint64(MIX_1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(MIX_2)
    return value ^ (value >> np.uint64(31))


@numba.njit
def deal(counts: Any, address: Any, key: Any) -> None:
    """Write a block: each source exactly as often as `counts` says, in the order that `key` names, and how often it came before.

    Args:
        counts: int64, one a source; their sum is the size of a block.
        address: of int64 memory: the block's sources, its turns, and a number for each source, which is scratch.
        key: names the order.
    """
    sources = longs(address)
    size = 0
    for source in range(counts.size):
        for _ in range(counts[source]):
            sources[size] = source
            size += 1
    turns = longs(address + np.uint64(8 * size))
    left = longs(address + np.uint64(16 * size))
    for source in range(counts.size):
        left[source] = counts[source]
    for last in range(1, size):  # all draws first: each is by itself, and swaps are not
        turns[last] = np.int64(((_bits(key, np.uint64(last)) >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
    for last in range(size - 1, 0, -1):
        chosen = turns[last]
        sources[last], sources[chosen] = sources[chosen], sources[last]
    for last in range(size - 1, -1, -1):
        left[sources[last]] -= 1
        turns[last] = left[sources[last]]
