"""What was delivered, as a value that ranks can add up: positions of epochs, kept as a few arithmetic progressions. Pure.

A rank's batches of an epoch are one progression: so many positions, again and again at the same distance. Those of all ranks together close the gaps, and
what is left open or covered twice has a name. Nothing is hashed and nothing estimated: a digest that covers [0, n) once says that each of those
positions was delivered once, by somebody; and since it carries what decides the order, the rows follow. With lanes a rank's rows lie all over its global batch, and
are kept as places in the order in which that was dealt, with its size and where one begins; `coverage` compares what was numbered in unlike ways.

Cost: nothing while training; four numbers each time that an epoch is entered (six with lanes), and for drawn batches (`tickets`) as many for each stretch of them that
one consumer confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from ..errors import BadRequest
from . import coverage
from .coverage import Progression, joined
from .law import MAX_LANES
from .plan import Plan

FORMAT = 1
"""The version of a digest in JSON."""


def delivered(plan: Plan, start: int, batches: int) -> tuple[Progression, ...]:
    """Return the positions of a rank's first `batches` of an epoch that was entered at `start`, or their places where lanes deal them; padding is left out."""
    whole = min(batches, max(plan.rows - start, 0) // plan.global_batch)
    found = []
    if whole:
        one = plan.batch(0, start)
        by = (plan.global_batch, start % plan.global_batch) if one.lanes else (0, 0)
        found.append(Progression(one.start, one.size, plan.global_batch, whole, *by))
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
            told = coverage.differences(self.epochs.get(epoch, ()), expected.epochs.get(epoch, ()), _lanes(self.plan))
            found += [f"epoch {epoch}: {one}" for one in told]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        epochs = [[epoch, [list(one if one.batch else one[:4]) for one in many]] for epoch, many in self.epochs.items()]
        return {"penstock_digest": FORMAT, "plan": self.plan, "epochs": epochs}

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
                epochs.setdefault(_count(epoch), []).extend(_read(one, dealt=_lanes(told["plan"]) > 0) for one in many)
        except (TypeError, ValueError, KeyError):
            raise BadRequest(
                "a digest whose epochs are no lists of (start, size, stride, times), to which lanes add (batch, offset): "
                f"{str(told.get('epochs'))[:200]}"
            ) from None
        return Digest(told["plan"], epochs)


def _read(numbers: Sequence[object], *, dealt: bool) -> Progression:
    one = Progression(*map(_count, numbers))
    of_batches = dealt and len(numbers) == 6 and one.offset < one.batch and one.offset <= one.start
    if one.start + max(one.times - 1, 0) * one.stride + one.size > 2**62 or (len(numbers) != 4 and not of_batches):
        raise ValueError(one)
    return one


def _lanes(plan: Mapping[str, Any]) -> int:
    """Return the lanes of a plan, or 0 when it has none."""
    lanes = plan.get("lanes")
    return lanes if type(lanes) is int and 1 < lanes <= MAX_LANES else 0


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(value)
    return value


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [f"{name} is {one.get(name)!r} here and {other.get(name)!r} there" for name in {**one, **other} if one.get(name) != other.get(name)]
