"""Laws of order over a dataset: which row stands at each position of a training run, and in which pass over the data.

A run is one stream of positions without an end. Pass t over n rows is positions [t * n, (t + 1) * n) of it, and holds each row once. `order` states a
permutation; a law says of what: of all rows, or, for shards that are far away, of the shards, and of the rows of a few shards that follow one another.

Windows: the shards are permuted, each run of `window_shards` is a window, and rows are permuted inside a window. So whoever reads in order needs one window
near, and the next one soon. Lanes: the permuted shards, end to end, are cut into lanes of equally many rows (a shard may so be in two), windows lie within a
lane, and the pass takes one row of each lane in turn, each time `order.lane_step` lanes on. So who reads every L-th position reads one lane's shards.

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
from ..jit import Held, Kernel

Rows = npt.NDArray[np.int64]

_MOST_PASSES = 2
"""Passes whose shards are kept in their order: the present one, and the one that a batch may reach into."""

_settle = Kernel("loaders.law_kernel", "settle", "void(i8[:] i8[:] u8 i8)", sources=("kernel_memory",))

MAX_LANES = 2**24
"""Lanes that an order may have: where each begins is kept, 16 bytes a lane."""

_MOST_WINDOWS = 4096
"""Windows that are kept ready: some for each lane."""


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
        if self.lanes > MAX_LANES:
            raise BadRequest(f"lanes={self.lanes} are more than the {MAX_LANES} an order may have; as many as ranks keep their shards apart")
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


@final
class _Pass:
    """One pass: the shards as they were dealt, end to end, cut into lanes, and the windows in those. `at` counts rows along that."""

    def __init__(self, starts: Rows, lanes: Rows, ordering: Ordering, number: int) -> None:
        shards = starts.size - 1
        self.shards = order.permute(np.arange(shards), shards, order.fold("penstock.shards", order.FORMAT, ordering.seed, number))
        """`[shards]`, in the order in which they were dealt."""
        self.ats = np.zeros(starts.size, np.int64)
        """`[shards + 1]`, where each dealt shard begins."""
        np.cumsum(np.diff(starts)[self.shards], out=self.ats[1:])
        both = np.sort(np.concatenate([self.ats, lanes]), kind="stable")  # two runs to merge, which `np.unique` hashes one by one
        pieces = both[:-1][both[1:] != both[:-1]]  # of shards, where a lane ends inside one
        firsts = np.append(np.searchsorted(pieces, lanes[:-1]), pieces.size)
        width = ordering.window_shards or max(pieces.size, 1)
        counts = -(-np.diff(firsts) // width)  # windows of each lane
        numbers = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        self.windows = np.append(pieces[np.repeat(firsts[:-1], counts) + numbers * width], starts[-1])
        """`[windows + 1]`, where each window begins."""
        self._starts = starts

    def moves(self, first: int, last: int) -> Rows:
        """Return how far the rows of the shards dealt `first` to `last - 1` are from where they stand here."""
        return np.asarray(self._starts[self.shards[first:last]] - self.ats[first:last])


@final
class _Window:
    """The rows of one window."""

    def __init__(self, made: _Pass, number: int, key: int) -> None:
        begin, end = made.windows[number : number + 2].tolist()
        self._permutation = order.Permutation(end - begin, key)
        first, last = int(np.searchsorted(made.ats, begin, side="right")) - 1, int(np.searchsorted(made.ats, end))
        self._settle = _settle.bind(Held(made.ats[first:last] - begin), Held(made.moves(first, last) + begin))

    def draw(self, address: int, count: int) -> None:
        """Replace `count` int64 at an address, positions in the window, by the rows that stand there."""
        self._permutation.call(address, count)
        self._settle(address, count)


@final
class WindowedLaw:
    """Shards permuted and cut into lanes, and rows permuted inside windows of them."""

    def __init__(self, starts: Rows, ordering: Ordering) -> None:
        """Note the first row of each shard and, last, how many rows there are."""
        self._starts = starts
        self._ordering = ordering
        self._lanes = lane_starts(int(starts[-1]), ordering.lanes)
        self._by_slot = self._lanes[np.arange(ordering.lanes) * order.lane_step(ordering.lanes)[0] % ordering.lanes]
        self._passes: dict[int, _Pass] = {}
        self._windows: dict[tuple[int, int], _Window] = {}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._starts[-1])

    def draw(self, number: int, positions: Rows) -> Rows:
        """Return the rows at positions of pass `number`."""
        ats = self._ats(positions)
        if not ats.size:
            return ats
        made = self._pass(number)
        first, last = (np.searchsorted(made.windows, [ats.min(), ats.max()], side="right") - 1).tolist()
        if first == last:
            ats -= made.windows[first]
            self._window(number, first).draw(ats.ctypes.data, ats.size)
            return ats
        windows = np.searchsorted(made.windows[first + 1 : last + 1], ats, side="right")
        by_window = np.argsort(windows.astype(np.min_scalar_type(last - first)), kind="stable")  # of 16 bits or fewer it is a radix sort
        grouped = (ats - made.windows[first + windows])[by_window]
        address, counts = grouped.ctypes.data, np.bincount(windows)
        for window in np.flatnonzero(counts).tolist():
            count = int(counts[window])
            self._window(number, first + window).draw(address, count)
            address += count * grouped.itemsize
        ats[by_window] = grouped
        return ats

    def _ats(self, positions: Rows) -> Rows:
        """Return where positions of a pass stand along the lanes."""
        lanes = self._ordering.lanes
        if lanes == 1:
            return np.array(positions, np.int64)
        turns = positions // lanes
        slots = turns * lanes
        np.subtract(positions, slots, out=slots)
        ats = self._by_slot[slots]
        ats += turns
        return ats

    def place(self, number: int, row: int) -> int:
        """Return the position of pass `number` at which a row stands.

        Raises:
            BadRequest: there is no such row.
        """
        if not 0 <= row < self.rows:
            raise BadRequest(f"there is no row {row} among {self.rows}, which are numbered from 0")
        made, lanes = self._pass(number), self._ordering.lanes
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        at = int(made.ats[np.flatnonzero(made.shards == shard)[0]]) + row - int(self._starts[shard])
        window = int(np.searchsorted(made.windows, at, side="right")) - 1
        begin, size = int(made.windows[window]), int(made.windows[window + 1] - made.windows[window])
        at = begin + order.place_reference(at - begin, size, _window_key(self._ordering.seed, number, window))
        lane = int(np.searchsorted(self._lanes, at, side="right")) - 1
        return (at - int(self._lanes[lane])) * lanes + lane * order.lane_step(lanes)[1] % lanes

    def reach(self, number: int, first: Rows, last: Rows) -> tuple[Rows, Rows]:
        """Return how many shards lanes `first` to `last` of pass `number` hold rows of, and how many rows those shards have; for many at once."""
        made = self._pass(number)
        begin = np.searchsorted(made.ats, self._lanes[first], side="right") - 1
        end = np.searchsorted(made.ats, self._lanes[last + 1])
        return np.asarray(end - begin), np.asarray(made.ats[end] - made.ats[begin])

    def _pass(self, number: int) -> _Pass:
        found = self._passes.get(number)
        if found is None:
            found = self._passes[number] = _Pass(self._starts, self._lanes, self._ordering, number)
            while len(self._passes) > _MOST_PASSES:
                del self._passes[next(iter(self._passes))]
        return found

    def _window(self, number: int, window: int) -> _Window:
        found = self._windows.get((number, window))
        if found is None:
            found = self._windows[number, window] = _Window(self._pass(number), window, _window_key(self._ordering.seed, number, window))
            while len(self._windows) > _MOST_WINDOWS:
                del self._windows[next(iter(self._windows))]
        return found


def lane_starts(rows: int, lanes: int) -> Rows:
    """Return `[lanes + 1]`: where each lane begins in so many rows, of which it has as many as turns reach it."""
    turns, more = divmod(rows, lanes)
    longer = np.zeros(lanes, np.int64)
    longer[np.arange(more) * order.lane_step(lanes)[0] % lanes] = 1
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(turns + longer)])


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
    along = [(row, piece) for piece, shard in enumerate(dealt) for row in shard]
    taken = [turn * order.lane_step(ordering.lanes)[0] % ordering.lanes for turn in range(ordering.lanes)]  # the lane of each turn
    lengths = [0] * ordering.lanes
    for position in range(rows):
        lengths[taken[position % ordering.lanes]] += 1
    queues, window, begin = [], 0, 0
    for length in lengths:
        pieces = [list(piece) for _, piece in itertools.groupby(along[begin : begin + length], key=lambda one: one[1])]
        begin += length
        queue: list[int] = []
        width = ordering.window_shards or max(rows, 1)
        for first in range(0, len(pieces), width):
            inside = [row for piece in pieces[first : first + width] for row, _ in piece]
            queue += permuted(inside, _window_key(ordering.seed, number, window))
            window += 1
        queues.append(queue)
    return [queues[taken[position % ordering.lanes]][position // ordering.lanes] for position in range(rows)]
