"""An epoch through worker processes: hands out tasks ahead of the consumer, puts batches together in order, and gives them without a copy.

Ahead of the consumer there are up to `window` slots in work or ready: of costly rows two, of large batches one for each worker, as long as the consumer
waits for every batch (a longer lead would take memory and bring nothing), more once it finds them ready. A batch is cut into chunks when its rows are costly, so that the first one is early
and a slow row holds up no others; small cheap batches share a slot, and are one task. They go to the consumer in the slot where they were written;
when the consumer keeps more slots than the ring can spare, further ones are copied out, so that `list(loader)` works and nothing ever waits for the
consumer to let go.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import BadRequest, PenstockError
from ..metrics import NO_TIME, WorkTimes
from .batch import copied, from_slot, parted
from .engine import Delivered, Pin, RunSource
from .faults import describe, rebuild
from .fill import Filler
from .inline import OwnArrays, fill_run
from .plan import Plan, Run
from .pool import Pool, RingPlan
from .protocol import Answer, Event, Kind, Slot, SlotTable, Task
from .ring import MAX_WORKERS, Ring, lease
from .slots import Layout, Output, chunks, layout
from .slotsink import BudgetTooSmall, SlotSink

_FOUND_READY = 4
"""Batches one after the other that the consumer must find ready before the lead grows by one; a single one is the luck of an uneven batch."""


class _Todo(NamedTuple):
    """An epoch under way: its number, and the batches of each slot in order."""

    epoch: int
    runs: RunSource


@dataclass
class _Building:
    """A slot in work."""

    slot: int
    run: Run
    cuts: list[tuple[int, int]]
    left: set[int]
    times: WorkTimes = NO_TIME
    error: PenstockError | None = None


class Shape(NamedTuple):
    """How batches are laid out and cut.

    Attributes:
        outputs: what a batch holds, in order.
        rows: rows of a full batch.
        together: batches in one slot, at most: several when they are small and cheap.
        budgets: bytes a row of each ragged column may need, to begin with.
        window: slots in work or ready ahead of the consumer.
        least: of those, as long as the consumer waits for every batch.
        parts: chunks that a slot's rows are cut into at most, once a worker is ready; before, they are cut as small as they may be.
        smallest: rows of the smallest chunk.
        held: slots the consumer may hold before batches are copied out of the ring.
    """

    outputs: dict[str, Output]
    rows: int
    together: int
    budgets: dict[str, int]
    window: int
    least: int
    parts: int
    smallest: int
    held: int = 2


class Lead:
    """How many batches are in work or ready ahead of the consumer. Pure."""

    def __init__(self, most: int, least: int) -> None:
        """Begin with the least."""
        self._most, self._least, self._found = most, min(least, most), 0
        self.batches = self._least

    def note(self, *, ready: bool) -> None:
        """Note whether the consumer found its batch ready."""
        self._found = self._found + 1 if ready else 0
        if not ready:
            self.batches = self._least
        elif self._found % _FOUND_READY == 0:
            self.batches = min(self.batches + 1, self._most)


class PooledEpochs:
    """Epochs through one pool; the pool's owner closes it. One epoch runs at a time: beginning one ends the one before."""

    def __init__(self, pool: Pool, shape: Shape, filler: Filler, *, helps: bool, pin: Pin | None = None) -> None:
        """Make the ring, which `pin` pins, and start the workers; when it `helps`, this process works too as long as no worker has started."""
        self._pool = pool
        self._filler = filler
        self._helps = helps
        self._pin = pin
        self._shape = shape
        self._budgets = dict(shape.budgets)
        self._ticket = 0
        self._run = 0
        self._building: dict[int, _Building] = {}
        self._owners: dict[int, _Building] = {}
        self._generation = 0
        self._lead = Lead(shape.window, shape.least)
        self._next: tuple[_Todo, int] | None = None
        self._make_ring()

    def _make_ring(self) -> None:
        slots = self._shape.window + self._shape.held
        self._layout: Layout = layout(self._shape.outputs, self._shape.rows * self._shape.together, self._budgets)
        self._ring = Ring(slot_bytes=self._layout.bytes, slots=slots)
        if self._pin is not None:
            self._ring.pin(self._pin)
        self._table = SlotTable(slots)
        self._released: deque[int] = deque()
        # a copy of the budgets: those grow while this ring is in use, and a worker that is replaced must lay it out as the others do
        plan = RingPlan(rows=self._shape.rows * self._shape.together, budgets=dict(self._budgets), slots=slots, generation=self._generation)
        try:
            self._pool.use(self._ring, plan)
        except BaseException:  # Ctrl-C too: the descriptor has no other owner yet
            self._ring.close()
            raise

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Iterator[Delivered]:
        """Yield this rank's batches of `epoch` from position `start`, in order; the pool's owner counts replaced workers.

        Raises:
            PenstockError: what a worker met; raised in place of the batch it was met in.
        """
        self._run += 1
        mine = self._run
        self._settle()
        todo = _Todo(epoch=epoch, runs=runs or plan.runs(start, self._shape.together))
        number = -1
        try:
            while todo.runs.get(number := number + 1, wait=True) is not None:
                self._issue(todo, number)
                self._next = (todo, number + 1)
                if self._building[number].left and self._absorb(self._pool.poll()):  # what came while the consumer was busy counts as found ready
                    self._regrow(todo)
                made = self._building[number]
                self._lead.note(ready=not made.left)
                deadline = self._deadline()
                while made.left:
                    if self._absorb(self._pool.poll() or self._help() or self._pool.wait(deadline)):
                        self._regrow(todo)
                        made = self._building[number]
                del self._building[number]
                if made.error is not None:
                    self._table.move(made.slot, Event.ABANDON)
                    yield from self._one_by_one(todo.epoch, made, mine)
                    continue
                delivered = self._deliver(made)
                if (
                    self._shape.parts == 1 or self._lead.batches > self._shape.least
                ):  # else the next one is in work, and what is dropped now has room for another
                    self._issue(todo, number + 1)
                yield delivered
                self._check_turn(mine)
        finally:
            if self._run == mine and self._pool.mine:
                self._ring.cancelled = self._ticket

    def ready(self) -> bool:
        """Return whether the batch behind the one that was delivered last is finished; hears what workers answered."""
        if self._next is None or (made := self._building.get(self._next[1])) is None:
            return False
        if made.left and self._absorb(self._pool.poll()):
            self._regrow(self._next[0])
        return not self._building[self._next[1]].left

    def _deadline(self) -> float | None:
        """Return until when the consumer waits, on the monotonic clock, if it set a limit."""
        return time.monotonic() + self._pool.timeout_s if self._pool.timeout_s else None

    def _check_turn(self, mine: int) -> None:
        if self._run != mine:
            raise BadRequest(f"iteration {mine} over this loader ended when iteration {self._run} began: persistent workers serve one at a time")

    def _help(self) -> list[Answer]:
        """Do a task in this process if no worker has started yet: the first batch need not wait for them. Return the answer, if any."""
        task = self._pool.take_back() if self._helps and not self._pool.ready else None
        if task is None:
            return []
        try:
            times = self._filler.fill(task.epoch, task.run.positions(), SlotSink(self._ring, self._layout, task, MAX_WORKERS))
        except BudgetTooSmall as small:
            return [Answer(kind=Kind.TOO_SMALL, ticket=task.ticket, detail=small.needs)]
        except Exception as error:  # noqa: BLE001  (as in a worker: it is raised in place of its batch)
            return [Answer(kind=Kind.ERROR, ticket=task.ticket, detail=describe(error, self._ring.stage(MAX_WORKERS).name.lower()))]
        return [Answer(kind=Kind.DONE, ticket=task.ticket, times=times)]

    def _settle(self) -> None:
        """End what an earlier epoch left unfinished: workers pass over its tasks, and its slots become free."""
        self._ring.cancelled = self._ticket
        while self._pool.take_back() is not None:
            pass
        deadline = self._deadline()
        while self._pool.outstanding:
            self._absorb(self._pool.wait(deadline))
        for batch in self._building.values():
            self._table.move(batch.slot, Event.ABANDON)
        self._building.clear()
        self._owners.clear()
        self._next = None

    def _issue(self, todo: _Todo, number: int) -> None:
        """Hand out the runs of the window that begins at `number`, as far as there are free slots."""
        self._free_released()
        for ahead in range(number, number + self._lead.batches):
            if ahead not in self._building:
                slot = self._table.first_free()
                run = None if slot is None else todo.runs.get(ahead, wait=False)
                if slot is None or run is None:
                    return
                self._begin(todo, ahead, run, slot)

    def _free_released(self) -> None:
        while self._released:
            self._table.move(self._released.popleft(), Event.RELEASE)

    def _begin(self, todo: _Todo, number: int, run: Run, slot: int) -> None:
        self._table.move(slot, Event.LEASE)
        parts = self._shape.parts if self._pool.ready or self._shape.parts == 1 else run.rows
        cuts = chunks(run.rows, parts, self._shape.smallest) if run.batches == 1 else [(0, run.rows)]
        made = self._building[number] = _Building(slot=slot, run=run, cuts=cuts, left=set())
        for first, last in cuts:
            self._ticket += 1
            made.left.add(self._ticket)
            self._owners[self._ticket] = made
            part = run if run.batches > 1 else run.part(first, last)
            self._pool.submit(Task(ticket=self._ticket, epoch=todo.epoch, run=part, slot=slot, row_start=first, ring=self._generation))

    def _absorb(self, answers: list[Answer]) -> bool:
        """Note what workers answered; return whether the ring's budgets were too small."""
        small = False
        for answer in answers:
            batch = self._owners.pop(answer.ticket)
            batch.left.discard(answer.ticket)
            batch.times = batch.times.merge(answer.times)
            if answer.kind is Kind.ERROR:
                batch.error = rebuild(answer.detail or {})
            elif answer.kind is Kind.TOO_SMALL:
                small = True
                for name, need_bytes in (answer.detail or {}).items():
                    self._budgets[name] = max(self._budgets[name], need_bytes + need_bytes // 4)
            if not batch.left and batch.error is None:
                self._table.move(batch.slot, Event.PUBLISH)
        return small

    def _regrow(self, todo: _Todo) -> None:
        """Go on in a ring with larger budgets; batches that the consumer holds keep the old one's memory."""
        left = sorted((number, made.run) for number, made in self._building.items())
        self._ring.cancelled = self._ticket
        self._pool.forget_tasks()
        self._building.clear()
        self._owners.clear()
        old = self._ring
        self._generation += 1
        try:
            self._make_ring()
        finally:
            if old is not self._ring:
                old.close()
        for slot, (number, run) in enumerate(left):
            self._begin(todo, number, run, slot)

    def _deliver(self, made: _Building) -> Delivered:
        self._table.move(made.slot, Event.TAKE)
        memory = self._ring.view(made.slot)
        keep = self._table.count(Slot.HELD) <= self._shape.held
        arrays = from_slot(lease(memory, made.slot, self._released) if keep else memory, self._layout, made.run.rows, made.cuts)
        if not keep:
            arrays = copied(arrays)
            self._table.move(made.slot, Event.RELEASE)
        return Delivered(parted(arrays, made.run), made.run.size, made.times, copied=not keep)

    def _one_by_one(self, epoch: int, made: _Building, mine: int) -> Iterator[Delivered]:
        """Fill the batches of a run that failed again, one by one, so that an error is raised in place of the batch that it belongs to."""
        assert made.error is not None
        if made.run.batches == 1:
            raise made.error
        for one in made.run.each():
            batches, times = fill_run(self._filler, OwnArrays(self._shape.outputs, one.rows), epoch, one)
            yield Delivered(batches, one.size, times, copied=True)
            self._check_turn(mine)

    def close(self) -> None:
        """Close the ring; batches that the consumer holds stay valid."""
        self._ring.close()
