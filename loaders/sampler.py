"""The sampler a torch user and the frameworks expect to find on a loader: a view of the plan, not its maker.

Frameworks look for a `DistributedSampler` to know that the data is already divided, and call `set_epoch` on it. This one forwards that to the
loader and yields the rows of the rank's epoch when somebody asks; the engine never iterates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakMethod

from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from .law import Ordering, Stream
from .mixture import MixedStream
from .plan import Plan


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

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one to be iterated, here and in the loader."""
        super().set_epoch(epoch)
        if (tell := self._on_epoch()) is not None:
            tell(epoch)

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers, batch after batch."""
        for step in range(self.plan.steps()):
            positions = self.plan.batch(step).positions() % max(self.plan.rows, 1)
            yield from self._stream.draw(self.epoch, positions).rows.tolist()

    def __len__(self) -> int:
        """Return how many rows this rank is given in an epoch, padding included."""
        steps = self.plan.steps()
        return (steps - 1) * self.plan.batch_size + self.plan.batch(steps - 1).size if steps else 0
