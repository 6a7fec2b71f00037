"""Which rows make up step k of an epoch for a rank: arithmetic on positions, no list, no state.

Global batch k of an epoch that starts at position `start` holds positions [start + k * G, start + (k + 1) * G) with G = batch_size *
world_size, and a rank takes its slice. Positions, not ranks, decide the order, so another world size, batch size or number of workers sees
the same global sequence. `order` turns positions into rows. Cost: O(1) a step plus the rows of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest

Tail = Literal["drop", "pad", "ragged"]
"""What becomes of the last global batch when it is short: dropped, padded from the epoch's beginning so that ranks stay equal, or divided."""


class Span(NamedTuple):
    """The positions of one rank's batch.

    Attributes:
        start: first position.
        stop: one past the last; positions at or beyond the number of rows are padding and wrap to the epoch's beginning.
    """

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many rows the batch has, padding included."""
        return self.stop - self.start


class Run(NamedTuple):
    """The positions of several batches of one rank, one after the other, all of one size.

    Attributes:
        start: first position of the first batch.
        stop: one past its last.
        batches: how many batches.
        stride: positions from the beginning of one to that of the next: a global batch.
    """

    start: int
    stop: int
    batches: int = 1
    stride: int = 0

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
        return [Run(self.start + i * self.stride, self.stop + i * self.stride) for i in range(self.batches)]

    def positions(self) -> npt.NDArray[np.int64]:
        """Return all positions, in order, `[rows]`."""
        if self.batches == 1 or self.stride == self.size:
            return np.arange(self.start, self.start + self.rows, dtype=np.int64)
        return (np.arange(self.start, self.stop) + np.arange(self.batches)[:, None] * self.stride).reshape(-1)


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
        rows: rows of the dataset.
        batch_size: rows of a full batch on one rank.
        rank: this rank.
        world_size: ranks that share the data.
        tail: what becomes of a short last global batch.
    """

    rows: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    tail: Tail = "ragged"

    def __post_init__(self) -> None:
        """Refuse numbers that make no plan."""
        if self.rows < 0:
            raise BadRequest(f"a dataset cannot have {self.rows} rows")
        if self.batch_size < 1:
            raise BadRequest(f"batch_size={self.batch_size}: a batch has at least one row")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise BadRequest(f"rank {self.rank} of world size {self.world_size}: rank must be in [0, world size)")
        if self.tail not in ("drop", "pad", "ragged"):
            raise BadRequest(f"tail={self.tail!r} is not one of 'drop', 'pad', 'ragged'")

    @property
    def global_batch(self) -> int:
        """Rows of a full global batch."""
        return self.batch_size * self.world_size

    def steps(self, start: int = 0) -> int:
        """Return how many batches this rank gets from position `start` to the end of the epoch."""
        left = max(self.rows - start, 0)
        whole, rest = divmod(left, self.global_batch)
        if rest == 0 or self.tail == "drop":
            return whole
        return whole + (1 if self.span(whole, start).size else 0)

    def span(self, step: int, start: int = 0) -> Span:
        """Return the positions of this rank's batch `step` in an epoch that was entered at position `start`."""
        first = start + step * self.global_batch
        count = min(self.global_batch, self.rows - first)
        if count == self.global_batch or self.tail == "pad":
            share = -(-count // self.world_size)
            return Span(start=first + self.rank * share, stop=first + (self.rank + 1) * share)
        return Span(start=first + count * self.rank // self.world_size, stop=first + count * (self.rank + 1) // self.world_size)

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

    def __getitem__(self, number: int) -> Run:
        """Return run `number`, from 0 to `len - 1`."""
        growing = number < self._growing
        first = 2**number - 1 if growing else 2**self._growing - 1 + (number - self._growing) * self._most
        batches = 2**number if growing else self._most
        span = self._plan.span(min(first, self._whole), self._start)
        return Run(span.start, span.stop, max(min(batches, self._whole - first), 1), self._plan.global_batch)


def default_tail(*, drop_last: bool, world_size: int) -> Tail:
    """Return what torch does: drop when asked to, a short batch on one process, padding on several (as DistributedSampler)."""
    if drop_last:
        return "drop"
    return "ragged" if world_size == 1 else "pad"
