"""The compiled half of packing; see `packing`, whose `pack_reference` it equals. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba

WORD = 63
"""Rooms that one word tells of: numba's 64-bit integers are signed."""


@numba.njit
def _mark(words: Any, room: Any) -> None:
    words[room // WORD] |= 1 << (room % WORD)


@numba.njit
def _next_room(words: Any, room: Any) -> Any:
    """Return the smallest room that some bin has and that is at least so large, or -1."""
    word = room // WORD
    bits = words[word] >> (room % WORD) << (room % WORD)
    while bits == 0:
        word += 1
        if word == words.size:
            return -1
        bits = words[word]
    low = bits & -bits
    place = 0
    while low > 1:
        low >>= 1
        place += 1
    return word * WORD + place


@numba.njit
def best_fit(lengths: Any, bins: Any, rooms: Any, heads: Any, others: Any, words: Any) -> None:
    """Put each piece into the bin with the least room that holds it, of equal ones the one that was filled last; -1 for pieces that fit nowhere.

    Args:
        lengths: of the pieces, in the order in which they are placed.
        bins: filled with the bin of each.
        rooms: room of each bin; kept up.
        heads: scratch, one for each room from 0 to the largest: the bin with that room that was filled last, or -1.
        others: scratch, one for each bin: the next bin with the same room, or -1.
        words: scratch, zeros: which rooms some bin has.
    """
    heads[:] = -1
    for number in range(rooms.size - 1, -1, -1):
        others[number] = heads[rooms[number]]
        heads[rooms[number]] = number
        _mark(words, rooms[number])
    for piece in range(lengths.size):
        room = _next_room(words, lengths[piece])
        if room < 0:
            bins[piece] = -1
            continue
        chosen = heads[room]
        heads[room] = others[chosen]
        if heads[room] < 0:
            words[room // WORD] &= ~(1 << (room % WORD))
        left = room - lengths[piece]
        others[chosen] = heads[left]
        heads[left] = chosen
        _mark(words, left)
        rooms[chosen] = left
        bins[piece] = chosen


@numba.njit
def first_fit(lengths: Any, bins: Any, rooms: Any, tree: Any) -> None:
    """Put each piece into the first bin that holds it; -1 for pieces that fit nowhere.

    Args:
        lengths: of the pieces, in the order in which they are placed.
        bins: filled with the bin of each.
        rooms: room of each bin; kept up.
        tree: scratch, twice as many as the smallest power of two that is no less than the bins: the largest room below each node; the root is 1.
    """
    leaves = tree.size // 2
    tree[:] = -1
    for number in range(rooms.size):
        tree[leaves + number] = rooms[number]
    for node in range(leaves - 1, 0, -1):
        tree[node] = max(tree[2 * node], tree[2 * node + 1])
    for piece in range(lengths.size):
        bins[piece] = -1
        if tree[1] < lengths[piece]:
            continue
        node = 1
        while node < leaves:
            node *= 2
            if tree[node] < lengths[piece]:
                node += 1
        bins[piece] = node - leaves
        rooms[node - leaves] -= lengths[piece]
        tree[node] = rooms[node - leaves]
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
