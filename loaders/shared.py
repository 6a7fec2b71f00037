"""Engines around an engine: one rank of a group reads and the others receive, and ranks that share sequences take their part of each. Knows no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np

from ..errors import BadRequest
from ..metrics import NO_TIME
from .batch import Batch
from .engine import Delivered, Engine, RunSource
from .faults import describe
from .plan import Plan
from .slots import Output


class Place(NamedTuple):
    """Where in the order a batch stands, which all ranks of a group must agree on.

    Attributes:
        epoch: its epoch.
        start: the position at which that epoch was entered.
        step: its number since then.
    """

    epoch: int
    start: int
    step: int


class Channel(ABC):
    """How batches get from the rank of a group that reads to the others. Every call is made by all of them, in the same order."""

    leads: bool
    """Whether this rank reads."""

    @abstractmethod
    def batch(self, place: Place, made: Batch | None) -> Batch:
        """Return what the leader gives; the others give None.

        Raises:
            BadRequest: the leader's batch stands at another place than this rank's.
            PenstockError: the leader met it, in place of the batch.
        """

    @abstractmethod
    def fail(self, told: Mapping[str, Any]) -> None:
        """Have the others meet an error in place of their batch; the leader's to call."""


@final
class ReceivingEngine(Engine):
    """Reads if it leads, and receives otherwise."""

    def __init__(self, inner: Engine, channel: Channel) -> None:
        """Note who reads; nothing is sent before an epoch is entered."""
        self._inner = inner
        self._channel = channel

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield batches that all ranks of the group have in common."""
        if not self._channel.leads:
            for step in range(plan.steps(start)):
                yield Delivered([self._channel.batch(Place(epoch, start, step), None)], plan.batch(step, start).size, NO_TIME)
            return
        source = self._inner.epoch(plan, epoch, start, runs)
        step = 0
        try:
            while True:
                made = self._next(source)
                if made is None:
                    return
                batches, made.batches[:] = list(made.batches), []
                for number, batch in enumerate(batches):
                    self._channel.batch(Place(epoch, start, step), batch)
                    step += 1
                    yield made._replace(batches=[batch], times=made.times if number == 0 else NO_TIME)
        finally:
            source.close()

    def _next(self, source: Generator[Delivered, None, None]) -> Delivered | None:
        try:
            return next(source, None)
        except Exception as error:  # whatever it is: the others wait for a batch, and would until their group's timeout
            self._channel.fail(describe(error, getattr(error, "stage", "read")))
            raise

    def close(self) -> None:
        """End what the inner engine keeps."""
        self._inner.close()


@final
class PartEngine(Engine):
    """Cuts sequences into parts, one for each rank that shares them."""

    def __init__(self, inner: Engine, columns: Sequence[str], rank: int, size: int) -> None:
        """Note which columns are cut along their rows' first dimension."""
        self._inner, self._columns, self._rank, self._size = inner, tuple(columns), rank, size

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield batches whose sequences are this rank's parts."""
        source = self._inner.epoch(plan, epoch, start, runs)
        try:
            for made in source:
                made.batches[:] = [
                    {name: self._part(value) if name in self._columns else value for name, value in one.items()} for one in made.batches
                ]
                yield made
        finally:
            source.close()

    def _part(self, value: Any) -> Any:
        length = value.shape[1] // self._size
        return np.ascontiguousarray(value[:, self._rank * length : (self._rank + 1) * length])

    def ready(self) -> bool:
        """Return what the inner engine says."""
        return self._inner.ready()

    def close(self) -> None:
        """End what the inner engine keeps."""
        self._inner.close()


def check_parts(outputs: Mapping[str, Output], columns: Sequence[str] | None, seq_len: int | None, size: int) -> list[str]:
    """Return the columns that are cut into parts.

    Raises:
        BadRequest: it is not known which, or a column is no sequence, or cannot be cut evenly.
    """
    if columns is None:
        if seq_len is None:
            raise BadRequest("context parallelism cuts sequences, and these rows are not known to be any: name the columns with sequence=['tokens']")
        columns = [name for name, output in outputs.items() if not output.ragged and output.shape[:1] == (seq_len,)]
    for name in columns:
        output = outputs.get(name)
        if output is None or output.ragged or not output.shape:
            raise BadRequest(f"sequence={list(columns)}: {name!r} is no fixed sequence; the batch has {list(outputs)}")
        if output.shape[0] % size:
            raise BadRequest(f"column {name!r} has {output.shape[0]} elements, which {size} context-parallel ranks cannot share evenly")
    return list(columns)
