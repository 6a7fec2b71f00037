"""The sampler a torch user and the frameworks expect to find on a loader: a view of the plan, not its maker.

Frameworks look for a `DistributedSampler` to know that the data is already divided, and call `set_epoch` on it. This one forwards that to the
loader and yields the rows of the rank's epoch when somebody asks; the engine never iterates it, nor the batch sampler over it, which only a framework does that has
built a loader of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakMethod

from torch.utils.data import BatchSampler, Dataset
from torch.utils.data.distributed import DistributedSampler

from .law import Ordering, Stream
from .mixture import MixedStream
from .plan import Plan

_LOG = logging.getLogger("penstock")


class EpochSampler(DistributedSampler[Any]):
    """The rows of this rank's epoch, in the order they are delivered."""

    def __init__(
        self,
        dataset: Dataset[Any],
        plan: Plan,
        stream: Stream | MixedStream,
        ordering: Ordering,
        on_epoch: WeakMethod[Callable[[int], None]],
    ) -> None:
        """Describe `plan` of a stream; `on_epoch`, held weakly so that loader and sampler are no cycle, hears what `set_epoch` is told."""
        super().__init__(
            dataset, num_replicas=plan.world_size, rank=plan.rank, shuffle=ordering.shuffle, seed=ordering.seed, drop_last=plan.tail == "drop"
        )
        self.plan = plan
        self._stream = stream
        self._on_epoch = on_epoch
        self._resumed: int | None = None
        self._ahead = 0

    def resumed(self, epoch: int) -> None:
        """Hear that a loaded state stands in `epoch`."""
        self._resumed = epoch

    def counts_from(self, epoch: int) -> None:
        """Hear which epoch of the loader is the sampler's first."""
        self._resumed = None
        self._ahead = epoch

    def entered(self, epoch: int) -> None:
        """Hear that the loader is in `epoch`."""
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one to be iterated, here and in the loader.

        Lightning's Fabric counts the epochs since its start, whatever was resumed. So a first epoch behind a loaded state, when it lies before that state's, is
        where somebody counts from; `penstock.DataLoader.set_epoch` means what it says.
        """
        if self._resumed is not None:
            self.counts_from(max(self._resumed - epoch, 0))
            if self._ahead:
                _LOG.info("penstock: the sampler's epoch %d is taken for the resumed epoch %d, and counted from there", epoch, epoch + self._ahead)
        super().set_epoch(epoch + self._ahead)
        if (tell := self._on_epoch()) is not None:
            tell(epoch + self._ahead)

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers, batch after batch."""
        for step in range(self.plan.steps()):
            positions = self.plan.batch(step).positions() % max(self.plan.rows, 1)
            yield from self._stream.draw(self.epoch, positions).rows.tolist()

    def __len__(self) -> int:
        """Return how many rows this rank is given in an epoch, padding included."""
        steps = self.plan.steps()
        return (steps - 1) * self.plan.batch_size + self.plan.batch(steps - 1).size if steps else 0


class EpochBatches(BatchSampler):
    """The same rows by the batch, as torch's loader has them; who iterates it has left the engine behind, and hears so."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each batch."""
        warnings.warn(
            "another loader reads the rows of a penstock.DataLoader: its engine, transforms and state are left out, and rows that a framework divides among ranks "
            "once more are lost. Give Accelerate penstock.integrations.accelerate.prepare(accelerator, loader), and a Trainer of Hugging Face "
            "penstock.integrations.transformers.attach(trainer, train=loader)",
            stacklevel=2,
        )
        yield from super().__iter__()
