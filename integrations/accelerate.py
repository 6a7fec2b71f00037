"""Hugging Face Accelerate: a prepared loader that is our own loader still.

`Accelerator.prepare` builds a plain torch loader over the rows of whatever it is given, unless that is prepared already. `prepare` makes what it would return, a
`DataLoaderShard`, around the engine: batches go to the accelerator's device, gradient accumulation and `gather_for_metrics` hear of the last one, and
`save_state` and `load_state` carry the loader's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import accelerate
from accelerate.data_loader import DataLoaderShard
from accelerate.state import GradientState
from accelerate.utils import DistributedType

from ..errors import BadRequest
from ..loaders.loader import DataLoader

_FINISHED = "_iterator_finished"
"""What Accelerate adds to the state of a loader."""


class PreparedLoader(DataLoaderShard):  # type: ignore[misc]  # Accelerate has no types
    """A `penstock.DataLoader` as Accelerate has them: what it yields, counts and saves is the loader's own."""

    _is_accelerate_prepared = True

    def __init__(self, loader: DataLoader[Any], device: Any = None, *, non_blocking: bool = False, iteration: int = 0, skip: int = 0) -> None:
        """Wrap a loader over stored data; torch's own constructor, which Accelerate's calls, would build another over its rows."""
        self.base_dataloader = loader
        self.device = device
        self.rng_types = None  # the order of stored data needs no generator to agree on
        self.synchronized_generator = None
        self.skip_batches = 0  # what Accelerate reads and throws away; ours begins behind it
        self.gradient_state = GradientState()
        self.use_stateful_dataloader = True
        self.iteration = iteration
        self.dl_state_dict = loader.state_dict()
        self._drop_last = loader.tail == "drop"
        self._non_blocking = non_blocking
        self._skip = skip

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the next epoch, or of the rest of the one that a loaded state stands in."""
        if self._skip:
            self.base_dataloader.load_state_dict(self.base_dataloader.state_at(self.iteration, self._skip))
        yield from super().__iter__()

    def __len__(self) -> int:
        """Return how many batches an epoch has, or what is left of it behind those that are skipped."""
        return len(self.base_dataloader) - self._skip

    def __reduce__(self) -> Any:
        """Refuse to be copied, as the loader does."""
        return self.base_dataloader.__reduce_ex__(2)

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the one that is entered next."""
        self.iteration = epoch
        self.base_dataloader.set_epoch(epoch)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was saved.

        Raises:
            BadRequest: the state belongs to another dataset version, seed or order.
        """
        self.base_dataloader.load_state_dict({name: value for name, value in state_dict.items() if name != _FINISHED})
        self.dl_state_dict = self.base_dataloader.state_dict()
        self.iteration = self.dl_state_dict["epoch"]

    @property
    def total_batch_size(self) -> int:
        """Return the samples of a step over all ranks."""
        return int(self.base_dataloader.plan.global_batch)

    @property
    def total_dataset_length(self) -> int:
        """Return the samples of an epoch over all ranks."""
        return int(self.base_dataloader.plan.rows)

    def skipping(self, batches: int) -> PreparedLoader:
        """Return the same loader, of which the next epoch begins behind so many batches.

        Raises:
            BadRequest: an epoch has fewer.
        """
        self.base_dataloader.state_at(self.iteration, self._skip + batches)
        return PreparedLoader(self.base_dataloader, self.device, non_blocking=self._non_blocking, iteration=self.iteration, skip=self._skip + batches)


def prepare(accelerator: accelerate.Accelerator, loader: DataLoader[Any]) -> Any:
    """Return a loader over stored data as `accelerator.prepare` would, with its engine kept; any other goes to `accelerator.prepare` itself.

    The accelerator then skips batches of it without reading them, saves its state with `save_state`, and takes it up with `load_state`.

    Raises:
        BadRequest: the accelerator is told to split or to dispatch batches, or is one of XLA: ranks read for themselves here.
    """
    if isinstance(loader, PreparedLoader) or loader._stored is None:  # noqa: SLF001  (the question that the loader asks itself everywhere)
        return accelerator.prepare(loader)
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name):
            raise BadRequest(
                f"Accelerator({name}=True) divides what one loader read, and each rank of a penstock.DataLoader reads its own: leave it out"
            )
    if accelerator.distributed_type == DistributedType.XLA:
        raise BadRequest("Accelerate on XLA wraps loaders in its own threads, which a penstock.DataLoader does not go through")
    if (ranks := accelerator.num_processes) != loader.plan.world_size and loader.topology.mesh is None:
        raise BadRequest(
            f"the loader is for {loader.plan.world_size} ranks ({loader.topology}), and the accelerator has {ranks}: make the Accelerator first, or give topology="
        )
    prepared = PreparedLoader(
        loader,
        accelerator.device if accelerator.device_placement else None,
        non_blocking=accelerator.non_blocking,
        iteration=loader.state_dict()["epoch"],
    )
    accelerator._dataloaders.append(prepared)  # noqa: SLF001  (where save_state looks; prepare() of what is prepared would do the same)
    accelerator.skip_first_batches = skip_first_batches
    return prepared


def skip_first_batches(dataloader: Any, num_batches: int = 0) -> Any:
    """Return a loader of which the next epoch begins behind so many batches; `accelerate.skip_first_batches` for loaders that are not ours.

    Batches count from the beginning of the epoch. Nothing of what is skipped is read.

    Raises:
        BadRequest: an epoch has fewer.
    """
    if type(dataloader) is PreparedLoader:
        return dataloader.skipping(num_batches)
    return accelerate.skip_first_batches(dataloader, num_batches)
