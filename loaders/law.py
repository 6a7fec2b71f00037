"""Laws of order over a dataset: which row stands at each position of a training run, and in which pass over the data.

A run is one stream of positions without an end. Pass t over n rows is positions [t * n, (t + 1) * n) of it, and holds each row once. `order` states a
permutation; a law says of what: of all rows, or, for shards that are far away, of the shards, and of the rows of a few shards that follow one another.

Windows: the shards are permuted, each run of `window_shards` is a window, and rows are permuted inside a window. So whoever reads in order needs one window
near, and the next one soon. Lanes: the permuted shards are dealt out in turn, one to each lane, lanes are numbered by length, windows lie within a lane, and
the pass takes one row of each lane in turn: `order.lane_step` on each time as long as all last, then in their order, passing over those that have
ended. So who reads every L-th position reads one lane's shards.

Pure. Laws belong to one thread. Cost: a pass takes O(shards) once, in numpy; a position what `order` takes, and a bisection over windows and one over
shards. `pass_reference` is the slow, obvious statement.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import numpy.typing as npt

from .. import order
from ..errors import BadRequest

Rows = npt.NDArray[np.int64]

_MOST_PASSES = 2
"""Passes whose shards are kept in their order: the present one, and the one that a batch may reach into."""

_MOST_WINDOWS = 4096
"""Windows whose permutation is kept: some for each lane."""


class Ordering(NamedTuple):
    """What decides the order, beside the dataset.

    Attributes:
        seed: of the order and of augmentation.
        shuffle: whether rows are permuted.
        window_shards: shards whose rows are permuted together; 0 for all rows at once.
        lanes: runs of shards that are read side by side.
        epoch_samples: positions of an epoch; 0 for one pass.
    """

    seed: int
    shuffle: bool
    window_shards: int = 0
    lanes: int = 1
    epoch_samples: int = 0

    def check(self) -> None:
        """Refuse numbers that make no order.

        Raises:
            BadRequest: one is out of range, or has no meaning without shuffling.
        """
        for name, value, least in (("window_shards", self.window_shards, 0), ("lanes", self.lanes, 1), ("epoch_samples", self.epoch_samples, 0)):
            if type(value) is not int or not least <= value <= order.MAX_ROWS:
                raise BadRequest(f"{name}={value!r} is not an integer of at least {least}")
        if not self.shuffle and (self.window_shards or self.lanes > 1):
            raise BadRequest(
                f"window_shards={self.window_shards} and lanes={self.lanes} say how to shuffle, and shuffle=False: leave them out, or shuffle"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the names and values that are compared at a resume; those that say nothing are left out."""
        told: dict[str, Any] = {"seed": self.seed, "shuffle": self.shuffle}
        if self.window_shards:
            told["window_shards"] = self.window_shards
        if self.lanes > 1:
            told["lanes"] = self.lanes
        if self.epoch_samples:
            told["epoch_samples"] = self.epoch_samples
        return told

    def positions(self, rows: int) -> int:
        """Return how many positions an epoch over so many rows has."""
        return (self.epoch_samples or rows) if rows else 0


class Drawn(NamedTuple):
    """What stands at some positions.

    Attributes:
        rows: the rows, int64.
        passes: the pass that all of them belong to, or that of each.
    """

    rows: Rows
    passes: int | Rows

    def keys(self, seed: int) -> list[int]:
        """Return the key of each row's augmentation: a row that an epoch holds twice looks different the second time."""
        if isinstance(self.passes, int):
            return [order.augment_key(seed, self.passes)] * self.rows.size
        return [order.augment_key(seed, number) for number in self.passes.tolist()]


class Law(Protocol):
    """The order of the passes over some rows."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    def draw(self, number: int, positions: Rows) -> Rows:
        """Return the rows at positions of pass `number`, each in [0, rows), which is the caller's to know."""

    def place(self, number: int, row: int) -> int:
        """Return the position of pass `number` at which a row stands."""


@final
class GlobalLaw:
    """All rows permuted together, or none."""

    def __init__(self, rows: int, *, seed: int, shuffle: bool) -> None:
        """Note what decides the order."""
        self.rows = rows
        self._law: Mapping[str, Any] = {"n": rows, "seed": seed, "shuffle": shuffle}
        self._order = order.Order(n=rows, seed=seed, shuffle=shuffle)

    def draw(self, number: int, positions: Rows) -> Rows:
        """Return the rows at positions of pass `number`."""
        return self._order.rows(number, positions)

    def place(self, number: int, row: int) -> int:
        """Return the position of pass `number` at which a row stands."""
        return order.position_of(row, epoch=number, **self._law)


class _Segments(NamedTuple):
    """How lanes take turns: while all last, in steps; then without the shortest, one after the other, and so on.

    Attributes:
        begins: `[lanes]`, the first position of each segment; segment i is taken in turn by lanes i and above.
        done: `[lanes]`, rows that each lane has given before the segment.
        active: `[lanes]`, lanes that take part.
    """

    begins: Rows
    done: Rows
    active: Rows

    @staticmethod
    def of(lengths: Rows) -> _Segments:
        """Return the segments of lanes of ascending lengths."""
        done = np.concatenate([np.zeros(1, np.int64), lengths[:-1]])
        active = np.arange(lengths.size, 0, -1)
        sizes = (lengths - done) * active
        return _Segments(np.cumsum(sizes) - sizes, done, active)


