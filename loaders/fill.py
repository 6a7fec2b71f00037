"""Fills rows of a batch: positions to rows, rows to bytes, bytes through the chains, results into the memory they are read from.

The same code runs inline and in every worker; what differs is the `Sink` that says where results go. It keeps no state between calls but
opened shards, and the tables of the runs that were prepared last: any run may be repeated, by any process, and writes the same bytes. It never
allocates a batch and never copies one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..metrics import WorkTimes
from .law import Drawn
from .lookup import Place
from .mixture import MixedStream, stream_of
from .ring import Stage
from .sink import Sink
from .team import Copying
from .ways import let_go_of_pages, stored_row_bytes, ways
from .work import VALID, Work

_PAGES_BYTES = 16 << 20
"""Bytes of rows that are decoded from mapped shards between letting go of their pages."""


class Prepared(NamedTuple):
    """What is to be filled: the rows, where their fixed columns go, what copies them, the rest of the batch, and the nanoseconds it took so far."""

    drawn: Drawn
    values: Mapping[str, npt.NDArray[Any]]
    copying: Copying | None
    sink: Sink
    spent_ns: int

    def begin(self) -> None:
        """Let other threads begin, if there are any."""
        if self.copying is not None:
            self.copying.begin()


class Filler:
    """Fills batches of one dataset under one `Work`."""

    def __init__(self, work: Work, *, threads: int = 1) -> None:
        """Prepare the gather tables; no shard is opened yet. So many threads may copy a large batch."""
        self._work = work
        fields = work.dataset.fields
        self._stream = stream_of(work.dataset, work.ordering)
        direct = [name for name in fields if work.steps is None or work.steps.leaves(name)]
        self._fixed = [name for name in direct if not fields[name].ragged]
        self._ragged = [name for name in direct if fields[name].ragged]
        self._lookup, self._gather, self._gathered = ways(work.dataset, self._fixed, threads)
        self._chained = [name for name in self._fixed if work.steps is not None and name in work.steps.chains]
        self._derived = [] if work.steps is None else [name for name in work.steps.derived if work.steps.chains[name].source in self._fixed]
        self._placed = [name for name in self._fixed if name not in self._gathered]
        self._locates = len(self._gathered) < len(fields) or len(self._derived) < _new_columns(work)
        self._decodes = work.steps is not None and work.steps.decodes
        self._looked_at_bytes, self._row_bytes = 0.0, stored_row_bytes(work.dataset)

    def fill(self, epoch: int, positions: npt.NDArray[np.int64], sink: Sink) -> WorkTimes:
        """Fill the rows at these positions of `epoch`; positions past the end wrap to the beginning as padding.

        Raises:
            BadData: a row cannot be read or transformed; names shard, row and column.
            WorkerFailed: the user's function raised.
        """
        prepared = self.prepare(epoch, positions, sink)
        prepared.begin()
        return self.finish(prepared)

    @property
    def ahead(self) -> bool:
        """Whether other threads work between beginning and finishing what was prepared."""
        return self._gather is not None and self._gather.shared and self._work.steps is None and not self._locates

    def prepare(self, epoch: int, positions: npt.NDArray[np.int64], sink: Sink) -> Prepared:
        """Return what is begun and finished to do what `fill` does. One run may be prepared while the one before it is under way."""
        began = perf_counter_ns()
        sink.stage(Stage.READ)
        work, count = self._work, self._stream.positions
        drawn = self._stream.draw(epoch, positions % count if work.pads else positions)
        rows = drawn.rows
        if work.pads:
            sink.fixed(VALID)[:] = positions < count
        if isinstance(self._stream, MixedStream) and work.source_column is not None:
            sink.fixed(work.source_column)[:] = self._stream.sources(rows)
        values = {name: self._room(name, len(rows)) if name in self._chained else sink.fixed(name) for name in self._fixed}
        copying = None
        if self._gather is not None:
            copying = self._gather.prepare(rows, [values[name] for name in self._gathered], streams=sink.far and not self._chained)
        return Prepared(drawn, values, copying, sink, perf_counter_ns() - began)

    def finish(self, prepared: Prepared) -> WorkTimes:
        """Do what is left; doing so again changes nothing.

        Raises:
            BadData: a row cannot be read or transformed; names shard, row and column.
            WorkerFailed: the user's function raised.
        """
        began = perf_counter_ns()
        drawn, values, copying, sink, spent_ns = prepared
        rows = drawn.rows
        if copying is not None:
            copying.finish()
        places = self._lookup.places(rows) if self._locates else []
        for name in self._placed:
            for index, place in enumerate(places):
                values[name][index] = place.value(name)
        transform_ns = self._chain(values, sink)
        for name in self._ragged:
            _join(places, name, sink)
        times = WorkTimes(read_ns=spent_ns + perf_counter_ns() - began - transform_ns, transform_ns=transform_ns)
        steps = self._work.steps
        if steps is not None:
            times = times.merge(steps.run(places, drawn.keys(self._work.ordering.seed), sink, (*self._fixed, *self._derived)))
        if self._decodes:
            self._looked_at(len(rows))
        return times

    def _looked_at(self, rows: int) -> None:
        """Keep the resident set of a process that decodes from growing to the size of the dataset."""
        self._looked_at_bytes += self._row_bytes * rows
        if self._looked_at_bytes >= _PAGES_BYTES:
            self._looked_at_bytes = 0.0
            let_go_of_pages(self._work.dataset)

    def _chain(self, values: Mapping[str, npt.NDArray[Any]], sink: Sink) -> int:
        """Put fixed columns that have a chain through it; return the nanoseconds that it took."""
        if self._work.steps is None:
            return 0
        began = perf_counter_ns()
        for name in (*self._chained, *self._derived):
            chain = self._work.steps.chains[name]
            chain.run_rows(values[chain.source], sink.fixed(name))
        return perf_counter_ns() - began

    def _room(self, name: str, rows: int) -> npt.NDArray[Any]:
        """Return memory for rows of a column as they are stored."""
        field = self._work.dataset.fields[name]
        return np.empty((rows, *field.shape), field.dtype)


def _new_columns(work: Work) -> int:
    """Return how many columns of a batch are made from columns of other names."""
    return 0 if work.steps is None else sum(name not in work.steps.fields for name in work.steps.chains)


def _join(places: Sequence[Place], name: str, sink: Sink) -> None:
    views = [place.value(name) for place in places]
    lengths = np.fromiter(map(len, views), np.int64, len(views))
    values = sink.ragged(name, lengths)
    if views:
        np.concatenate(views, out=values[: int(lengths.sum())])
