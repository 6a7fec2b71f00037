"""The public face: a torch DataLoader whose engine is ours.

It keeps torch's arguments and attributes, makes the plan, compiles the transforms, counts what the consumer received, and wraps finished
arrays in tensors without a copy. The only file of this room, beside the sampler it shows to torch, that imports torch. `iter()` is lazy:
an epoch is entered, and processes start, with the first `next()`.
"""

from __future__ import annotations

import importlib
import logging
import operator
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, SupportsIndex, cast

import torch
import torch.utils.data

from ..errors import BadRequest
from ..metrics import LoaderStats
from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from . import state as states
from .batch import Batch, Ragged
from .engine import Engine, Settings
from .engines import make_engine
from .law import Ordering
from .mixture import Mixture, stream_of
from .packed import Packed
from .plan import Plan, Tail, default_tail
from .ring import MAX_WORKERS
from .sampler import EpochSampler
from .state import Fingerprint, Progress
from .tally import Tally
from .topology import Topology, detect
from .ways import Source, sequence_length_of
from .work import Work, plain_work

if TYPE_CHECKING:
    from ..transforms.base import Op
    from ..transforms.map import Map
    from .ledger import Digest


_LOG = logging.getLogger("penstock")


class DataLoader(torch.utils.data.DataLoader[Any]):
    """Batches of a `penstock.Dataset`, of `TokenWindows`, `Packed` or a `Mixture`: a dict of tensors (or arrays) per batch, exact at every resume.

    Arguments that torch's DataLoader has mean what they mean there. The order of samples is a function of the dataset's version, `seed`,
    the epoch and `shuffle`; ranks, workers, batch size and timing do not enter.
    """

    _resuming: bool = False
    _delivering: bool = False
    _next_epoch: int | None = None
    _run: int = 0
    _standing: Progress = Progress()
    _entered: list[tuple[int, int, Tally]]

    def __init__(
        self,
        dataset: Source,
        batch_size: int = 1,
        shuffle: bool | None = None,
        sampler: None = None,
        batch_sampler: None = None,
        num_workers: int = 0,
        collate_fn: None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], object] | None = None,
        multiprocessing_context: None = None,
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
    ) -> None:
        """Decide the plan and compile the transforms; nothing is read but the manifest (and the first row, when there is a `map`).

        Args:
            dataset: what to read: a `penstock.Dataset`, `TokenWindows` or `Packed` sequences over one, or a `Mixture`.
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

        Raises:
            BadRequest: an argument cannot work, or the transforms do not fit the columns.
            ValueError: torch refuses an argument.
        """
        _check(dataset, batch_size, output, sampler=sampler, batch_sampler=batch_sampler, collate_fn=collate_fn, context=multiprocessing_context)
        _check_spread(num_workers, prefetch_factor, pin_memory_device)
        place = _place_of(topology, tickets, broadcast)
        self.tail = _tail_of(tail, drop_last, place.world_size)
        self.ordering = Ordering(_seed_of(seed, generator), bool(shuffle), window_shards or 0, lanes, epoch_samples or 0)
        self.topology, self.map, self.output = place, map, output
        self.transforms = {} if transforms is None else transforms
        stream = stream_of(dataset, self.ordering)
        self.plan = Plan(rows=stream.positions, batch_size=batch_size, rank=place.rank, world_size=place.world_size, tail=self.tail, lanes=lanes)
        self._work = self._compiled(dataset)
        self._tally, self._entered = Tally(), []
        as_torch = cast("torch.utils.data.Dataset[Any]", dataset)  # map-style by its methods, which is what torch asks for
        super().__init__(
            as_torch,
            batch_size,
            sampler=EpochSampler(as_torch, self.plan, stream, self.ordering, weakref.WeakMethod(self.set_epoch)),
            num_workers=num_workers,
            pin_memory=pin_memory,
            drop_last=self.tail == "drop",
            timeout=timeout,
            worker_init_fn=cast("Callable[[int], None] | None", worker_init_fn),
            generator=generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )
        self.in_order = in_order
        self._engine = self._made_engine(broadcast, sequence, tickets)

    def _compiled(self, dataset: Source) -> Work:
        """Return what is to be done; without transforms that needs nothing that decodes images, so it is imported for those that have some."""
        if self.map is None and self.transforms == {}:
            return plain_work(dataset, ordering=self.ordering, tail=self.tail)
        compiler = importlib.import_module(".compile", __package__)
        made: Work = compiler.compile_work(dataset, self.transforms, self.map, ordering=self.ordering, tail=self.tail)
        return made

    @property
    def seed(self) -> int:
        """The seed of order and augmentation."""
        return self.ordering.seed

    @property
    def shuffle(self) -> bool:
        """Whether rows are permuted."""
        return self.ordering.shuffle

    @property
    def _shown(self) -> EpochSampler:
        """The sampler that frameworks see."""
        return cast("EpochSampler", self.sampler)

    def _settings(self) -> Settings:
        return Settings(
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor or 2,
            persistent=self.persistent_workers,
            timeout_s=self.timeout,
            init=self.worker_init_fn,
            threads=torch.get_num_threads(),
        )

    def _made_engine(self, broadcast: bool, sequence: Sequence[str] | None, tickets: Any) -> Engine:
        """Return what turns the plan into batches; what few loaders need is imported for those."""
        engine = make_engine(self._work, self._settings())
        place = self.topology
        self._ticketed: Any = None
        if self.plan.world_size > 1 and self.ordering.lanes > self.plan.global_batch:
            _LOG.warning(
                "penstock: a global batch of %d has no position of each of %d lanes, so ranks read from all of them; fewer lanes would keep them apart",
                self.plan.global_batch,
                self.ordering.lanes,
            )
        if tickets is not None:
            drawing = importlib.import_module(".tickets", __package__)
            drawn = tickets if isinstance(tickets, drawing.Tickets) else drawing.Tickets(tickets)
            made: Engine = drawing.TicketEngine(engine, drawn, self._fingerprint().to_json())
            self._ticketed = made
            return made
        if not broadcast and place.context_size == 1:
            return engine
        shared = importlib.import_module(".shared", __package__)
        if broadcast:
            channels = importlib.import_module(".broadcast", __package__)
            engine = shared.ReceivingEngine(engine, channels.MeshChannel(place.mesh, place.same, self._work.outputs))
        if place.context_size > 1:
            columns = shared.check_parts(self._work.outputs, sequence, sequence_length_of(self._work.dataset), place.context_size)
            engine = shared.PartEngine(engine, columns, place.context_rank, place.context_size)
        return engine

    def __len__(self) -> int:
        """Return how many batches a whole epoch has on this rank."""
        return self.plan.steps()

    def __iter__(self) -> BatchIterator:  # type: ignore[override]  # torch's iterator class belongs to torch's engine
        """Return an iterator over the next epoch, or over the rest of the one a loaded state stands in."""
        return BatchIterator(self._batches(), len(self))

    def __repr__(self) -> str:
        """Return what is delivered, to whom, in how many steps."""
        place, ordering = self.topology, ", ".join(f"{name}={value!r}" for name, value in self.ordering.to_json().items())
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, {ordering}, tail={self.tail!r}, "
            f"num_workers={self.num_workers}, {place}, {len(self)} steps)"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse `copy`, `deepcopy` and `pickle`: processes and shared memory have one owner."""
        raise BadRequest(
            f"{type(self).__name__} owns worker processes and shared memory and can be neither copied nor pickled (protocol {protocol}); "
            "build another with the same arguments, and pass on state_dict()"
        )

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the one that the next iteration enters; a loaded state that stands in that epoch keeps its place.

        Raises:
            BadRequest: it is negative, or no integer.
        """
        epoch = _integer("epoch", epoch)
        if epoch < 0:
            raise BadRequest(f"epoch {epoch}: epochs count from 0")
        states.check_epoch(epoch, self.plan.rows)
        if self._resuming and epoch == self._standing.epoch:
            return
        self._resuming = False
        self._next_epoch = epoch
        self._shown.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: a few hundred bytes that JSON can hold. Counts what was delivered, never what was prefetched."""
        waiting = self._next_epoch is not None and not self._delivering
        progress = Progress(epoch=self._next_epoch or 0) if waiting else self._progress()
        saved = states.save(self._fingerprint(), progress)
        return saved if self._ticketed is None else {**saved, **self._ticketed.saved(self.plan, progress.epoch)}

    def load_state_dict(self, state_dict: Mapping[str, Any], accept: Collection[str] = ()) -> None:
        """Go on where a state was saved, on any number of ranks and workers and with any batch size.

        Args:
            state_dict: what `state_dict` returned.
            accept: parts of the plan that may differ, such as `["dataset_version", "dataset_digest", "rows"]`: the epoch then goes on from as many
                samples, in the order of this loader, and it is for the caller to know which samples that repeats or leaves out.

        Raises:
            BadRequest: the state belongs to another dataset version, seed or order; the differences are named.
        """
        standing = states.load(state_dict, self._fingerprint(), accept)
        done = states.tickets_of(state_dict, standing, self.plan, drawn=self._ticketed is not None)
        if self._ticketed is not None:
            self._ticketed.begin_with(standing.epoch, done)
            standing = standing._replace(samples=0)
        self._standing = standing
        self._resuming = True
        self._next_epoch = None
        self._delivering = False
        self._run += 1

    def stats(self) -> LoaderStats:
        """Return what the present epoch, or the last one, delivered, and where its time went."""
        return self._tally.stats()

    def digest(self) -> Digest:
        """Return which positions of which epochs this loader has delivered since it was made, padding left out.

        Of the ranks of a mesh that have the same batches the first says so, and the others' digests are empty.

        Those of all ranks, and of runs that followed one another, add up with `merge`; `plan_digest` says what they should come to.
        """
        ledger = importlib.import_module(".ledger", __package__)
        confirmed = None if self._ticketed is None else self._ticketed.confirmed
        if not self.topology.first_of_its_group:
            confirmed = {}  # another rank has the same batches, and tells of them
        entered = [(epoch, start, tally.batches) for epoch, start, tally in self._entered]
        found: Digest = ledger.Digest(self._fingerprint().to_json(), ledger.positions(self.plan, entered, confirmed))
        return found

    def plan_digest(self, epochs: Iterable[int]) -> Digest:
        """Return what all ranks together deliver in whole epochs."""
        ledger = importlib.import_module(".ledger", __package__)
        found: Digest = ledger.Digest(self._fingerprint().to_json(), {_integer("epoch", epoch): ledger.whole_epoch(self.plan) for epoch in epochs})
        return found

    def confirm(self) -> bool:
        """With `tickets=`: say now, and not with the next batch, that the last one is done with; False when it was given to somebody else, and must not count."""
        return self._ticketed is None or bool(self._ticketed.confirm())

    def close(self) -> None:
        """End persistent workers now rather than when the loader is collected."""
        self._engine.close()

    def _fingerprint(self) -> Fingerprint:
        dataset = self._work.dataset
        return Fingerprint(
            dataset_version=dataset.version, dataset_digest=dataset.digest, rows=len(dataset), epoch_rows=self.plan.rows, ordering=self.ordering
        )

    def _progress(self) -> Progress:
        """Return where training stands: where the epoch was entered and, while it is delivered, what came since."""
        entered, batches = self._standing, self._tally.batches
        if not self._delivering or not batches:
            return entered
        return Progress(entered.epoch, self.plan.consumed(batches - 1, entered.samples), True)

    def _enter(self) -> tuple[int, int]:
        """Return the epoch to iterate and the position to begin at."""
        before = self._progress()
        if self._resuming:
            epoch, start = before.epoch, before.samples
        elif self._next_epoch is not None:
            epoch, start = self._next_epoch, 0
        else:
            epoch, start = before.epoch + before.under_way, 0
        self._resuming = False
        self._next_epoch = None
        self._standing = Progress(epoch=epoch, samples=start, under_way=True)
        self._delivering = True
        self._shown.epoch = epoch
        return epoch, start

    def _batches(self) -> Generator[Batch, None, None]:
        epoch, start = self._enter()
        self._run += 1
        mine = self._run
        tally = self._tally = Tally()
        self._entered.append((epoch, start, tally))
        source = self._engine.epoch(self.plan, epoch, start)
        wrap = self._wrapper()
        clock = time.perf_counter
        began = asked = clock()
        try:
            for batches, rows, times, copied, replaced_workers in source:
                tally.arrived(times, replaced_workers)
                batches.reverse()
                while batches:
                    batch = wrap(batches.pop())
                    now = clock()
                    tally.count(rows, copied, now - asked, now - began)
                    yield batch
                    del batch
                    asked = clock()
        finally:
            source.close()
            if self._run == mine:
                self._standing = self._progress()
                self._delivering = False
        if self._run == mine:
            self._standing = Progress(epoch=epoch + 1)

    def _wrapper(self) -> Callable[[Batch], Batch]:
        """Return what makes a batch of arrays one of what the user asked for."""
        if self.output == "numpy":
            return lambda batch: batch
        pin = self.pin_memory and torch.cuda.is_available()
        if self.pin_memory and not pin:
            warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then device pinned memory won't be used.", stacklevel=4)
        if not pin and not any(output.ragged for output in self._work.outputs.values()):
            from_numpy = torch.from_numpy
            return lambda batch: {name: from_numpy(value) for name, value in batch.items()}
        return lambda batch: {
            name: Ragged(*(_tensor(part, pin) for part in v)) if isinstance(v, Ragged) else _tensor(v, pin) for name, v in batch.items()
        }


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


def _tensor(array: Any, pin: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if pin else tensor


def _place_of(topology: Any, tickets: Any, broadcast: bool) -> Topology:
    if tickets is None:
        return detect(topology)
    if broadcast or topology is not None:
        raise BadRequest("topology= and broadcast= are about batches that are dealt, and tickets= draws them: leave one or the other out")
    return Topology(source="tickets")


def _tail_of(tail: Tail | None, drop_last: bool, world_size: int) -> Tail:
    found: Tail = tail or default_tail(drop_last=drop_last, world_size=world_size)
    if drop_last and found != "drop":
        raise BadRequest(f"drop_last=True and tail={tail!r} contradict each other; leave one of them out")
    return found


def _seed_of(seed: int | None, generator: torch.Generator | None) -> int:
    if seed is not None:
        return _integer("seed", seed)
    return 0 if generator is None else int(generator.initial_seed())


def _integer(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]  # numpy's integers too; anything else raises
    except TypeError:
        raise BadRequest(f"{name}={value!r} is not an integer") from None


def _check(dataset: object, batch_size: object, output: str, **refused: object) -> None:
    """Refuse what the engine cannot do, with the remedy."""
    refused["multiprocessing_context"] = refused.pop("context")
    remedies = {
        "sampler": "use shuffle=, seed= and topology=",
        "batch_sampler": "use batch_size= and tail=",
        "collate_fn": "batches are built in place; use map=Map(fn, batched=True)",
        "multiprocessing_context": "workers are always fresh processes; leave it out",
    }
    if not isinstance(dataset, (Dataset, TokenWindows, Packed, Mixture)):
        raise BadRequest(
            f"dataset is a {type(dataset).__name__}: penstock.DataLoader reads a penstock.Dataset, TokenWindows, Packed or a Mixture; torch.utils.data.DataLoader reads others"
        )
    if type(batch_size) is not int or batch_size < 1:
        raise BadRequest(f"batch_size={batch_size!r}: a batch has one row or more")
    if output not in ("torch", "numpy"):
        raise BadRequest(f"output={output!r} is not 'torch' or 'numpy'")
    for name, value in refused.items():
        if value is not None:
            raise BadRequest(f"{name}={value!r} cannot be used with a penstock.Dataset: {remedies[name]}")


def _check_spread(num_workers: int, prefetch_factor: int | None, pin_memory_device: str) -> None:
    """Refuse how the work is to be spread where torch would not."""
    if num_workers > MAX_WORKERS:
        raise BadRequest(f"num_workers={num_workers}: one loader has at most {MAX_WORKERS}")
    if prefetch_factor is not None and prefetch_factor == 0:
        raise BadRequest(f"prefetch_factor={prefetch_factor}: workers need a batch ahead to work on; use 1 or more, or num_workers=0")
    if pin_memory_device:
        raise BadRequest(f"pin_memory_device={pin_memory_device!r}: only the CUDA device is pinned for; leave it out")