@final
class _Pass:
    """One pass: the shards as they were dealt, lane after lane, and the windows over them. `at` counts rows along that."""

    def __init__(self, starts: Rows, ordering: Ordering, number: int) -> None:
        shards, sizes = starts.size - 1, np.diff(starts)
        dealt = order.permute(np.arange(shards), shards, order.fold("penstock.shards", order.FORMAT, ordering.seed, number))
        longest = -(-shards // ordering.lanes)
        grid = np.full(longest * ordering.lanes, -1, np.int64)
        grid[:shards] = dealt
        grid = grid.reshape(longest, ordering.lanes).T
        """`[lanes, shards]`: what each lane was dealt, and -1 behind its last."""

        lengths = np.where(grid >= 0, sizes[grid], 0).sum(axis=1)
        grid = grid[np.argsort(lengths, kind="stable")]
        there = grid >= 0
        self.shards = grid[there]
        self.ats = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[self.shards])])
        """`[shards + 1]`, where each dealt shard begins."""
        self.firsts = firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(there.sum(axis=1))])
        """`[lanes + 1]`, the first dealt shard of each lane."""
        self.lanes = self.ats[firsts]
        """`[lanes + 1]`, where each lane begins."""
        self.segments = _Segments.of(np.diff(self.lanes))
        inside = np.arange(shards) - np.repeat(firsts[:-1], np.diff(firsts))
        edges = np.flatnonzero(inside % (ordering.window_shards or max(shards, 1)) == 0)
        self.windows = self.ats[np.append(edges, shards)]
        """`[windows + 1]`, where each window begins."""

    def lane_ats(self, positions: Rows) -> Rows:
        """Return where positions of the pass stand along the lanes."""
        if self.lanes.size == 2:
            return positions
        begins, done, active = self.segments
        segment = np.searchsorted(begins, positions, side="right") - 1
        turn, lane = np.divmod(positions - begins[segment], active[segment])
        lanes = self.lanes.size - 1
        lane = np.where(segment == 0, lane * order.lane_step(lanes)[0] % lanes, lane)
        return np.asarray(self.lanes[segment + lane] + done[segment] + turn)

    def position(self, at: int) -> int:
        """Return the position of the pass of what stands there along the lanes."""
        begins, done, active = self.segments
        lane = int(np.searchsorted(self.lanes, at, side="right")) - 1
        turn = at - int(self.lanes[lane])
        segment = int(np.searchsorted(done, turn, side="right")) - 1
        lanes = self.lanes.size - 1
        slot = lane * order.lane_step(lanes)[1] % lanes if segment == 0 else lane - segment
        return int(begins[segment]) + (turn - int(done[segment])) * int(active[segment]) + slot


@final
class WindowedLaw:
    """Shards permuted, dealt to lanes, and rows permuted inside windows of them."""

    def __init__(self, starts: Rows, ordering: Ordering) -> None:
        """Note the first row of each shard and, last, how many rows there are."""
        self._starts = starts
        self._ordering = ordering
        self._passes: dict[int, _Pass] = {}
        self._permutations: dict[tuple[int, int], order.Permutation] = {}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._starts[-1])

    def draw(self, number: int, positions: Rows) -> Rows:
        """Return the rows at positions of pass `number`."""
        made = self._pass(number)
        ats = np.array(made.lane_ats(positions))
        windows = np.searchsorted(made.windows, ats, side="right") - 1
        for window in set(windows.tolist()):
            mine = windows == window
            begin = int(made.windows[window])
            local = ats[mine] - begin
            self._permutation(number, window, int(made.windows[window + 1]) - begin).apply(local)
            ats[mine] = begin + local
        dealt = np.searchsorted(made.ats, ats, side="right") - 1
        return np.asarray(self._starts[made.shards[dealt]] + ats - made.ats[dealt])

    def place(self, number: int, row: int) -> int:
        """Return the position of pass `number` at which a row stands.

        Raises:
            BadRequest: there is no such row.
        """
        if not 0 <= row < self.rows:
            raise BadRequest(f"there is no row {row} among {self.rows}, which are numbered from 0")
        made = self._pass(number)
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        at = int(made.ats[np.flatnonzero(made.shards == shard)[0]]) + row - int(self._starts[shard])
        window = int(np.searchsorted(made.windows, at, side="right")) - 1
        begin, size = int(made.windows[window]), int(made.windows[window + 1] - made.windows[window])
        return made.position(begin + order.place_reference(at - begin, size, _window_key(self._ordering.seed, number, window)))

    def shards_of_lane(self, number: int, lane: int) -> Rows:
        """Return the shards of a lane of pass `number`, in the order in which they are read."""
        made = self._pass(number)
        return np.asarray(made.shards[made.firsts[lane] : made.firsts[lane + 1]])

    def lane_edges(self, number: int) -> tuple[Rows, Rows]:
        """Return `[lanes + 1]` for pass `number`: where each lane begins, counted in rows and in shards."""
        made = self._pass(number)
        return made.lanes, made.firsts

    def _pass(self, number: int) -> _Pass:
        found = self._passes.get(number)
        if found is None:
            found = self._passes[number] = _Pass(self._starts, self._ordering, number)
            while len(self._passes) > _MOST_PASSES:
                del self._passes[next(iter(self._passes))]
        return found

    def _permutation(self, number: int, window: int, size: int) -> order.Permutation:
        found = self._permutations.get((number, window))
        if found is None:
            found = self._permutations[number, window] = order.Permutation(size, _window_key(self._ordering.seed, number, window))
            while len(self._permutations) > _MOST_WINDOWS:
                del self._permutations[next(iter(self._permutations))]
        return found


