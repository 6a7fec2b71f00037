"""The tickets of an epoch that a state leaves to do, numbered from 0 without holes. Pure.

Who loads a state knows what was done before: the store is told nothing of it, and counts only what is left. Cost: a few numbers for each stretch that was done, and a
search among those for each ticket.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import final


@final
class Undone:
    """What is left of an epoch. A place is a ticket's number among those that are left."""

    def __init__(self, tickets: int, done: Iterable[tuple[int, int]] = ()) -> None:
        """Note how many tickets the epoch has, and which were done, as first and last of each stretch, in any order."""
        self._tickets = tickets
        self._stretches: list[tuple[int, int]] = []
        """First and behind-last of each stretch that is left."""

        self._places: list[int] = []
        """The place of the first of each."""

        self._left = begin = 0
        for first, last in [*sorted(done), (tickets, tickets)]:
            if begin < first:
                self._stretches.append((begin, first))
                self._places.append(self._left)
                self._left += first - begin
            begin = max(begin, last + 1)

    def __len__(self) -> int:
        """Return how many are left."""
        return self._left

    def ticket(self, place: int) -> int:
        """Return the ticket at a place, from 0 to `len - 1`."""
        stretch = bisect_right(self._places, place) - 1
        return self._stretches[stretch][0] + place - self._places[stretch]

    def done(self, drawn: int, still: Iterable[int]) -> list[list[int]]:
        """Return what is done when the first `drawn` places are, but for those in `still`, as first and last of each stretch."""
        left = [(ticket, ticket + 1) for ticket in map(self.ticket, sorted(place for place in still if place < drawn))]
        if drawn < self._left:
            first = self.ticket(drawn)
            left += [(max(first, begin), end) for begin, end in self._stretches if end > first]
        found, begin = [], 0
        for first, end in [*left, (self._tickets, self._tickets)]:
            if begin < first:
                found.append([begin, first - 1])
            begin = end
        return found
