"""What parent and workers say to each other, and the life of a slot. No I/O: bytes in, values out.

A worker is told a task and answers with a result; both are fixed-size records, an error carries text behind it. Tasks name positions, not
rows: a worker computes the order itself, so a message costs the same for any batch.
"""

from __future__ import annotations

import enum
import json
import struct
from typing import Any, NamedTuple

from ..errors import WorkerFailed
from ..metrics import NO_TIME, WorkTimes
from .plan import Run


class Slot(enum.Enum):
    """The states of a slot."""

    FREE = "free"
    FILLING = "filling"
    READY = "ready"
    HELD = "held"


class Event(enum.Enum):
    """What happens to a slot."""

    LEASE = "lease"
    PUBLISH = "publish"
    TAKE = "take"
    RELEASE = "release"
    ABANDON = "abandon"


# Every change in a slot's life is in this table. Other files look it up; none adds to it.
NEXT: dict[Slot, dict[Event, Slot]] = {
    Slot.FREE: {Event.LEASE: Slot.FILLING},
    Slot.FILLING: {Event.PUBLISH: Slot.READY, Event.ABANDON: Slot.FREE},
    Slot.READY: {Event.TAKE: Slot.HELD, Event.ABANDON: Slot.FREE},
    Slot.HELD: {Event.RELEASE: Slot.FREE},
}


class SlotTable:
    """The state of every slot of a ring; only the parent has one."""

    def __init__(self, slots: int) -> None:
        """Begin with every slot free."""
        self._states = [Slot.FREE] * slots

    def move(self, slot: int, event: Event) -> None:
        """Apply `event` to `slot`; a change that is not in the table is a fault of ours, named."""
        after = NEXT[self._states[slot]].get(event)
        if after is None:
            raise WorkerFailed(f"slot {slot} is {self._states[slot].value} and cannot {event.value}: please report this", stage="ring")
        self._states[slot] = after

    def first_free(self) -> int | None:
        """Return a free slot, or None."""
        return next((number for number, state in enumerate(self._states) if state is Slot.FREE), None)

    def count(self, state: Slot) -> int:
        """Return how many slots are in `state`."""
        return self._states.count(state)


class Task(NamedTuple):
    """Fill rows of a slot, from `row_start` on, with the samples at the positions of a run of an epoch.

    Attributes:
        ticket: number of the task, unique in its pool.
        epoch: whose order and augmentation.
        run: the positions.
        slot: slot to fill.
        row_start: row of the slot at which to begin.
        ring: generation of the ring the slot is in.
    """

    ticket: int
    epoch: int
    run: Run
    slot: int
    row_start: int
    ring: int


_TASK = struct.Struct("<11q")
_RESULT = struct.Struct("<cq3q")


def pack_task(task: Task) -> bytes:
    """Return the record of a task."""
    return _TASK.pack(task.ticket, task.epoch, *task.run, task.slot, task.row_start, task.ring)


def unpack_task(record: bytes) -> Task:
    """Return the task of a record."""
    ticket, epoch, *run, slot, row_start, ring = _TASK.unpack(record)
    return Task(ticket=ticket, epoch=epoch, run=Run(*run), slot=slot, row_start=row_start, ring=ring)


TASK_BYTES = _TASK.size
"""Bytes of a task's record; the only other messages are the end (no bytes) and a ring (with a descriptor)."""


class Kind(enum.Enum):
    """What an answer says."""

    READY = b"R"
    DONE = b"D"
    TOO_SMALL = b"S"
    ERROR = b"E"


class Answer(NamedTuple):
    """A worker's message to the parent.

    Attributes:
        kind: ready to work, task done, the ragged budget was too small, or an error.
        ticket: the task it answers; -1 when it answers none.
        times: where the task's time went.
        detail: for `TOO_SMALL` the bytes a row needs, by column; for `ERROR` what `faults.describe` returned.
    """

    kind: Kind
    ticket: int = -1
    times: WorkTimes = NO_TIME
    detail: dict[str, Any] | None = None


def pack_answer(answer: Answer) -> bytes:
    """Return the record of an answer, the detail behind it as JSON."""
    times = answer.times
    head = _RESULT.pack(answer.kind.value, answer.ticket, times.read_ns, times.decode_ns, times.transform_ns)
    return head + (b"" if answer.detail is None else json.dumps(answer.detail).encode())


def unpack_answer(record: bytes) -> Answer:
    """Return the answer of a record."""
    kind, ticket, read_ns, decode_ns, transform_ns = _RESULT.unpack_from(record)
    rest = record[_RESULT.size :]
    times = WorkTimes(read_ns=read_ns, decode_ns=decode_ns, transform_ns=transform_ns)
    return Answer(kind=Kind(kind), ticket=ticket, times=times, detail=json.loads(rest) if rest else None)
