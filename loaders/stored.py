"""The engine's side of a loader over stored data: the plan, what is to be done, and how far training has come. Knows no torch.

Counts what the consumer received, never what was prefetched; everything that a resume needs follows from that count and the order.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

from ..errors import BadRequest
from ..metrics import LoaderStats
from . import state as states
from .batch import Batch
from .engine import Engine, Onward, Settings
from .engines import make_engine
from .law import Ordering
from .mixture import stream_of
from .options import OwnOptions, TorchOptions, check_stored, integer, seed_of, tail_of
from .plan import Plan
from .state import Fingerprint, Progress
from .tally import Tally
from .topology import Topology, detect
from .ways import Source, sequence_length_of
from .work import Work, plain_work

if TYPE_CHECKING:
    from .ledger import Digest

_LOG = logging.getLogger("penstock")

Wrap = Callable[[Batch], Batch]


@final
class Stored:
    """What a loader over stored data delivers, to whom, and where it stands.

    Attributes:
        ordering: what decides the order beside the dataset.
        place: of this rank among others.
        tail: what becomes of the last batch.
        plan: which positions this rank is given in each step.
        stream: the dataset in its order.
        work: what is to be done to rows.
        engine: what turns the plan into batches.
    """

    def __init__(self, dataset: Source, options: TorchOptions, own: OwnOptions, threads: int, onward: Onward | None = None) -> None:
        """Decide the plan and compile the transforms.

        Raises:
            BadRequest: an argument cannot work, or the transforms do not fit the columns.
        """
        size = check_stored(options, own)
        self.place = _place_of(own)
        self.tail = tail_of(own.tail, options.drop_last, self.place.world_size)
        seed = seed_of(own.seed, options.generator)
        self.ordering = Ordering(seed, bool(options.shuffle), own.window_shards or 0, own.lanes, own.epoch_samples or 0)
        self.stream = stream_of(dataset, self.ordering)
        self.plan = Plan(
            rows=self.stream.positions, batch_size=size, rank=self.place.rank, world_size=self.place.world_size, tail=self.tail, lanes=own.lanes
        )
        self.work = _compiled(dataset, own, self.ordering, self.tail)
        self.tally = Tally()
        self._entered: list[tuple[int, int, Tally]] = []
        self._ticketed: Any = None
        self._resuming = self._delivering = False
        self._next_epoch: int | None = None
        self._run = 0
        self._standing = Progress()
        self._settings = Settings(
            num_workers=options.num_workers,
            prefetch_factor=options.prefetch_factor or 2,
            persistent=options.persistent_workers,
            timeout_s=options.timeout,
            init=options.worker_init_fn,
            threads=threads,
        )
        if onward is None:
            self.engine = self._made_engine(own)
        else:
            self._settings = self._settings._replace(held=onward.held, pin=onward.pin)
            self.engine = onward.around(self._made_engine(own))

    def _made_engine(self, own: OwnOptions) -> Engine:
        """Return what turns the plan into batches; what few loaders need is imported for those."""
        engine = make_engine(self.work, self._settings)
        place = self.place
        if self.plan.world_size > 1 and self.ordering.lanes > self.plan.global_batch:
            _LOG.warning(
                "penstock: a global batch of %d has no position of each of %d lanes, so ranks read from all of them; fewer lanes would keep them apart",
                self.plan.global_batch,
                self.ordering.lanes,
            )
        if own.tickets is not None:
            drawing = importlib.import_module(".tickets", __package__)
            drawn = own.tickets if isinstance(own.tickets, drawing.Tickets) else drawing.Tickets(own.tickets)
            made: Engine = drawing.TicketEngine(engine, drawn, self.fingerprint().to_json())
            self._ticketed = made
            return made
        if not own.broadcast and place.context_size == 1:
            return engine
        shared = importlib.import_module(".shared", __package__)
        if own.broadcast:
            channels = importlib.import_module(".broadcast", __package__)
            engine = shared.ReceivingEngine(engine, channels.MeshChannel(place.mesh, place.same, self.work.outputs))
        if place.context_size > 1:
            columns = shared.check_parts(self.work.outputs, own.sequence, sequence_length_of(self.work.dataset), place.context_size)
            engine = shared.PartEngine(engine, columns, place.context_rank, place.context_size)
        return engine

    def set_epoch(self, epoch: int) -> bool:
        """Make `epoch` the one that is entered next, and return True; False where a loaded state stands in that epoch, and keeps its place.

        Raises:
            BadRequest: it is negative, or no integer.
        """
        epoch = integer("epoch", epoch)
        if epoch < 0:
            raise BadRequest(f"epoch {epoch}: epochs count from 0")
        states.check_epoch(epoch, self.plan.rows)
        if self._resuming and epoch == self._standing.epoch:
            return False
        self._resuming = False
        self._next_epoch = epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands."""
        waiting = self._next_epoch is not None and not self._delivering
        progress = Progress(epoch=self._next_epoch or 0) if waiting else self._progress()
        saved = states.save(self.fingerprint(), progress)
        return saved if self._ticketed is None else {**saved, **self._ticketed.saved(self.plan, progress.epoch)}

    def state_at(self, epoch: int, step: int) -> dict[str, Any]:
        """Return the state of a run that stands behind `step` batches of `epoch`.

        Raises:
            BadRequest: an epoch has no such step, or batches are drawn.
        """
        epoch, step = integer("epoch", epoch), integer("step", step)
        if self._ticketed is not None:
            raise BadRequest("state_at(): with tickets= the batches of an epoch are done in any order; keep state_dict()")
        if epoch < 0 or not 0 <= step <= self.plan.steps():
            raise BadRequest(
                f"state_at(epoch={epoch}, step={step}): epochs count from 0, and one has {self.plan.steps()} steps of batch_size={self.plan.batch_size}"
            )
        states.check_epoch(epoch, self.plan.rows)
        return states.save(self.fingerprint(), Progress(epoch, self.plan.consumed(step - 1), under_way=step > 0))

    def load_state_dict(self, state_dict: Mapping[str, Any], accept: Collection[str]) -> None:
        """Go on where a state was saved; parts of the plan that are accepted may differ.

        Raises:
            BadRequest: the state belongs to another dataset version, seed or order.
        """
        standing = states.load(state_dict, self.fingerprint(), accept)
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
        return self.tally.stats()

    def digest(self) -> Digest:
        """Return which positions of which epochs were delivered; of ranks that have the same batches the first says so."""
        ledger = importlib.import_module(".ledger", __package__)
        confirmed = None if self._ticketed is None else self._ticketed.confirmed
        if not self.place.first_of_its_group:
            confirmed = {}  # another rank has the same batches, and tells of them
        entered = [(epoch, start, tally.batches) for epoch, start, tally in self._entered]
        found: Digest = ledger.Digest(self.fingerprint().to_json(), ledger.positions(self.plan, entered, confirmed))
        return found

    def plan_digest(self, epochs: Iterable[int]) -> Digest:
        """Return what all ranks together deliver in whole epochs."""
        ledger = importlib.import_module(".ledger", __package__)
        found: Digest = ledger.Digest(self.fingerprint().to_json(), {integer("epoch", epoch): ledger.whole_epoch(self.plan) for epoch in epochs})
        return found

    def identities(self, epoch: int, start: int) -> Iterator[tuple[Any, Any]]:
        """Yield the keys and samples of the rows of each batch of an epoch entered at position `start`."""
        told = importlib.import_module(".identities", __package__).identities
        stream = stream_of(self.work.dataset, self.ordering)  # its own: a stream keeps what was drawn last
        found: Iterator[tuple[Any, Any]] = told(stream, self.plan, self.ordering.seed, epoch, start)
        return found

    def confirm(self) -> bool:
        """Say that the last drawn batch is done with; False when it was given to somebody else."""
        return self._ticketed is None or bool(self._ticketed.confirm())

    def fingerprint(self) -> Fingerprint:
        """Return everything that decides the order of samples."""
        dataset = self.work.dataset
        return Fingerprint(
            dataset_version=dataset.version, dataset_digest=dataset.digest, rows=len(dataset), epoch_rows=self.plan.rows, ordering=self.ordering
        )

    def _progress(self) -> Progress:
        """Return where training stands: where the epoch was entered and, while it is delivered, what came since."""
        entered, batches = self._standing, self.tally.batches
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
        return epoch, start

    def batches(self, wrapper: Callable[[int, int], Wrap], entered: Callable[[int], None]) -> Generator[Batch, None, None]:
        """Yield the batches of the next epoch, or of the rest of the one that a loaded state stands in.

        Args:
            wrapper: given the epoch and the position at which it is entered, returns what makes a batch of arrays one of what the user asked for.
            entered: hears which epoch it is.
        """
        epoch, start = self._enter()
        entered(epoch)
        self._run += 1
        mine = self._run
        tally = self.tally = Tally()
        self._entered.append((epoch, start, tally))
        source = self.engine.epoch(self.plan, epoch, start)
        wrap = wrapper(epoch, start)
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


def _place_of(own: OwnOptions) -> Topology:
    if own.tickets is None:
        return detect(own.topology)
    if own.broadcast or own.topology is not None:
        raise BadRequest("topology= and broadcast= are about batches that are dealt, and tickets= draws them: leave one or the other out")
    return Topology(source="tickets")


def _compiled(dataset: Source, own: OwnOptions, ordering: Ordering, tail: Any) -> Work:
    """Return what is to be done; without transforms that needs nothing that decodes images, so it is imported for those that have some."""
    transforms = {} if own.transforms is None else own.transforms
    if own.map is None and transforms == {}:
        return plain_work(dataset, ordering=ordering, tail=tail)
    compiler = importlib.import_module(".compile", __package__)
    made: Work = compiler.compile_work(dataset, transforms, own.map, ordering=ordering, tail=tail)
    return made
