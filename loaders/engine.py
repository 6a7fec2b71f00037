"""The contract of what turns a loader's plan into batches, one epoch after another. Knows no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

from ..metrics import WorkTimes
from .batch import Batch
from .plan import Plan, Run

Pin = Callable[[int, int], Callable[[], None]]
"""Pins memory at an address, so many bytes, and returns what lets go of it."""


class Settings(NamedTuple):
    """How the work is spread.

    Attributes:
        num_workers: worker processes; 0 works inline.
        prefetch_factor: slots in work or ready ahead of the consumer, per worker; one batch each, or several that are small.
        persistent: whether workers outlive an epoch.
        timeout_s: seconds to wait for a batch; 0 waits as long as workers make progress, and 10 minutes without any.
        init: called in each worker with its number before it works, or None.
        threads: threads that may copy a large batch when the work is done inline.
        held: slots the consumer may hold before batches are copied out of the ring: in `for batch in loader` it holds the last one while it asks for the next.
        pin: given the address and size of the ring's memory, pins it and returns what lets go of it; or None.
    """

    num_workers: int
    prefetch_factor: int
    persistent: bool
    timeout_s: float
    init: Callable[[int], object] | None
    threads: int = 1
    held: int = 2
    pin: Pin | None = None


class Onward(NamedTuple):
    """Where batches go from an engine.

    Attributes:
        held: slots that are held on the way and by the consumer.
        pin: pins the ring's memory.
        around: returns the engine that takes them there.
    """

    held: int
    pin: Pin
    around: Callable[[Engine], Engine]


class Delivered(NamedTuple):
    """The next batch, or several that share their memory, and what they took.

    Attributes:
        batches: their arrays, in order; whoever takes them empties the list, so that memory goes with its batches.
        rows: rows of each, padding included.
        times: where the work's time went.
        copied: whether they were copied out of the ring.
        replaced_workers: workers of this run that were replaced so far.
    """

    batches: list[Batch]
    rows: int
    times: WorkTimes
    copied: bool = False
    replaced_workers: int = 0


class RunSource(Protocol):
    """What is to be filled, one run after the other."""

    def get(self, number: int, *, wait: bool) -> Run | None:
        """Return run `number`; None when there is none, or, without `wait`, when it would have to be waited for."""


class Engine(ABC):
    """Turns a plan into batches."""

    @abstractmethod
    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield this rank's batches of `epoch` from position `start`, or those that `runs` gives.

        Raises:
            PenstockError: in place of the batch it belongs to.
        """

    def ready(self) -> bool:
        """Return whether the next batch of the epoch under way can be had without waiting; False where nobody can tell."""
        return False

    @abstractmethod
    def close(self) -> None:
        """End what outlives an epoch, if anything does; the next epoch starts it anew."""
