"""The protocol: records survive the trip, and a slot lives by the table only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import WorkerFailed
from penstock.loaders import protocol
from penstock.loaders.plan import Run
from penstock.loaders.protocol import Answer, Event, Kind, Slot, SlotTable, Task
from penstock.metrics import WorkTimes

NUMBERS = st.integers(0, 2**62)


RUNS = st.builds(Run, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(st.builds(Task, ticket=NUMBERS, epoch=NUMBERS, run=RUNS, slot=NUMBERS, row_start=NUMBERS, ring=NUMBERS))
def test_tasks_survive_the_trip(task: Task) -> None:
    """A packed task is a fixed-size record that unpacks to itself."""
    record = protocol.pack_task(task)
    assert len(record) == protocol.TASK_BYTES
    assert protocol.unpack_task(record) == task


TIMES = st.builds(WorkTimes, read_ns=NUMBERS, decode_ns=NUMBERS, transform_ns=NUMBERS, copy_ns=st.just(0))  # copies are a device's, not a worker's


@given(kind=st.sampled_from(Kind), ticket=st.integers(-1, 2**62), times=TIMES)
def test_answers_survive_the_trip(kind: Kind, ticket: int, times: WorkTimes) -> None:
    """A packed answer unpacks to itself, with and without detail."""
    for detail in (None, {"text": "ünï", "n": 3}):
        answer = Answer(kind=kind, ticket=ticket, times=times, detail=detail)
        assert protocol.unpack_answer(protocol.pack_answer(answer)) == answer


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_a_slot_moves_by_the_table_only(events: list[Event]) -> None:
    """Any sequence of events either follows the table or is refused, leaving the state as it was."""
    table = SlotTable(1)
    state = Slot.FREE
    for event in events:
        after = protocol.NEXT[state].get(event)
        if after is None:
            with pytest.raises(WorkerFailed, match=f"slot 0 is {state.value}"):
                table.move(0, event)
        else:
            table.move(0, event)
            state = after
        assert table.count(state) == 1


def test_every_state_leads_back_to_free() -> None:
    """From each state some sequence of events frees the slot: none is a dead end."""
    for state in Slot:
        seen = {state}
        while True:
            more = {after for one in seen for after in protocol.NEXT[one].values()} | seen
            if more == seen:
                break
            seen = more
        assert Slot.FREE in seen


def test_first_free_is_none_when_all_are_taken() -> None:
    """A full table has no free slot, and says so with None."""
    table = SlotTable(2)
    table.move(0, Event.LEASE)
    assert table.first_free() == 1
    table.move(1, Event.LEASE)
    assert table.first_free() is None
