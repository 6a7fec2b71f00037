"""What was delivered, as a value that ranks can add up: positions of epochs, kept as a few arithmetic progressions. Pure.

A rank's batches of an epoch are one progression: so many positions, again and again at the same distance. Those of all ranks together close the gaps, and
what is left open or covered twice has a name. Nothing is hashed and nothing estimated: a digest that covers [0, n) once says that each of those
positions was delivered once, by somebody; and since it carries what decides the order, the rows follow.

Cost: nothing while training; four numbers each time that an epoch is entered, and for drawn batches (`tickets`) as many for each stretch of them that one
consumer confirmed. Comparing takes memory for as many stretches as are left when progressions that lie side by side were joined: usually one an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest
from .plan import Plan

FORMAT = 1
"""The version of a digest in JSON."""

_MOST_STRETCHES = 2**22
"""Stretches of an epoch that are compared, on each side: 900 MB while that is done. A digest from another process may claim any number of them."""

_MOST_NAMED = 5
"""Stretches of positions that a difference names."""

Longs = npt.NDArray[np.int64]


class Progression(NamedTuple):
    """Positions [start + i * stride, start + i * stride + size) for i in [0, times).

    Attributes:
        start: the first position.
        size: positions that follow one another.
        stride: from the beginning of one run of them to the next.
        times: how many runs.
    """

    start: int
    size: int
    stride: int
    times: int

    @property
    def positions(self) -> int:
        """How many positions there are."""
        return self.size * self.times


def delivered(plan: Plan, start: int, batches: int) -> tuple[Progression, ...]:
    """Return the positions of a rank's first `batches` of an epoch that was entered at `start`; padding is left out.

    With lanes, positions of a global batch are numbered in the order in which they are dealt to ranks: all ranks' together are the same.
    """
    whole = min(batches, max(plan.rows - start, 0) // plan.global_batch)
    found = []
    if whole:
        one = plan.batch(0, start)
        found.append(Progression(one.start, one.size, plan.global_batch, whole))
    if batches > whole:
        short = plan.batch(whole, start)
        size = max(min(short.stop, plan.rows) - short.start, 0)
        found.append(Progression(short.start, size, size, 1))
    return tuple(found)


def positions(plan: Plan, entered: Iterable[tuple[int, int, int]], confirmed: Mapping[int, Iterable[int]] | None) -> dict[int, list[Progression]]:
    """Return what a loader has delivered of each epoch.

    Args:
        plan: the loader's.
        entered: for each time that an epoch was entered: its number, the position, and how many batches were delivered.
        confirmed: the tickets of each epoch that were confirmed, when batches are drawn.
    """
    epochs: dict[int, list[Progression]] = {}
    if confirmed is not None:
        for epoch, tickets in confirmed.items():
            epochs[epoch] = [Progression(run.start, run.size, run.size, 1) for run in map(plan.batch, tickets)]
        return epochs
    for epoch, start, batches in entered:
        epochs.setdefault(epoch, []).extend(delivered(plan, start, batches))
    return epochs


def whole_epoch(plan: Plan) -> tuple[Progression, ...]:
    """Return the positions that all ranks together are given in an epoch that is entered at its beginning."""
    rows = plan.rows // plan.global_batch * plan.global_batch if plan.tail == "drop" else plan.rows
    return (Progression(0, rows, rows, 1),)


def joined(progressions: Iterable[Progression]) -> tuple[Progression, ...]:
    """Return the same positions in as few progressions as is easily seen: those that lie side by side, and those that follow one another, are joined."""
    left = sorted(_closed(one) for one in progressions if one.positions)
    while True:
        merged: list[Progression] = []
        for one in left:
            before = merged[-1] if merged else None
            together = None if before is None else _side_by_side(before, one)
            if together is None:
                merged.append(one)
            else:
                merged[-1] = together
        if len(merged) == len(left):
            return tuple(merged)
        left = sorted(merged)


def _closed(one: Progression) -> Progression:
    """Return a progression without gaps as one run."""
    if one.times == 1 or one.size == one.stride:
        return Progression(one.start, one.positions, one.positions, 1)
    return one


def _side_by_side(one: Progression, two: Progression) -> Progression | None:
    """Return both as one, when the second begins where the first's runs end."""
    if two.start != one.start + one.size:
        return None
    if one.times == two.times == 1:
        return Progression(one.start, one.size + two.size, one.size + two.size, 1)
    if (one.stride, one.times) == (two.stride, two.times) and one.size + two.size <= one.stride:
        return _closed(Progression(one.start, one.size + two.size, one.stride, one.times))
    return None


def covered(progressions: Sequence[Progression]) -> tuple[Longs, Longs]:
    """Return where coverage changes, ascending, and how often the positions from there on are covered.

    Raises:
        BadRequest: there are too many stretches.
    """
    if (many := sum(one.times for one in progressions)) > _MOST_STRETCHES:
        raise BadRequest(f"{many} are too many stretches to compare: merge the digests of all ranks first, which closes the gaps between them")
    begins = [np.arange(one.times, dtype=np.int64) * one.stride + one.start for one in progressions]
    ends = [begin + one.size for begin, one in zip(begins, progressions, strict=True)]
    places = np.concatenate([np.empty(0, np.int64), *begins, *ends])
    change = np.repeat(np.array([1, -1], np.int8), [sum(map(len, begins)), sum(map(len, ends))])
    by_place = np.argsort(places, kind="stable")
    places, depth = places[by_place], np.cumsum(change[by_place], dtype=np.int64)
    last = np.append(places[1:] != places[:-1], True) if places.size else np.empty(0, bool)
    return places[last], depth[last]


