"""The compiled half of mixing; see `mixing`, whose `deal_reference` it equals. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

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
def deal(counts: Any, sources: Any, turns: Any, key: Any) -> None:
    """Fill `sources` with each source as often as `counts` says, in the order that `key` names, and `turns` with how often it came before.

    Args:
        counts: int64, one a source; their sum is the size of a block.
        sources: int64, filled; a block.
        turns: int64, filled; a block. Its first elements are scratch meanwhile.
        key: names the order.
    """
    place = 0
    for source in range(counts.size):
        for _ in range(counts[source]):
            sources[place] = source
            place += 1
    for last in range(sources.size - 1, 0, -1):
        chosen = np.int64(((_bits(key, np.uint64(last)) >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
        sources[last], sources[chosen] = sources[chosen], sources[last]
    for source in range(counts.size):
        turn = 0
        for place in range(sources.size):
            if sources[place] == source:
                turns[place] = turn
                turn += 1
