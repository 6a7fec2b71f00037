"""Which rows make up step k of an epoch for a rank: arithmetic on positions, no list, no state.

Global batch k of an epoch that starts at position `start` holds positions [start + k * G, start + (k + 1) * G) with G = batch_size *
world_size, and a rank takes its slice. Positions, not ranks, decide the order, so another world size, batch size or number of workers sees
the same global sequence. `order` turns positions into rows. Cost: O(1) a step plus the rows of the batch, and O(lanes) where a global batch is no multiple of the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
import numpy.typing as npt

from .. import order
from ..errors import BadRequest

Tail = Literal["drop", "pad", "ragged"]
"""What becomes of the last global batch when it is short: dropped, padded from the epoch's beginning so that ranks stay equal, or divided."""


class Run(NamedTuple):
    """The positions of several batches of one rank, one after the other, all of one size.

    Attributes:
        start: first position of the first batch; with `lanes`, its place in the global batch's order by lanes.
        stop: `start` plus the rows of a batch; positions at or beyond the epoch's end are padding and wrap to its beginning.
        batches: how many batches.
        stride: positions from the beginning of one to that of the next: a global batch.
        lanes: when not 0, a global batch is dealt to ranks in the order of its lanes, and within a lane in its own.
        skip: with `lanes`, rows of the global batch that come before `start` in that order.
    """

    start: int
    stop: int
    batches: int = 1
    stride: int = 0
    lanes: int = 0
    skip: int = 0

    @property
    def size(self) -> int:
        """How many rows one batch has, padding included."""
        return self.stop - self.start

    @property
    def rows(self) -> int:
        """How many rows all of them have."""
        return (self.stop - self.start) * self.batches

    def each(self) -> list[Run]:
        """Return the run of each batch alone."""
        alone = self._replace(batches=1, stride=self.stride if self.lanes else 0)
        return [alone._replace(start=self.start + i * self.stride, stop=self.stop + i * self.stride) for i in range(self.batches)]

    def part(self, first: int, last: int) -> Run:
        """Return rows `first` to `last - 1` of one batch."""
        return self._replace(start=self.start + first, stop=self.start + last, skip=self.skip + first if self.lanes else 0)

    def positions(self) -> npt.NDArray[np.int64]:
        """Return all positions, in order, `[rows]`."""
        if self.lanes:
            places = np.arange(self.skip, self.skip + self.size)
            firsts = range(self.start - self.skip, self.start - self.skip + self.batches * self.stride, self.stride)
            return np.concatenate([first + Dealt(first, self.stride, self.lanes).offsets(places) for first in firsts])
        if self.batches == 1 or self.stride == self.size:
            return np.arange(self.start, self.start + self.rows, dtype=np.int64)
        return (np.arange(self.start, self.stop) + np.arange(self.batches)[:, None] * self.stride).reshape(-1)