def _window_key(seed: int, number: int, window: int) -> int:
    return order.fold("penstock.window", order.FORMAT, seed, number, window)


def law_of(ordering: Ordering, starts: Rows) -> Law:
    """Return the law of a dataset whose shards begin at these rows; the last number is how many rows there are."""
    if int(starts[-1]) and (ordering.window_shards or ordering.lanes > 1):
        return WindowedLaw(starts, ordering)
    return GlobalLaw(int(starts[-1]), seed=ordering.seed, shuffle=ordering.shuffle)


@final
class Stream:
    """The epochs of a run: epoch e with E positions is positions [e * E, (e + 1) * E) of pass after pass."""

    def __init__(self, ordering: Ordering, starts: Rows) -> None:
        """Note the law, and how long an epoch is."""
        self._law = law_of(ordering, starts)
        self._rows = int(starts[-1])
        self.positions = ordering.positions(self._rows)
        """Positions of an epoch."""

    def draw(self, epoch: int, positions: Rows) -> Drawn:
        """Return what stands at positions of an epoch, each in [0, positions), which is the caller's to know."""
        if self.positions == self._rows or not positions.size:
            return Drawn(self._law.draw(epoch, positions), epoch)
        return self.at(positions + epoch * self.positions)

    def at(self, whole: Rows) -> Drawn:
        """Return what stands at positions of the run, of which there is one or more."""
        first, last = int(whole.min()) // self._rows, int(whole.max()) // self._rows
        if first == last:
            return Drawn(self._law.draw(first, whole - first * self._rows), first)
        passes, inside = np.divmod(whole, self._rows)
        rows = np.empty_like(inside)
        for number in range(first, last + 1):
            mine = passes == number
            rows[mine] = self._law.draw(number, inside[mine])
        return Drawn(rows, passes)

    def places(self, epoch: int, row: int) -> list[int]:
        """Return the positions of an epoch at which a row stands, in order.

        Raises:
            BadRequest: there is no such row.
        """
        begin = epoch * self.positions
        return [place - begin for place in self.between(begin, begin + self.positions, row)]

    def between(self, begin: int, end: int, row: int) -> list[int]:
        """Return the positions of the run from `begin` to `end - 1` at which a row stands, in order.

        Raises:
            BadRequest: there is no such row.
        """
        passes = range(begin // self._rows, max(-(-end // self._rows), begin // self._rows + 1)) if self._rows else range(1)
        found = [number * self._rows + self._law.place(number, row) for number in passes]
        return [place for place in found if begin <= place < end]


def pass_reference(ordering: Ordering, starts: Rows, number: int) -> list[int]:
    """Return all rows of a pass, in order, by the letter of the law: shards and rows as lists, permuted one by one."""

    def permuted(items: list[Any], key: int) -> list[Any]:
        return [items[order.permute_reference(position, len(items), key)] for position in range(len(items))]

    rows = int(starts[-1])
    if not ordering.shuffle:
        return list(range(rows))
    if not ordering.window_shards and ordering.lanes == 1:
        return permuted(list(range(rows)), order.order_key(ordering.seed, number))
    shards = [list(range(first, end)) for first, end in itertools.pairwise(starts.tolist())]
    dealt = permuted(shards, order.fold("penstock.shards", order.FORMAT, ordering.seed, number))
    lanes = [dealt[lane :: ordering.lanes] for lane in range(ordering.lanes)]
    lanes.sort(key=lambda lane: sum(map(len, lane)))
    queues, window = [], 0
    for lane in lanes:
        queue: list[int] = []
        width = ordering.window_shards or max(len(dealt), 1)
        for first in range(0, len(lane), width):
            inside = [row for shard in lane[first : first + width] for row in shard]
            queue += permuted(inside, _window_key(ordering.seed, number, window))
            window += 1
        queues.append(queue)
    stepped = [queues[turn * order.lane_step(len(queues))[0] % len(queues)] for turn in range(len(queues))]
    shortest, longest = min(map(len, queues)), max(map(len, queues))
    all_last = [queue[turn] for turn in range(shortest) for queue in stepped]
    return all_last + [queue[turn] for turn in range(shortest, longest) for queue in queues if turn < len(queue)]
