"""Positions as a few arithmetic progressions, and how two coverages of an epoch differ. Pure.

Positions are numbered by the order or, where global batches are dealt to ranks by lanes, by their places in the order in which they are dealt: that is another
numbering for every size of a global batch, and for every place where one begins. A whole global batch is the same positions in all of them, so it is counted as
these. What is left are parts of batches: the positions at their places are worked out while they are few, and otherwise they are named as they are numbered.

Cost: memory for as many stretches as are left when progressions that lie side by side were joined, usually one an epoch, and for the rows of incomplete batches up
to 2**22 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest
from .plan import Dealt

_MOST_STRETCHES = 2**22
"""Stretches of an epoch that are compared, on each side: 900 MB while that is done, 1.4 GB with lanes. A digest from another process may claim any number of them."""

_MOST_DEALT = 2**22
"""Rows of incomplete global batches whose positions are worked out, and lanes that are looked at for it."""

_MOST_NAMED = 5
"""Stretches of positions that a difference names."""

Longs = npt.NDArray[np.int64]


class Progression(NamedTuple):
    """Positions [start + i * stride, start + i * stride + size) for i in [0, times).

    Attributes:
        start: the first position.
        size: positions that follow one another.
        stride: from the beginning of one run of them to the next.
        times: how many runs.
        batch: rows of the global batches inside which these are no positions but places, in the order in which lanes deal them; 0 for positions.
        offset: with `batch`, where the first of such batches would begin, below `batch`.
    """

    start: int
    size: int
    stride: int
    times: int
    batch: int = 0
    offset: int = 0

    @property
    def positions(self) -> int:
        """How many positions there are."""
        return self.size * self.times


def joined(progressions: Iterable[Progression]) -> tuple[Progression, ...]:
    """Return the same positions in as few progressions as is easily seen.

    Those that lie side by side, and those that follow one another, are joined; whole global batches are positions, however they were dealt.
    """
    left = sorted((_closed(one) for one in progressions if one.positions), key=_numbered)
    while True:
        merged: list[Progression] = []
        for one in left:
            before = merged[-1] if merged else None
            together = None if before is None else _side_by_side(before, one)
            if together is None:
                merged.append(one)
            else:
                merged[-1] = together
        left = sorted((part for one in merged for part in _whole(one)), key=_numbered)
        if left == merged:
            return tuple(merged)


def _numbered(one: Progression) -> tuple[int, ...]:
    return one[4:] + one[:4]


def _closed(one: Progression) -> Progression:
    """Return a progression without gaps as one run."""
    if one.times == 1 or one.size == one.stride:
        return one._replace(size=one.positions, stride=one.positions, times=1)
    return one


def _side_by_side(one: Progression, two: Progression) -> Progression | None:
    """Return both as one, when the second begins where the first's runs end."""
    if two.start != one.start + one.size or one[4:] != two[4:]:
        return None
    size = one.size + two.size
    if one.times == two.times == 1:
        return one._replace(size=size, stride=size)
    if (one.stride, one.times) == (two.stride, two.times) and size <= one.stride:
        return _closed(one._replace(size=size))
    return None


def _whole(one: Progression) -> list[Progression]:
    """Return a progression as the positions of the whole global batches that one run holds, and what comes before and behind them."""
    if not one.batch or one.times > 1:
        return [one]
    end = one.start + one.size
    first, last = one.start + (one.offset - one.start) % one.batch, end - (end - one.offset) % one.batch
    if first >= last:
        return [one]
    parts = [(one.start, first, one.batch, one.offset), (first, last, 0, 0), (last, end, one.batch, one.offset)]
    return [Progression(begin, stop - begin, stop - begin, 1, batch, offset) for begin, stop, batch, offset in parts if begin < stop]


class Level(NamedTuple):
    """How often positions are covered, one side's less the other's.

    Attributes:
        places: ascending, where that changes.
        depth: what it is from there on.
    """

    places: Longs
    depth: Longs

    @staticmethod
    def of(places: Longs, change: npt.NDArray[np.integer]) -> Level:
        """Return what comes of changes at places in any order."""
        by_place = np.argsort(places, kind="stable")
        places, depth = places[by_place], np.cumsum(change[by_place], dtype=np.int64)
        last = np.append(places[1:] != places[:-1], True)[: places.size]
        places, depth = places[last], depth[last]
        turns = np.diff(depth, prepend=0) != 0
        return Level(places[turns], depth[turns])

    def plus(self, *others: tuple[Longs, Longs]) -> Level:
        """Return the sum of this and of changes at places."""
        here = (self.places, np.diff(self.depth, prepend=0))
        return Level.of(*(np.concatenate(part) for part in zip(here, *others, strict=True))) if others else self


class Parts(NamedTuple):
    """Parts of incomplete global batches.

    Attributes:
        firsts: the first place of each.
        sizes: how many follow one another.
        depth: how much more often one side covers them than the other.
    """

    firsts: Longs
    sizes: Longs
    depth: Longs


