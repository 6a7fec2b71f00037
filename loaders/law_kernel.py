"""The compiled half of windows over shards; see `law`. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..kernel_memory import longs


@numba.njit
def settle(edges: Any, moves: Any, address: Any, count: Any) -> None:
    """Replace each of `count` places in a window, at an address, by its row.

    Args:
        edges: int64, where each of the window's shards begins, ascending; the first one not after the window's beginning.
        moves: int64, what a place in each shard is added to.
        address: of int64 places, which count from the window's beginning.
        count: how many.
    """
    places = longs(address)
    for i in range(count):
        place = places[i]
        shard, left = 0, edges.size
        while left > 1:  # a bisection without a branch that could be guessed wrongly
            half = left // 2
            shard += half * np.int64(edges[shard + half] <= place)
            left -= half
        places[i] = place + moves[shard]
