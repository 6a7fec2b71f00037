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

from .. import order
from ..metrics import WorkTimes
from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from .gather import Gather
from .lookup import Lookup, Place
from .ring import Stage
from .sink import Sink
from .team import Copying
from .window_gather import WindowGather, WindowLookup
from .work import VALID, Work

_PAGES_BYTES = 16 << 20
"""Bytes of rows that are decoded from mapped shards between letting go of their pages."""


class Prepared(NamedTuple):
    """What is to be filled: the epoch, its rows, where their fixed columns go, what copies them, the rest of the batch, and the nanoseconds it took so far."""

    epoch: int
    rows: npt.NDArray[np.int64]
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
        self._count = len(work.dataset)
        self._order = order.Order(n=self._count, seed=work.seed, shuffle=work.shuffle)
        direct = [name for name in fields if work.steps is None or work.steps.leaves(name)]
        self._fixed = [name for name in direct if not fields[name].ragged]
        self._ragged = [name for name in direct if fields[name].ragged]
        self._lookup, self._gather, self._gathered = _ways(work.dataset, self._fixed, threads)
        self._chained = [name for name in self._fixed if work.steps is not None and name in work.steps.chains]
        self._placed = [name for name in self._fixed if name not in self._gathered]
        self._locates = len(self._gathered) < len(fields)
        self._decodes = work.steps is not None and work.steps.decodes
        self._looked_at_bytes = 0.0

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
        work, count = self._work, self._count
        rows = self._order.rows(epoch, positions % count if work.pads else positions)
        if work.pads:
            sink.fixed(VALID)[:] = positions < count
        values = {name: self._room(name, len(rows)) if name in self._chained else sink.fixed(name) for name in self._fixed}
        copying = None
        if self._gather is not None:
            copying = self._gather.prepare(rows, [values[name] for name in self._gathered], streams=sink.far and not self._chained)
        return Prepared(epoch, rows, values, copying, sink, perf_counter_ns() - began)

    def finish(self, prepared: Prepared) -> WorkTimes:
        """Do what is left; doing so again changes nothing.

        Raises:
            BadData: a row cannot be read or transformed; names shard, row and column.
            WorkerFailed: the user's function raised.
        """
        began = perf_counter_ns()
        epoch, rows, values, copying, sink, spent_ns = prepared
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
            times = times.merge(steps.run(places, order.augment_key(self._work.seed, epoch), sink, self._fixed))
        if self._decodes:
            self._looked_at(len(rows))
        return times

    def _looked_at(self, rows: int) -> None:
        """Keep the resident set of a process that decodes from growing to the size of the dataset."""
        dataset = self._work.dataset
        if isinstance(dataset, Dataset):
            self._looked_at_bytes += dataset.manifest.bytes / max(self._count, 1) * rows
            if self._looked_at_bytes >= _PAGES_BYTES:
                self._looked_at_bytes = 0.0
                dataset.let_go_of_pages()

    def _chain(self, values: Mapping[str, npt.NDArray[Any]], sink: Sink) -> int:
        """Put fixed columns that have a chain through it; return the nanoseconds that it took."""
        if self._work.steps is None:
            return 0
        began = perf_counter_ns()
        for name in self._chained:
            self._work.steps.chains[name].run_rows(values[name], sink.fixed(name))
        return perf_counter_ns() - began

    def _room(self, name: str, rows: int) -> npt.NDArray[Any]:
        """Return memory for rows of a column as they are stored."""
        field = self._work.dataset.fields[name]
        return np.empty((rows, *field.shape), field.dtype)


def _ways(
    dataset: Dataset | TokenWindows, fixed: Sequence[str], threads: int
) -> tuple[Lookup | WindowLookup, Gather | WindowGather | None, Sequence[str]]:
    """Return how rows are found one by one, what fills fixed columns in one call, and which."""
    if isinstance(dataset, TokenWindows):
        return WindowLookup(dataset), WindowGather(dataset, threads=threads) if fixed else None, fixed
    lookup, manifest, fields = Lookup(dataset), dataset.manifest, dataset.fields
    suited = {name: fields[name] for name in fixed if fields[name].dtype != "bool"} if Gather.suits(manifest) else {}
    return lookup, Gather(manifest, suited, lookup, threads=threads) if suited else None, tuple(suited)


def _join(places: Sequence[Place], name: str, sink: Sink) -> None:
    views = [place.value(name) for place in places]
    lengths = np.fromiter(map(len, views), np.int64, len(views))
    values = sink.ragged(name, lengths)
    if views:
        np.concatenate(views, out=values[: int(lengths.sum())])
