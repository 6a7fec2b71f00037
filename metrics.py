"""Counters and timers as plain values: the unit is in the name, and two of them merge into one. There is no registry.

Times of workers are summed over workers, so `decode_s` may exceed the wall clock. `wait_s` is what the consumer felt.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple


class WorkTimes(NamedTuple):
    """Where a worker's time went while it filled rows of a batch.

    Attributes:
        read_ns: locating rows and taking their bytes from mapped shards.
        decode_ns: decoding images.
        transform_ns: everything after decoding, copying into the slot included.
        copy_ns: copies to a device, by its clock.
    """

    read_ns: int = 0
    decode_ns: int = 0
    transform_ns: int = 0
    copy_ns: int = 0

    def merge(self, other: WorkTimes) -> WorkTimes:
        """Return the sum of both."""
        mine, theirs = self, other
        return WorkTimes(mine[0] + theirs[0], mine[1] + theirs[1], mine[2] + theirs[2], mine[3] + theirs[3])


NO_TIME = WorkTimes()
"""Nothing was done yet."""


@dataclass(frozen=True, kw_only=True)
class LoaderStats:
    """What a loader did in an epoch, or in several when merged.

    Attributes:
        samples: rows delivered to the consumer.
        batches: batches delivered.
        elapsed_s: wall clock from the start of the epoch to its last delivery.
        wait_s: time the consumer spent waiting inside `next()`.
        read_s: time workers spent reading, summed over workers; of threads that copy ahead, what was waited for.
        decode_s: time workers spent decoding, summed over workers.
        transform_s: time workers spent transforming, summed over workers.
        copy_s: time a device spent copying batches that have passed, beside its other work.
        copied_batches: batches handed over as a copy because the consumer still held the slots.
        replaced_workers: workers that died and were replaced.
    """

    samples: int = 0
    batches: int = 0
    elapsed_s: float = 0.0
    wait_s: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0
    transform_s: float = 0.0
    copy_s: float = 0.0
    copied_batches: int = 0
    replaced_workers: int = 0

    @property
    def samples_per_s(self) -> float:
        """Rows delivered per second of wall clock; 0 before the first batch."""
        return self.samples / self.elapsed_s if self.elapsed_s else 0.0

    def merge(self, other: LoaderStats) -> LoaderStats:
        """Return the sum of both, field by field."""
        return LoaderStats(**{name: value + getattr(other, name) for name, value in dataclasses.asdict(self).items()})

    def to_json(self) -> dict[str, Any]:
        """Return every field and the rate, for a report."""
        return {**dataclasses.asdict(self), "samples_per_s": self.samples_per_s}
