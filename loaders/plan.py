"""Which rows make up step k of an epoch for a rank: arithmetic on positions, no list, no state.

Global batch k of an epoch that starts at position `start` holds positions [start + k * G, start + (k + 1) * G) with G = batch_size *
world_size, and a rank takes its slice. Positions, not ranks, decide the order, so another world size, batch size or number of workers sees
the same global sequence. `order` turns positions into rows. Cost: O(1) a step plus the rows of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

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

    def consumed(self, step: int, start: int = 0) -> int:
        """Return how many positions of the epoch all ranks together have consumed once `step` was delivered."""
        return min(start + (step + 1) * self.global_batch, self.rows)


def default_tail(*, drop_last: bool, world_size: int) -> Tail:
    """Return what torch does: drop when asked to, a short batch on one process, padding on several (as DistributedSampler)."""
    if drop_last:
        return "drop"
    return "ragged" if world_size == 1 else "pad"
