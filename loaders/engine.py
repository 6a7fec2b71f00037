"""What turns a loader's plan into batches, one epoch after another: inline here, by workers in `crew`. Knows no torch.

`crew` is imported by name, for loaders that have workers: what starts and watches processes costs 20 ms that the others need not wait for.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import NamedTuple, final

from ..metrics import WorkTimes
from .batch import Batch
from .fill import Filler
from .inline import fill_batch
from .plan import Plan
from .work import Work


class Settings(NamedTuple):
    """How the work is spread.

    Attributes:
        num_workers: worker processes; 0 works inline.
        prefetch_factor: batches in work or ready ahead of the consumer, per worker.
        persistent: whether workers outlive an epoch.
        timeout_s: seconds to wait for a batch; 0 waits as long as workers make progress, and 10 minutes without any.
        init: called in each worker with its number before it works, or None.
    """

    num_workers: int
    prefetch_factor: int
    persistent: bool
    timeout_s: float
    init: Callable[[int], object] | None


class Delivered(NamedTuple):
    """A batch, and what it took.

    Attributes:
        batch: the arrays.
        rows: rows, padding included.
        times: where the work's time went.
        copied: whether it was copied out of the ring.
        replaced_workers: workers of this run that were replaced so far.
    """

    batch: Batch
    rows: int
    times: WorkTimes
    copied: bool = False
    replaced_workers: int = 0


class Engine(ABC):
    """Turns a plan into batches."""

    @abstractmethod
    def epoch(self, plan: Plan, epoch: int, start: int) -> Generator[Delivered, None, None]:
        """Yield this rank's batches of `epoch` from position `start`.

        Raises:
            PenstockError: in place of the batch it belongs to.
        """

    @abstractmethod
    def close(self) -> None:
        """End what outlives an epoch, if anything does; the next epoch starts it anew."""


@final
class InlineEngine(Engine):
    """Works in this process."""

    def __init__(self, work: Work) -> None:
        """Note the work; nothing is opened."""
        self._work = work
        self._filler: Filler | None = None

    def epoch(self, plan: Plan, epoch: int, start: int) -> Generator[Delivered, None, None]:
        """Yield batches in arrays of their own."""
        steps = plan.steps(start)
        if steps and self._filler is None:
            self._filler = Filler(self._work)
        outputs = dict(self._work.outputs)
        for step in range(steps):
            assert self._filler is not None
            span = plan.span(step, start)
            batch, times = fill_batch(self._filler, outputs, epoch, span)
            yield Delivered(batch=batch, rows=span.size, times=times)

    def close(self) -> None:
        """There is nothing to end."""


def make_engine(work: Work, settings: Settings) -> Engine:
    """Return the engine for so many workers; no process is started."""
    if not settings.num_workers:
        return InlineEngine(work)
    made: Engine = importlib.import_module(".crew", __package__).PooledEngine(work, settings)
    return made