def differences(have: Sequence[Progression], expected: Sequence[Progression], lanes: int) -> list[str]:
    """Return how one coverage of an epoch differs from another, in words; nothing when each position is covered as often.

    Args:
        have: what was delivered.
        expected: what should have been.
        lanes: of the order, by which global batches were dealt; 0 when that is not known.

    Raises:
        BadRequest: there are too many stretches.
    """
    if have == expected:
        return []
    for side in (have, expected):
        if (many := sum(one.times for one in side)) > _MOST_STRETCHES:
            raise BadRequest(f"{many} are too many stretches to compare: merge the digests of all ranks first, which closes the gaps between them")
    found, more, plain = [], [], Level.of(*_changes(have, expected, (0, 0)))
    for batch, offset in sorted({(one.batch, one.offset) for one in (*have, *expected) if one.batch}):
        whole, parts = _divided(Level.of(*_changes(have, expected, (batch, offset))), batch, offset)
        more.append(whole)
        dealt = _positions(parts, batch, offset, lanes)
        if dealt is not None:
            more.append(dealt)
            continue
        of = f"in incomplete global batches of {batch} rows, numbered as they are dealt from position {offset} on"
        found += _named(parts, f"missing {of}", f"delivered {of}")
    plain = plain.plus(*more)
    return _named(Parts(plain.places[:-1], np.diff(plain.places), plain.depth[:-1]), "missing", "delivered too often") + found


def _changes(have: Sequence[Progression], expected: Sequence[Progression], by: tuple[int, int]) -> tuple[Longs, npt.NDArray[np.int8]]:
    """Return where stretches that are numbered in one way begin and end, and what that adds to the one side's coverage less the other's."""
    places, change = [np.empty(0, np.int64)], [np.empty(0, np.int8)]
    for side, sign in ((have, 1), (expected, -1)):
        for one in side:
            if one[4:] == by:
                begins = np.arange(one.times, dtype=np.int64) * one.stride + one.start
                places += [begins, begins + one.size]
                change += [np.full(one.times, sign, np.int8), np.full(one.times, -sign, np.int8)]
    return np.concatenate(places), np.concatenate(change)


def _divided(level: Level, batch: int, offset: int) -> tuple[tuple[Longs, Longs], Parts]:
    """Return the changes of the coverage of whole global batches, and what is left of incomplete ones."""
    if not level.places.size:
        return (level.places, level.depth), Parts(level.places, level.places, level.depth)
    floors = level.places - (level.places - offset) % batch
    edges = np.sort(np.concatenate([level.places, floors, floors + batch]), kind="stable")
    edges = edges[np.append(edges[1:] != edges[:-1], True)]
    index = np.searchsorted(level.places, edges, side="right") - 1
    depth = np.where(index >= 0, level.depth[np.maximum(index, 0)], 0)
    numbers = (edges - offset) // batch  # a stretch lies in one batch, or begins and ends between batches
    groups = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    whole = np.clip(0, np.minimum.reduceat(depth, groups), np.maximum.reduceat(depth, groups))
    depth -= np.repeat(whole, np.diff(groups, append=edges.size))
    left = np.flatnonzero(depth)
    return (edges[groups], np.diff(whole, prepend=0)), Parts(edges[left], edges[left + 1] - edges[left], depth[left])


def _positions(parts: Parts, batch: int, offset: int, lanes: int) -> tuple[Longs, Longs] | None:
    """Return the changes of the coverage of positions that parts of global batches make, or None when it would take too long, or the lanes are not known."""
    rows = sum(parts.sizes.tolist())
    if not rows:
        return parts.firsts, parts.depth
    if not lanes or rows > _MOST_DEALT:
        return None
    begins = parts.firsts - (parts.firsts - offset) % batch
    places = np.arange(rows) + np.repeat(parts.firsts - begins - np.cumsum(parts.sizes) + parts.sizes, parts.sizes)
    positions, depth = np.repeat(begins, parts.sizes), np.repeat(parts.depth, parts.sizes)
    turns = positions % lanes
    by_turn = np.argsort(turns, kind="stable")
    edges = np.flatnonzero(np.diff(turns[by_turn])) + 1
    if edges.size * lanes > _MOST_DEALT:
        return None
    for mine in np.split(by_turn, edges):  # batches that begin with the same lane are dealt alike
        positions[mine] += Dealt(int(turns[mine[0]]), batch, lanes).offsets(places[mine])
    return np.concatenate([positions, positions + 1]), np.concatenate([depth, -depth])


def _named(parts: Parts, missing: str, more: str) -> list[str]:
    """Return in words which stretches have less than nothing, and which more."""
    found = []
    for word, wrong in ((missing, parts.depth < 0), (more, parts.depth > 0)):
        first, size = parts.firsts[wrong], parts.sizes[wrong]
        if first.size:
            named = [
                f"{one} to {one + many - 1}" if many > 1 else f"{one}"
                for one, many in zip(first[:_MOST_NAMED].tolist(), size[:_MOST_NAMED].tolist(), strict=True)
            ]
            rest = f" and {first.size - _MOST_NAMED} more stretches" if first.size > _MOST_NAMED else ""
            found.append(f"{int(size.sum())} positions {word}: {', '.join(named)}{rest}")
    return found