@final
class Digest:
    """Positions delivered, by epoch, under one plan. Digests of ranks, and of runs that follow one another, add up with `merge`.

    Attributes:
        plan: the names and values that decide the order.
        epochs: the progressions of each epoch, joined.
    """

    def __init__(self, plan: Mapping[str, Any], epochs: Mapping[int, Iterable[Progression]]) -> None:
        """Join what lies side by side."""
        self.plan = dict(plan)
        made = {epoch: joined(progressions) for epoch, progressions in sorted(epochs.items())}
        self.epochs = {epoch: progressions for epoch, progressions in made.items() if progressions}

    def __eq__(self, other: object) -> bool:
        """Return whether both cover the same positions equally often, under one plan.

        Raises:
            BadRequest: one has too many stretches to compare, as a digest from elsewhere may claim; see `differences`.
        """
        return isinstance(other, Digest) and not self.differences(other)

    __hash__ = None  # type: ignore[assignment]  # two spellings of one coverage are equal

    def __repr__(self) -> str:
        """Return how much was delivered of each epoch."""
        return "Digest(" + ", ".join(f"epoch {epoch}: {self.samples(epoch):,} samples" for epoch in self.epochs) + ")"

    def samples(self, epoch: int) -> int:
        """Return how many positions of an epoch were delivered, repeated ones included."""
        return sum(one.positions for one in self.epochs.get(epoch, ()))

    def merge(self, *others: Digest) -> Digest:
        """Return the sum of this one and others.

        Raises:
            BadRequest: one was made under another plan; the differences are named.
        """
        epochs = {epoch: list(progressions) for epoch, progressions in self.epochs.items()}
        for other in others:
            if unlike := _unlike(self.plan, other.plan):
                raise BadRequest(f"digests of different plans do not add up: {'; '.join(unlike)}")
            for epoch, progressions in other.epochs.items():
                epochs.setdefault(epoch, []).extend(progressions)
        return Digest(self.plan, epochs)

    def differences(self, expected: Digest) -> list[str]:
        """Return, in words, what was delivered too often and what is missing, against what was expected; nothing when they are equal.

        Raises:
            BadRequest: an epoch has more than 2**22 stretches on one side, as a digest from elsewhere may claim, or a rank's own before it is merged with
                the others'.
        """
        found = _unlike(self.plan, expected.plan)
        for epoch in sorted({*self.epochs, *expected.epochs}):
            found += _gaps(epoch, self.epochs.get(epoch, ()), expected.epochs.get(epoch, ()))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {"penstock_digest": FORMAT, "plan": self.plan, "epochs": [[epoch, [list(one) for one in many]] for epoch, many in self.epochs.items()]}

    @staticmethod
    def from_json(told: object) -> Digest:
        """Return the digest that `to_json` gave.

        Raises:
            BadRequest: it is none.
        """
        if not isinstance(told, Mapping) or told.get("penstock_digest") != FORMAT or not isinstance(told.get("plan"), Mapping):
            raise BadRequest(f"not a digest of penstock.DataLoader in format {FORMAT}: {str(told)[:200]}")
        try:
            epochs: dict[int, list[Progression]] = {}
            for epoch, many in told["epochs"]:
                epochs.setdefault(_count(epoch), []).extend(_read(one) for one in many)
        except (TypeError, ValueError, KeyError):
            raise BadRequest(f"a digest whose epochs are no lists of (start, size, stride, times): {str(told.get('epochs'))[:200]}") from None
        return Digest(told["plan"], epochs)


def _read(numbers: Sequence[object]) -> Progression:
    one = Progression(*map(_count, numbers))
    if one.start + max(one.times - 1, 0) * one.stride + one.size > 2**62:
        raise ValueError(one)
    return one


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(value)
    return value


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [f"{name} is {one.get(name)!r} here and {other.get(name)!r} there" for name in {**one, **other} if one.get(name) != other.get(name)]


def _gaps(epoch: int, have: Sequence[Progression], expected: Sequence[Progression]) -> list[str]:
    """Return what differs between two coverages of an epoch, in words."""
    if have == expected:
        return []
    (places, depth), (others, wanted) = covered(have), covered(expected)
    both = np.sort(np.concatenate([places, others]), kind="stable")  # two runs to merge, which `np.union1d` hashes one by one
    edges = both[np.append(both[1:] != both[:-1], True)] if both.size else both
    more = _depth_at(edges, places, depth) - _depth_at(edges, others, wanted)
    found = []
    for word, wrong in (("missing", more < 0), ("delivered too often", more > 0)):
        stretches = np.flatnonzero(wrong[:-1])
        if stretches.size:
            first, last = edges[stretches], edges[stretches + 1]
            named = [f"{one} to {other - 1}" for one, other in zip(first[:_MOST_NAMED].tolist(), last[:_MOST_NAMED].tolist(), strict=True)]
            rest = f" and {stretches.size - _MOST_NAMED} more stretches" if stretches.size > _MOST_NAMED else ""
            found.append(f"epoch {epoch}: {int((last - first).sum())} positions {word}: {', '.join(named)}{rest}")
    return found


def _depth_at(edges: Longs, places: Longs, depth: Longs) -> Longs:
    index = np.searchsorted(places, edges, side="right") - 1
    return np.where(index >= 0, depth[np.maximum(index, 0)], 0) if places.size else np.zeros(edges.size, np.int64)
