"""Fills rows of a batch: positions to rows, rows to bytes, bytes through the chains, results into the memory they are read from.

The same code runs inline and in every worker; what differs is the `Sink` that says where results go. It keeps no state between calls but
opened shards: any call may be repeated, by any process, and writes the same bytes. It never allocates a batch and never copies one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter_ns

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
from .window_gather import WindowGather, WindowLookup
from .work import VALID, Work


class Filler:
    """Fills batches of one dataset under one `Work`."""

    def __init__(self, work: Work) -> None:
        """Prepare the gather tables; no shard is opened yet."""
        self._work = work
        self._dataset = work.dataset
        fields = work.dataset.fields
        self._order = order.Order(n=len(work.dataset), seed=work.seed, shuffle=work.shuffle)
        direct = [name for name in fields if work.steps is None or work.steps.leaves(name)]
        self._fixed = [name for name in direct if not fields[name].ragged]
        self._ragged = [name for name in direct if fields[name].ragged]
        self._lookup, self._gathers = _ways(work.dataset, self._fixed)

    def fill(self, epoch: int, positions: npt.NDArray[np.int64], sink: Sink) -> WorkTimes:
        """Fill the rows at these positions of `epoch`; positions past the end wrap to the beginning as padding.

        Raises:
            BadData: a row cannot be read or transformed; names shard, row and column.
            WorkerFailed: the user's function raised.
        """
        began = perf_counter_ns()
        sink.stage(Stage.READ)
        work, count = self._work, len(self._dataset)
        rows = self._order.rows(epoch, positions % count if work.pads else positions)
        if work.pads:
            sink.fixed(VALID)[:] = positions < count
        places = self._lookup.places(rows) if len(self._gathers) < len(work.dataset.fields) else []
        times = WorkTimes()
        for name in self._fixed:
            times = times.merge(self._fill_fixed(name, rows, places, sink))
        for name in self._ragged:
            _join(places, name, sink)
        times = times.merge(WorkTimes(read_ns=perf_counter_ns() - began - times.transform_ns))
        if work.steps is not None:
            times = times.merge(work.steps.run(places, order.augment_key(work.seed, epoch), sink, self._fixed))
        return times

    def _fill_fixed(self, name: str, rows: npt.NDArray[np.int64], places: Sequence[Place], sink: Sink) -> WorkTimes:
        """Copy a fixed column's rows into the sink, through its chain when it has one; return only the time of the chain."""
        steps, field, out = self._work.steps, self._work.dataset.fields[name], sink.fixed(name)
        values = out if steps is None or name not in steps.chains else np.empty((len(rows), *field.shape), field.dtype)
        if name in self._gathers:
            self._gathers[name].into(rows, values)
        else:
            for index, place in enumerate(places):
                values[index] = place.value(name)
        if steps is None or values is out:
            return WorkTimes()
        began = perf_counter_ns()
        steps.chains[name].run_rows(values, out)
        return WorkTimes(transform_ns=perf_counter_ns() - began)


def _ways(dataset: Dataset | TokenWindows, fixed: Sequence[str]) -> tuple[Lookup | WindowLookup, Mapping[str, Gather | WindowGather]]:
    """Return how rows are found one by one, and the tables of the fixed columns that one call can fill."""
    if isinstance(dataset, TokenWindows):
        return WindowLookup(dataset), {name: WindowGather(dataset) for name in fixed}
    lookup, manifest, fields = Lookup(dataset), dataset.manifest, dataset.fields
    if not Gather.suits(manifest):
        return lookup, {}
    return lookup, {name: Gather(manifest, fields[name], name, lookup) for name in fixed if fields[name].dtype != "bool"}


def _join(places: Sequence[Place], name: str, sink: Sink) -> None:
    views = [place.value(name) for place in places]
    lengths = np.fromiter(map(len, views), np.int64, len(views))
    values = sink.ragged(name, lengths)
    if views:
        np.concatenate(views, out=values[: int(lengths.sum())])
