"""The public face: a torch DataLoader whose engine is ours.

It keeps torch's arguments and attributes. Over stored data (`Stored` has the plan and counts what the consumer received) it wraps finished arrays in tensors without a
copy. Over any other dataset it is torch's own loader, whose batches cross from workers through our arena and which has a state (`Borrowed`). `iter()` is lazy
over stored data: an epoch is entered, and processes start, with the first `next()`.
"""

from __future__ import annotations

import copy
import importlib
import warnings
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, cast

import torch
import torch.utils.data

from ..errors import BadRequest
from ..metrics import LoaderStats
from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from .batch import Batch, each
from .law import Ordering
from .mixture import Mixture
from .options import OwnOptions, TorchOptions, check_borrowed
from .packed import Packed
from .plan import Plan, Tail
from .sampler import EpochBatches, EpochSampler
from .stored import Stored
from .topology import Topology

if TYPE_CHECKING:
    from ..transforms.base import Op
    from ..transforms.map import Map
    from ..transforms.mixing import BatchOp
    from .device_finish import Finish
    from .ledger import Digest
    from .torch_borrowed import Borrowed


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", covariant=True, default=Any)  # so that nobody has to say what a batch is
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

SOURCES = (Dataset, TokenWindows, Packed, Mixture)
"""What is stored, or made of what is."""


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """Batches of a dataset, for training: what torch's DataLoader is, with a state, and with an engine of its own for stored data.

    Of a `penstock.Dataset`, of `TokenWindows`, `Packed` or a `Mixture`: a dict of tensors (or arrays) per batch, exact at every resume. The order of samples is a
    function of the dataset's version, `seed`, the epoch and `shuffle`; ranks, workers, batch size and timing do not enter. Of any other dataset: what torch's loader
    gives, by torch's rules. Arguments that torch's DataLoader has mean what they mean there.
    """

    _stored: Stored | None = None
    _static: Callable[[Batch], Batch] = staticmethod(lambda batch: batch)
    _finish: Finish | None = None
    device: str = "cpu"
    plan: Plan
    ordering: Ordering
    topology: Topology
    tail: Tail
    seed: int
    shuffle: bool
    output: Literal["torch", "numpy"]
    transforms: Mapping[str, Sequence[Op]]
    map: Map | Callable[[dict[str, Any]], Mapping[str, Any]] | None

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], object] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        transforms: Mapping[str, Sequence[Op]] | None = None,
        map: Map | Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,  # noqa: A002  (the name the field uses: tf.data, Grain, HF)
        seed: int | None = None,
        tail: Tail | None = None,
        topology: Any = None,
        broadcast: bool = False,
        sequence: Sequence[str] | None = None,
        tickets: Any = None,
        window_shards: int | None = None,
        lanes: int = 1,
        epoch_samples: int | None = None,
        output: Literal["torch", "numpy"] = "torch",
        device: Any = None,
        device_prefetch: int = 1,
        static_buffers: bool = False,
        normalize_on: Literal["host", "device"] = "host",
        batch_transforms: Sequence[BatchOp] | None = None,
        decode_on: Literal["host", "device"] = "host",
        snapshot_every_n_steps: int | None = 1,
    ) -> None:
        """Decide the plan and compile the transforms; nothing is read but the manifest (and the first row, when there is a `map`).

        Over a dataset that is not stored by Penstock, torch's arguments mean what they mean to torch, and those of them that are said to have to be None need not be.

        Args:
            dataset: what to read: a `penstock.Dataset`, `TokenWindows` or `Packed` sequences over one, a `Mixture`; or any dataset that torch's loader takes.
            batch_size: rows of a batch on this rank.
            shuffle: whether each epoch is a new permutation: of all rows, unless `window_shards` says otherwise.
            sampler: must be None: the plan is the sampler, see `topology`.
            batch_sampler: must be None, likewise.
            num_workers: worker processes; 0 works in this one.
            collate_fn: must be None: batches are built in place; `map=Map(fn, batched=True)` changes them.
            pin_memory: whether to copy batches into pinned memory where there is a CUDA device.
            drop_last: whether a short last batch is dropped.
            timeout: seconds to wait for a batch; with 0 there is no limit while workers answer, and an error after 10 minutes without any answer.
            worker_init_fn: called with the worker's number in each worker.
            multiprocessing_context: must be None: workers are always fresh processes.
            generator: its initial seed is used when `seed` is not given.
            prefetch_factor: batches ahead of the consumer, per worker; 2 by default. Small batches of plain rows count by the 4 MB.
            persistent_workers: whether workers outlive an epoch.
            pin_memory_device: must be "": batches are pinned for the CUDA device, when `pin_memory` asks for it.
            in_order: False allows batches out of order; they come in order all the same, which both values permit.
            transforms: ops by column; see `penstock.transforms`.
            map: a function on a sample (a dict of arrays) that returns a dict of fixed-shape arrays, or a `Map`.
            seed: of shuffling and augmentation; 0 by default.
            tail: `"drop"`, `"pad"` (adds a boolean column `valid`) or `"ragged"`; by default as torch: drop when `drop_last`, ragged on one
                process, pad on several.
            topology: `(rank, world_size)`, or a torch `DeviceMesh` with named dimensions; by default what torch.distributed or torchrun says.
            broadcast: of the ranks of a mesh that have the same batches one reads them, and the others receive.
            sequence: the columns of which context-parallel ranks get a part each; by default those as long as `TokenWindows` and `Packed` make them.
            tickets: a `Tickets`, or a torch `TCPStore`: batches are drawn from it by consumers of unlike speed that come and go, and each is confirmed once.
            window_shards: permute the shards, and rows only within so many neighbours among them: what must be near when shards are far away.
            lanes: cut the permuted shards, end to end, into so many lanes of equally many rows, and take one row of each in turn.
            epoch_samples: samples of an epoch over all ranks; an epoch then begins where the one before ended, in one pass over the data after the other.
            output: `"torch"` tensors or `"numpy"` arrays, both in the memory they were written to.
            device: a CUDA device on which batches come, `"auto"` for one if there is one; None or `"cpu"` leaves them where they were written.
            device_prefetch: batches on their way to the device, or there, ahead of the loop, as far as workers have finished them; runs of small ones that were filled together count
                as one. Without workers, with `tickets=` and with `broadcast=` a batch goes when it is asked for.
            static_buffers: whether every batch comes in the same tensors on the device, as a CUDA graph that was captured needs it.
            normalize_on: `"device"` leaves flips, colours, normalising and erasing of images to the CUDA device, to which they go as bytes; on the host as ever without one.
            decode_on: `"device"` leaves JPEGs to nvJPEG, where torchvision or nvImageCodec brings it, and what follows to the device too; a warning says when workers decode after all.
            batch_transforms: `MixUp` and `CutMix`, done to whole batches where they arrive.
            snapshot_every_n_steps: of a dataset, not stored by Penstock, that has a state: it is asked for it behind every so many batches of a worker.

        Raises:
            BadRequest: an argument cannot work, or the transforms do not fit the columns.
            ValueError: torch refuses an argument.
        """
        loading = (batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, pin_memory, drop_last, timeout)
        processes = (worker_init_fn, multiprocessing_context, generator, prefetch_factor, persistent_workers, pin_memory_device, in_order)
        options = TorchOptions._make((*loading, *processes))
        own = OwnOptions(transforms, map, seed, tail, topology, broadcast, sequence, tickets, window_shards, lanes, epoch_samples, output)
        own = own._replace(device=device, device_prefetch=device_prefetch, static_buffers=static_buffers, normalize_on=normalize_on)
        self._begin(dataset, options, own._replace(batch_transforms=batch_transforms, decode_on=decode_on), snapshot_every_n_steps)

    def _begin(self, dataset: Any, options: TorchOptions, own: OwnOptions, snapshot_every_n_steps: int | None) -> None:
        """Be a loader over stored data, or torch's."""
        self.snapshot_every_n_steps = snapshot_every_n_steps
        if isinstance(dataset, SOURCES):
            target = self._target(own)
            kept, finish, stays = self._finishing(dataset, own, target)
            onward = None if target is None else importlib.import_module(".device", __package__).onward(target, own.device_prefetch, stays)
            self._store(Stored(dataset, options, kept, torch.get_num_threads(), onward), options, own)
            if finish is not None:
                finish.check(self._its("batch_transforms=").work.outputs)
                self._finish = finish
        else:
            check_borrowed(dataset, own)
            self._borrowed: Borrowed = importlib.import_module(".torch_borrowed", __package__).Borrowed(snapshot_every_n_steps)
            super().__init__(dataset, **options.to_torch())

    def _target(self, own: OwnOptions) -> torch.device | None:
        """Return the device that batches go to, when they are to leave the host."""
        if own.device is None:
            if own.static_buffers:
                raise BadRequest("static_buffers=True is of batches on a device: give device='cuda'")
            return None
        if own.output == "numpy" and str(own.device) != "cpu":
            raise BadRequest(f"device={own.device!r} yields tensors, and output='numpy' arrays: leave one of them out")
        devices = importlib.import_module(".device", __package__)
        found: torch.device | None = devices.device_of(own.device)
        self.device = "cpu" if found is None else str(found)
        if found is not None and own.static_buffers:
            self._static = devices.Static()
        return found

    @staticmethod
    def _finishing(dataset: Any, own: OwnOptions, target: torch.device | None) -> tuple[OwnOptions, Finish | None, list[str]]:
        """Return the options without what is done where batches arrive, what does that, and the columns that stay on the host until then."""
        rests, decodes = {}, {}
        if target is not None and own.transforms is not None and "device" in (own.normalize_on, own.decode_on):
            if own.map is not None:
                raise BadRequest(
                    "normalize_on='device' and decode_on='device' finish columns behind the workers, where map= would see bytes: leave one of them out"
                )
            cutting = importlib.import_module(".split_work", __package__)
            stays, rests = cutting.split_transforms(dataset, own.transforms)
            if own.decode_on == "device":
                decodes = importlib.import_module(".device_finish", __package__).decoding(cutting.decoded_later(dataset, stays))
            if own.normalize_on == "host":
                rests = {name: rest for name, rest in rests.items() if name in decodes}
                stays = {name: stays[name] if name in decodes else ops for name, ops in own.transforms.items()}
            own = own._replace(transforms={name: ops for name, ops in stays.items() if name not in decodes})
        if not rests and not decodes and not own.batch_transforms:
            return own, None, []
        if own.tickets is not None or own.output == "numpy":
            other = "tickets= (who says which rows come?)" if own.tickets is not None else "output='numpy'"
            raise BadRequest(f"batch_transforms=, normalize_on='device' and decode_on='device' do not go with {other}: leave one of them out")
        finishing = importlib.import_module(".device_finish", __package__)
        made: Finish = finishing.Finish(rests, tuple(own.batch_transforms or ()), decodes, target)
        return own, made, list(decodes)

    def _store(self, stored: Stored, options: TorchOptions, own: OwnOptions) -> None:
        """Be a loader over stored data, to whom it may look like torch's."""
        self._stored = stored
        self.plan, self.ordering, self.topology, self.tail = stored.plan, stored.ordering, stored.place, stored.tail
        self.seed, self.shuffle = stored.ordering.seed, stored.ordering.shuffle
        self.tickets, self.static_buffers = own.tickets, own.static_buffers
        self.output, self.map, self.transforms = own.output, own.map, {} if own.transforms is None else own.transforms
        dataset = cast("torch.utils.data.Dataset[Any]", stored.work.dataset)  # map-style by its methods, which is what torch asks for
        shown = EpochSampler(dataset, self.plan, stored.stream, self.ordering, weakref.WeakMethod(self._to_epoch))
        told: dict[str, Any] = {
            "shuffle": None,
            "sampler": shown,
            "drop_last": self.tail == "drop",
            "multiprocessing_context": None,
            "in_order": True,
        }
        super().__init__(dataset, **options._replace(**told).to_torch())
        self.__dict__["batch_sampler"] = EpochBatches(shown, stored.plan.batch_size, self.drop_last)  # torch refuses to have it set behind __init__
        self.in_order = options.in_order

    def __len__(self) -> int:
        """Return how many batches a whole epoch has on this rank."""
        return super().__len__() if self._stored is None else self.plan.steps()

    def __iter__(self) -> Any:
        """Return an iterator over the next epoch, or over the rest of the one a loaded state stands in."""
        stored = self._stored
        if stored is not None:
            return BatchIterator(stored.batches(partial(self._wrapper, stored), self._enter), len(self))
        made = super().__iter__()
        self._borrowed.note(made)
        return made

    def _get_iterator(self) -> Any:
        """Return an iterator of torch's kind; what torch's `__iter__` calls."""
        if self.num_workers > 0:
            self.check_worker_number_rationality()
        return self._borrowed.iterator(self)

    def _enter(self, epoch: int) -> None:
        cast("EpochSampler", self.sampler).entered(epoch)

    def __repr__(self) -> str:
        """Return what is delivered, to whom, in how many steps."""
        if self._stored is None:
            return super().__repr__()
        ordering = ", ".join(f"{name}={value!r}" for name, value in self.ordering.to_json().items())
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, {ordering}, tail={self.tail!r}, "
            f"num_workers={self.num_workers}, {self.topology}, {len(self)} steps)"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but the epoch under way, which belongs to one loader."""
        return {**self.__dict__, "_borrowed": copy.copy(self._borrowed)}

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Refuse `copy`, `deepcopy` and `pickle` over stored data: processes and shared memory have one owner."""
        if self._stored is None:
            return super().__reduce_ex__(protocol)
        raise BadRequest(
            f"{type(self).__name__} owns worker processes and shared memory and can be neither copied nor pickled (protocol {protocol}); "
            "build another with the same arguments, and pass on state_dict()"
        )

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the one that the next iteration enters; a loaded state that stands in that epoch keeps its place.

        Over a dataset that is not stored by Penstock: tell sampler, batch sampler and dataset, those that have a `set_epoch`.

        Raises:
            BadRequest: it is negative, or no integer.
        """
        if self._stored is None:
            self._borrowed.set_epoch(self, epoch)
        else:
            cast("EpochSampler", self.sampler).counts_from(0)
            self._to_epoch(epoch)

    def _to_epoch(self, epoch: int) -> None:
        if self._its("set_epoch()").set_epoch(epoch):
            self.sampler.epoch = epoch  # type: ignore[attr-defined]  # an EpochSampler's

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: a few hundred bytes that JSON can hold. Counts what was delivered, never what was prefetched.

        Over a dataset that is not stored by Penstock it holds a random generator's state too (3 KB of text), and what sampler and dataset say of themselves.
        """
        if self._stored is None:
            return self._borrowed.state_dict(self)
        return cast("EpochSampler", self.sampler).saved(self._stored.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any], accept: Collection[str] = ()) -> None:
        """Go on where a state was saved, on any number of ranks and workers and with any batch size.

        Over a dataset that is not stored by Penstock: with the same batch size, and, when it is iterable or has a state, the same number of workers.

        Args:
            state_dict: what `state_dict` returned.
            accept: parts of the plan that may differ, such as `["dataset_version", "dataset_digest", "rows"]`: the epoch then goes on from as many
                samples, in the order of this loader, and it is for the caller to know which samples that repeats or leaves out.

        Raises:
            BadRequest: the state belongs to another dataset version, seed or order; the differences are named.
        """
        if self._stored is None:
            self._borrowed.load_state_dict(self, state_dict, accept)
        else:
            self._stored.load_state_dict(state_dict, accept)
            cast("EpochSampler", self.sampler).resumed(state_dict)

    def state_at(self, epoch: int, step: int) -> dict[str, Any]:
        """Return the state of a run that stands behind `step` batches of `epoch`, for who kept these numbers and nothing else.

        Raises:
            BadRequest: an epoch of this loader has no such step, or it draws tickets, which are done in any order.
        """
        return self._its("state_at()").state_at(epoch, step)

    def _its(self, what: str) -> Stored:
        """Return the stored side, of which something is asked that only it has.

        Raises:
            BadRequest: the dataset is not a stored one.
        """
        if self._stored is None:
            raise BadRequest(
                f"{what} is known of stored data only, and dataset is a {type(self.dataset).__name__}; store it with penstock.Writer or `penstock convert`"
            )
        return self._stored

    def stats(self) -> LoaderStats:
        """Return what the present epoch, or the last one, delivered, and where its time went."""
        return self._its("stats()").stats()

    def digest(self) -> Digest:
        """Return which positions of which epochs this loader has delivered since it was made, padding left out.

        Of the ranks of a mesh that have the same batches the first says so, and the others' digests are empty.

        Those of all ranks, and of runs that followed one another, add up with `merge`; `plan_digest` says what they should come to.
        """
        return self._its("digest()").digest()

    def plan_digest(self, epochs: Iterable[int]) -> Digest:
        """Return what all ranks together deliver in whole epochs."""
        return self._its("plan_digest()").plan_digest(epochs)

    def confirm(self) -> bool:
        """With `tickets=`: say now, and not with the next batch, that the last one is done with; False when it was given to somebody else, and must not count."""
        return self._its("confirm()").confirm()

    def close(self) -> None:
        """End persistent workers now rather than when the loader is collected."""
        if self._stored is None:
            self._borrowed.close(self)
        else:
            self._stored.engine.close()

    def _wrapper(self, stored: Stored, epoch: int, start: int) -> Callable[[Batch], Batch]:
        """Return what makes a batch of arrays one of what the user asked for."""
        moved = self.output == "numpy" or self.device != "cpu"
        if moved and self._finish is None:
            return self._static
        pin = not moved and self._pins()
        if self._finish is None:
            return _tensors(stored, pin=pin)
        behind = self._static if moved else _pinned if pin else _as_it_is
        return self._finish.of(stored.identities(epoch, start), _as_it_is if moved else _tensors(stored, pin=False), behind)

    def _pins(self) -> bool:
        """Return whether batches go into pinned memory."""
        pin = self.pin_memory and torch.cuda.is_available()
        if self.pin_memory and not pin:
            warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then device pinned memory won't be used.", stacklevel=5)
        return pin


