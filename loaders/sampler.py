"""The sampler a torch user and the frameworks expect to find on a loader: a view of the plan, not its maker.

Frameworks look for a `DistributedSampler` to know that the data is already divided, and call `set_epoch` on it. This one forwards that to the
loader and yields the rows of the rank's epoch when somebody asks; the engine never iterates it, nor the batch sampler over it, which only a framework does that has
built a loader of its own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakMethod

from torch.utils.data import BatchSampler, Dataset
from torch.utils.data.distributed import DistributedSampler

from ..errors import BadRequest
from .law import Ordering, Stream
from .mixture import MixedStream
from .plan import Plan
from .state import NAMED

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
        self._named: int | None = None
        self._resumed: tuple[int, int] | None = None
        self._kept: tuple[int, int] | None = None
        self._ahead = 0

    def saved(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a state with the epoch that this sampler was told last, where that is another than the state's: a framework may read a loader twice in an epoch of its own."""
        usual = (None, state["epoch"], state["epoch"] if state["under_way"] else state["epoch"] - 1)
        return state if self._named in usual else {**state, NAMED: self._named}

    def resumed(self, state: Mapping[str, Any]) -> None:
        """Hear of a state that was loaded.

        Raises:
            BadRequest: what it says of this sampler is no epoch.
        """
        named = state["epoch"] if state.get(NAMED) is None else state[NAMED]
        if type(named) is not int or named < 0:
            raise BadRequest(f"the state holds {NAMED} {named!r}, which is no epoch")
        self._resumed, self._kept, self._ahead = (named, state["epoch"]), None, 0
        self._named = state.get(NAMED)

    def counts_from(self, epoch: int) -> None:
        """Hear which epoch of the loader is the sampler's first."""
        self._named = self._resumed = self._kept = None
        self._ahead = epoch

    def entered(self, epoch: int) -> None:
        """Hear that the loader has entered `epoch`."""
        self.epoch = epoch
        self._resumed = self._kept = None

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one to be iterated, here and in the loader.

        Behind a loaded state the epoch that was told last before it was saved means the epoch that the state stands in. Lightning's Fabric counts the epochs since its start, whatever was
        resumed: a first epoch that lies before that one is where somebody counts from. `penstock.DataLoader.set_epoch` means what it says.
        """
        if self._resumed is not None:
            (named, standing), self._resumed = self._resumed, None
            self._ahead = max(named - epoch, 0)
            self._kept = (named, standing) if epoch + self._ahead == named else None
            if self._ahead:
                _LOG.info("penstock: the sampler's epoch %d is taken for the resumed epoch %d, and counted from there", epoch, named)
        self._named = epoch + self._ahead
        meant = self._kept[1] if self._kept is not None and self._kept[0] == self._named else self._named
        super().set_epoch(meant)
        if (tell := self._on_epoch()) is not None:
            tell(meant)

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

    even_batches = True  # what Accelerate's join_uneven_inputs looks for

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each batch."""
        warnings.warn(
            "another loader reads the rows of a penstock.DataLoader: its engine, transforms and state are left out, and rows that a framework divides among ranks "
            "once more are lost. Give Accelerate penstock.integrations.accelerate.prepare(accelerator, loader), and a Trainer of Hugging Face "
            "penstock.integrations.transformers.attach(trainer, train=loader)",
            stacklevel=2,
        )
        yield from super().__iter__()
