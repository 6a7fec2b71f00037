"""The tickets that a state leaves to do: places without holes, and what is done as stretches, held against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.loaders.undone import Undone


def stretches(numbers: set[int]) -> list[list[int]]:
    """Return the first and last of each run of numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


@given(st.data())
def test_places_and_stretches_equal_those_of_sets(data: st.DataObject) -> None:
    """Whatever was done before, in whatever order it is told: places are the rest in order, and what was done since and before comes out as stretches."""
    tickets = data.draw(st.integers(0, 60))
    numbers = st.integers(0, max(tickets - 1, 0))
    before = [(min(pair), max(pair)) for pair in data.draw(st.lists(st.tuples(numbers, numbers), max_size=5 if tickets else 0))]
    done = {number for first, last in before for number in range(first, last + 1)}
    undone = Undone(tickets, before)
    left = [number for number in range(tickets) if number not in done]
    assert [undone.ticket(place) for place in range(len(undone))] == left
    drawn = data.draw(st.integers(0, len(left)))
    still = data.draw(st.sets(st.integers(0, max(len(left) - 1, 0))))
    since = {left[place] for place in range(drawn) if place not in still}
    assert undone.done(drawn, still) == stretches(done | since)


def test_an_epoch_of_many_tickets_costs_nothing() -> None:
    """A billion tickets with a hole are a few numbers."""
    undone = Undone(10**9, [(0, 5), (7, 10**9 - 3)])
    assert [undone.ticket(place) for place in range(3)] == [6, 10**9 - 2, 10**9 - 1]
    assert undone.done(2, [0]) == [[0, 5], [7, 10**9 - 2]]
