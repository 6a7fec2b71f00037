"""Fills rows of a batch: positions to rows, rows to bytes, bytes through the chains, results into the memory they are read from.

The same code runs inline and in every worker; what differs is the `Sink` that says where results go. It keeps no state between calls but
opened shards: any call may be repeated, by any process, and writes the same bytes. It never allocates a batch and never copies one.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from .. import order
from ..metrics import WorkTimes
from .apply import mapped, transformed
from .gather import Gather
from .lookup import Lookup, Place
from .ring import Stage
from .work import VALID, Sink, Work


class Filler:
    """Fills batches of one dataset under one `Work`."""

    def __init__(self, work: Work) -> None:
        """Prepare the gather tables; no shard is opened yet."""
        self._work = work
        self._dataset = work.dataset
        self._lookup = Lookup(work.dataset)
        manifest, fields = work.dataset.manifest, work.dataset.fields
        direct = [name for name in fields if work.mapping is None and name not in work.chains]
        self._fixed = [name for name in direct if not fields[name].ragged]
        self._ragged = [name for name in direct if fields[name].ragged]
        fast = Gather.suits(manifest)
        self._gathers = {
            name: Gather(manifest, fields[name], name, self._lookup.block) for name in self._fixed if fast and fields[name].dtype != "bool"
        }

    def fill(self, epoch: int, start: int, stop: int, sink: Sink) -> WorkTimes:
        """Fill the rows at positions [start, stop) of `epoch`; positions past the end wrap to the beginning as padding.

        Raises:
            BadData: a row cannot be read or transformed; names shard, row and column.
            WorkerFailed: the user's function raised.
        """
        began = perf_counter_ns()
        sink.stage(Stage.READ)
        work, count = self._work, len(self._dataset)
        positions = np.arange(start, stop, dtype=np.int64)
        rows = order.rows_at(positions % count, n=count, seed=work.seed, epoch=epoch, shuffle=work.shuffle)
        if VALID in work.outputs:
            sink.fixed(VALID)[:] = positions < count
        for name in self._gathers:
            self._gathers[name].into(rows, sink.fixed(name))
        places = self._lookup.places(rows) if len(self._gathers) < len(work.dataset.fields) else []
        for name in self._fixed:
            if name not in self._gathers:
                out = sink.fixed(name)
                for index, place in enumerate(places):
                    out[index] = place.value(name)
        for name in self._ragged:
            _join(places, name, sink)
        read_ns = perf_counter_ns() - began
        times = WorkTimes(read_ns=read_ns)
        if work.mapping is not None:
            return times.merge(mapped(work, places, order.augment_key(work.seed, epoch), sink))
        for chain in work.chains.values():
            times = times.merge(transformed(chain, places, order.augment_key(work.seed, epoch), sink))
        return times


def _join(places: Sequence[Place], name: str, sink: Sink) -> None:
    views = [place.value(name) for place in places]
    lengths = np.fromiter(map(len, views), np.int64, len(views))
    values = sink.ragged(name, lengths)
    if views:
        np.concatenate(views, out=values[: int(lengths.sum())])
