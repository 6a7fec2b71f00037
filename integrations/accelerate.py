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
    """A `penstock.DataLoader` as Accelerate has them: what it yields, counts and saves is the loader's own.

    Attributes:
        leaves_out: columns that are taken out of every batch.
    """

    _is_accelerate_prepared = True

    def __init__(self, loader: DataLoader[Any], device: Any = None, *, non_blocking: bool = False) -> None:
        """Wrap a loader over stored data; torch's own constructor, which Accelerate's calls, would build another over its rows."""
        self.base_dataloader = loader
        self.device = device
        self.rng_types = None  # the order of stored data needs no generator to agree on
        self.synchronized_generator = None
        self.skip_batches = 0  # what Accelerate reads and throws away; ours begins behind it
        self.gradient_state = GradientState()
        self.use_stateful_dataloader = True
        self.dl_state_dict = loader.state_dict()
        self.iteration = self.dl_state_dict["epoch"]
        self.leaves_out: tuple[str, ...] = ()
        self._drop_last = loader.tail == "drop"
        self._non_blocking = non_blocking
        self._skip = self._start = 0
        self._reading = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the next epoch, or of the rest of the one that a loaded state stands in."""
        loader, epoch = self.base_dataloader, self.iteration
        loader.set_epoch(epoch)
        if self._skip:
            loader.load_state_dict(loader.state_at(epoch, self._skip))
            self._skip = 0  # of this epoch only
        self._start = loader.state_dict()["samples"]
        for batch in super().__iter__():
            for name in self.leaves_out:
                batch.pop(name, None)
            yield batch
        if self.iteration == epoch:
            self.iteration += 1  # Accelerate stays where an epoch has no batch left

    def begin(self) -> None:
        """Say that the loader is read, and how many rows of its last global batch are no padding."""
        self.reset()
        plan = self.base_dataloader.plan
        if plan.tail != "drop":
            self.remainder = (plan.rows - self._start) % plan.global_batch
        self.gradient_state._add_dataloader(self)  # noqa: SLF001  (as Accelerate's own does)

    def _update_state_dict(self) -> None:
        super()._update_state_dict()
        self._reading = True

    def adjust_state_dict_for_prefetch(self) -> None:
        """Leave the state as it is: it counts batches that were given, on each rank alike."""

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
        self._reading = False

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: behind the batch that was given last, though Accelerate has read another one; or before the epoch that is next."""
        found: dict[str, Any] = self.dl_state_dict if self._reading else self.base_dataloader.state_dict()
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was saved.

        Raises:
            BadRequest: the state belongs to another dataset version, seed or order.
        """
        self.base_dataloader.load_state_dict({name: value for name, value in state_dict.items() if name != _FINISHED})
        self.iteration = self.base_dataloader.state_dict()["epoch"]
        self._skip, self._reading = 0, False

    @property
    def total_batch_size(self) -> int:
        """Return the samples of a step over all ranks."""
        return int(self.base_dataloader.plan.global_batch)

    @property
    def total_dataset_length(self) -> int:
        """Return the samples of an epoch over all ranks."""
        return int(self.base_dataloader.plan.rows)

    def skip(self, batches: int) -> None:
        """Begin the next epoch behind so many more of its batches.

        Raises:
            BadRequest: an epoch has fewer.
        """
        self.base_dataloader.state_at(self.iteration, self._skip + batches)
        self._skip += batches


def prepare(accelerator: accelerate.Accelerator, loader: Any) -> Any:
    """Return a loader over stored data as `accelerator.prepare` would, with its engine kept; any other goes to `accelerator.prepare` itself.

    The accelerator then skips batches of it without reading them, saves its state with `save_state`, and takes it up with `load_state`.

    Raises:
        BadRequest: the accelerator is told to split or to dispatch batches, or is one of XLA: ranks read for themselves here; or the loader draws tickets, has static
            buffers, or gives ranks batches of unlike size.
    """
    if type(loader) is PreparedLoader or not isinstance(loader, DataLoader) or loader._stored is None:  # noqa: SLF001  (the question that the loader asks itself)
        return accelerator.prepare(loader)
    _check(accelerator, loader)
    prepared = PreparedLoader(loader, accelerator.device if accelerator.device_placement else None, non_blocking=accelerator.non_blocking)
    accelerator._dataloaders.append(prepared)  # noqa: SLF001  (where save_state looks; prepare() of what is prepared would do the same)
    accelerator.skip_first_batches = skip_first_batches
    return prepared


def _check(accelerator: accelerate.Accelerator, loader: DataLoader[Any]) -> None:
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
    if loader.tickets is not None or loader.static_buffers:
        other = "tickets=" if loader.tickets is not None else "static_buffers=True"
        raise BadRequest(
            f"Accelerate reads a batch ahead of the loop, which {other} cannot bear: leave it out, or take batches from the loader itself"
        )
    if loader.tail == "ragged" and ranks > 1:
        raise BadRequest(
            "tail='ragged' gives ranks last batches of unlike size, which Accelerate's collectives would wait for: use tail='pad' or 'drop'"
        )


def skip_first_batches(dataloader: Any, num_batches: int = 0) -> Any:
    """Return the loader, whose next epoch now begins behind so many batches; `accelerate.skip_first_batches` for loaders that are not ours.

    Batches count from the beginning of the epoch. Nothing of what is skipped is read, and the epochs after it are whole.

    Raises:
        BadRequest: an epoch has fewer.
    """
    if type(dataloader) is PreparedLoader:
        dataloader.skip(num_batches)
        return dataloader
    return accelerate.skip_first_batches(dataloader, num_batches)