@final
class Dealt:
    """A global batch in the order of its lanes. All lanes have so many of its positions, and those that its last turns reach have one more."""

    def __init__(self, first: int, size: int, lanes: int) -> None:
        """Work out what each lane has of a global batch of `size` that begins at position `first`."""
        self._lanes = lanes
        self._step, self._back = order.lane_step(lanes)
        self._turn = first % lanes
        self._each, more = divmod(size, lanes)
        self._places: npt.NDArray[np.int64] | None = None
        """`[lanes]`, the place of each lane's first position, when lanes differ."""

        if more:
            longer = (np.arange(self._turn, self._turn + more) % lanes) * self._step % lanes
            counts = np.bincount(longer, minlength=lanes) + self._each
            self._places = np.cumsum(counts) - counts

    def offsets(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions, counted from the batch's first, that stand at places of the order."""
        if self._places is None:
            lane, turn = np.divmod(places, self._each)
        else:
            lane = np.searchsorted(self._places, places, side="right") - 1
            turn = places - self._places[lane]
        return np.asarray((lane * self._back - self._turn) % self._lanes + turn * self._lanes)

    def lanes(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the lanes of positions, counted from the batch's first."""
        return np.asarray((self._turn + offsets) % self._lanes * self._step % self._lanes)

    def place(self, offset: int) -> int:
        """Return where the position that is so many behind the batch's first stands in the order."""
        lane, turn = int(self.lanes(np.array(offset))), offset // self._lanes
        return (lane * self._each if self._places is None else int(self._places[lane])) + turn


class Seat(NamedTuple):
    """Where a position is delivered.

    Attributes:
        step: number of the batch.
        rank: whose batch.
        row: of the batch.
        padding: whether it is there to fill the batch, and not for itself.
    """

    step: int
    rank: int
    row: int
    padding: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The epoch of a dataset as a rule.

    Attributes:
        rows: positions of an epoch: the rows of the dataset, unless it says otherwise.
        batch_size: rows of a full batch on one rank.
        rank: this rank.
        world_size: ranks that share the data.
        tail: what becomes of a short last global batch.
        lanes: into how many lanes the order is dealt, one position of each in turn. Ranks then share out whole global batches by lanes, so that each has
            the same few lanes all the time, as long as a global batch has a position of every lane.
    """

    rows: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    tail: Tail = "ragged"
    lanes: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that make no plan."""
        if self.rows < 0:
            raise BadRequest(f"a dataset cannot have {self.rows} rows")
        if self.batch_size < 1:
            raise BadRequest(f"batch_size={self.batch_size}: a batch has at least one row")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise BadRequest(f"rank {self.rank} of world size {self.world_size}: rank must be in [0, world size)")
        if self.lanes < 1:
            raise BadRequest(f"lanes={self.lanes}: an order has at least one lane")
        if self.tail not in ("drop", "pad", "ragged"):
            raise BadRequest(f"tail={self.tail!r} is not one of 'drop', 'pad', 'ragged'")

    @property
    def global_batch(self) -> int:
        """Rows of a full global batch."""
        return self.batch_size * self.world_size

    @property
    def _by_lanes(self) -> bool:
        """Whether whole global batches are dealt by lanes."""
        return self.lanes > 1 and self.world_size > 1

    def steps(self, start: int = 0) -> int:
        """Return how many batches this rank gets from position `start` to the end of the epoch."""
        left = max(self.rows - start, 0)
        whole, rest = divmod(left, self.global_batch)
        if rest == 0 or self.tail == "drop":
            return whole
        return whole + (1 if self.batch(whole, start).size else 0)

    def batch(self, step: int, start: int = 0) -> Run:
        """Return the positions of this rank's batch `step` in an epoch that was entered at position `start`."""
        first = start + step * self.global_batch
        count = min(self.global_batch, self.rows - first)
        if count == self.global_batch and self._by_lanes:
            skip = self.rank * self.batch_size
            return Run(first + skip, first + skip + self.batch_size, stride=self.global_batch, lanes=self.lanes, skip=skip)
        if count == self.global_batch or self.tail == "pad":
            share = -(-count // self.world_size)
            return Run(first + self.rank * share, first + (self.rank + 1) * share)
        return Run(first + count * self.rank // self.world_size, first + count * (self.rank + 1) // self.world_size)

    def runs(self, start: int, most: int) -> Runs:
        """Return this rank's batches from position `start` on as runs of up to `most`."""
        return Runs(self, start, most)

    def seats(self, position: int, start: int = 0) -> list[Seat]:
        """Return where all ranks together deliver a position of an epoch that was entered at position `start`; `rank` does not enter.

        Nowhere when it comes before `start` or in a short batch that is dropped; more than once when it also fills the last batch.
        """
        if not 0 <= position < self.rows:
            raise BadRequest(f"position {position} is outside [0, {self.rows})")
        whole = max(self.rows - start, 0) // self.global_batch
        first = start + whole * self.global_batch
        count, found = max(self.rows - first, 0), []
        if start <= position < first:
            step, inside = divmod(position - start, self.global_batch)
            if self._by_lanes:
                inside = Dealt(start + step * self.global_batch, self.global_batch, self.lanes).place(inside)
            found.append(Seat(step, *divmod(inside, self.batch_size)))
        elif position >= first and self.tail == "ragged":
            inside = position - first
            rank = ((inside + 1) * self.world_size - 1) // count
            found.append(Seat(whole, rank, inside - count * rank // self.world_size))
        if self.tail == "pad" and count:
            share = -(-count // self.world_size)
            places = range((position - first) % self.rows, share * self.world_size, self.rows)
            found += [Seat(whole, *divmod(inside, share), inside >= count) for inside in places]
        return found

    def consumed(self, step: int, start: int = 0) -> int:
        """Return how many positions of the epoch all ranks together have consumed once `step` was delivered."""
        return min(start + (step + 1) * self.global_batch, self.rows)


@final
class Runs:
    """The batches of an epoch as runs of 1, 2, 4 and so on up to `most`, so that the first is early; a short last batch is a run of its own."""

    def __init__(self, plan: Plan, start: int, most: int) -> None:
        """Describe the runs of up to `most` batches that an epoch has which is entered at position `start`."""
        self._plan = plan
        self._start = start
        self._most = most
        self._steps = plan.steps(start)
        self._whole = min(self._steps, max(plan.rows - start, 0) // plan.global_batch)
        self._growing = (most - 1).bit_length()

    def __len__(self) -> int:
        """Return how many runs there are."""
        grown = 2**self._growing - 1
        count = self._whole.bit_length() if self._whole <= grown else self._growing - (grown - self._whole) // self._most
        return count + (self._steps > self._whole)

    def get(self, number: int, *, wait: bool) -> Run | None:  # noqa: ARG002  (nobody has to be waited for)
        """Return run `number`, or None behind the last."""
        return self[number] if number < len(self) else None

    def __getitem__(self, number: int) -> Run:
        """Return run `number`, from 0 to `len - 1`."""
        growing = number < self._growing
        first = 2**number - 1 if growing else 2**self._growing - 1 + (number - self._growing) * self._most
        batches = 2**number if growing else self._most
        one = self._plan.batch(min(first, self._whole), self._start)
        return one._replace(batches=max(min(batches, self._whole - first), 1), stride=self._plan.global_batch)


def default_tail(*, drop_last: bool, world_size: int) -> Tail:
    """Return what torch does: drop when asked to, a short batch on one process, padding on several (as DistributedSampler)."""
    if drop_last:
        return "drop"
    return "ragged" if world_size == 1 else "pad"