class BatchIterator(Iterator[Batch]):
    """The batches of one epoch. Nothing happens before the first `next()`; dropping it, or `close()`, ends the epoch's work."""

    def __init__(self, batches: Generator[Batch, None, None], steps: int) -> None:
        """Wrap the generator of an epoch."""
        self._batches = batches
        self._steps = steps
        weakref.finalize(self, batches.close)  # also when the interpreter ends with the epoch still open

    def __next__(self) -> Batch:
        """Return the next batch."""
        return next(self._batches)

    def __len__(self) -> int:
        """Return how many batches a whole epoch has."""
        return self._steps

    def close(self) -> None:
        """End the epoch here and clean up."""
        self._batches.close()


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _tensors(stored: Stored, *, pin: bool) -> Callable[[Batch], Batch]:
    """Return what makes a batch of arrays one of tensors over the same memory, or in pinned memory."""
    if not pin and not any(output.ragged for output in stored.work.outputs.values()):
        from_numpy = torch.from_numpy
        return lambda batch: {name: from_numpy(value) for name, value in batch.items()}
    return lambda batch: each(batch, lambda array: _tensor(array, pin))


def _pinned(batch: Batch) -> Batch:
    return each(batch, torch.Tensor.pin_memory)


def _tensor(array: Any, pin: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if pin else tensor
