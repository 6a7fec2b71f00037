"""Carries out the transforms of a batch: chains column by column, and the user's function on top.

A chain that works on whole batches is one call; the others go sample by sample, each straight into its row of the slot. A loader without
transforms never imports this file, nor what decodes images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadData
from ..fields import Field
from ..metrics import WorkTimes
from ..shards.columns import FixedColumn
from ..transforms.base import Ragged
from ..transforms.chain import Chain
from ..transforms.map import DeclaredMap, stacked
from .lookup import Place
from .ring import Stage
from .sink import Sink


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is done to rows between reading and the batch; compiled once, and sent to each worker.

    Attributes:
        fields: the columns that are read.
        chains: compiled transforms of the columns that have some, and those of new columns.
        mapping: the user's function on samples or batches, or None.
    """

    fields: Mapping[str, Field]
    chains: Mapping[str, Chain]
    mapping: DeclaredMap | None

    @property
    def splits(self) -> bool:
        """Whether rows are costly enough to spread one batch over workers, and may be seen one by one."""
        if self.mapping is not None:
            return not self.mapping.map.batched
        return self.decodes

    @property
    def decodes(self) -> bool:
        """Whether rows are decoded one by one, which costs far more than a page fault."""
        return any(chain.decoder is not None for chain in self.chains.values())

    @property
    def derived(self) -> list[str]:
        """New columns that one call makes for all rows of a batch, from a fixed column as it is read."""
        if self.mapping is not None:
            return []
        return [name for name, chain in self.chains.items() if name not in self.fields and chain.rowwise]

    def leaves(self, name: str) -> bool:
        """Whether a column goes into the batch as it is read, or by one call of its chain for all rows."""
        chain = self.chains.get(name)
        return self.mapping is None and (chain is None or (chain.rowwise and not self.fields[name].ragged))

    def run(self, places: Sequence[Place], keys: Sequence[int], sink: Sink, done: Collection[str]) -> WorkTimes:
        """Fill what is not `done` yet; `keys` has the key of each row's augmentation.

        Raises:
            BadData: a row is damaged, or the function's result has another shape than the first one had.
            WorkerFailed: the function raised; its error is the cause.
        """
        if self.mapping is not None:
            return _mapped(self, self.mapping, places, keys, sink)
        times = WorkTimes()
        for name, chain in self.chains.items():
            if name not in done:
                times = times.merge(_transformed(chain, places, keys, sink))
        return times


def _transformed(chain: Chain, places: Sequence[Place], keys: Sequence[int], sink: Sink) -> WorkTimes:
    """Run a column's chain on every row, into the sink."""
    sink.stage(Stage.DECODE if chain.decoder is not None else Stage.TRANSFORM)
    if not isinstance(chain.output, Ragged):
        out = sink.fixed(chain.name)
        began = perf_counter_ns()
        if chain.together and (rows := _stored(chain, places)):
            read_ns = perf_counter_ns() - began
            chain.run_together(rows, keys, [place.sample for place in places], out)
            return WorkTimes(read_ns=read_ns, transform_ns=perf_counter_ns() - began - read_ns)
        return _each(chain, places, keys, [out[index, ...] for index in range(len(out))])
    began = perf_counter_ns()
    lengths = np.fromiter((place.value(chain.source).size for place in places), np.int64, len(places))
    ends = np.cumsum(lengths)
    values = sink.ragged(chain.name, lengths)
    read_ns = perf_counter_ns() - began
    runs = [values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return WorkTimes(read_ns=read_ns).merge(_each(chain, places, keys, runs))


def _stored(chain: Chain, places: Sequence[Place]) -> list[npt.NDArray[Any]]:
    """Return the rows as they lie in memory; none where some column has to parse them."""
    columns = [place.columns[chain.source] for place in places]
    if not all(isinstance(column, FixedColumn) for column in columns):
        return []
    return [column.row(place.offset) for column, place in zip(columns, places, strict=True)]


def _each(chain: Chain, places: Sequence[Place], keys: Sequence[int], outs: Sequence[npt.NDArray[Any]]) -> WorkTimes:
    began = perf_counter_ns()
    decode_ns = transform_ns = 0
    for place, key, out in zip(places, keys, outs, strict=True):
        try:
            decoding, transforming = chain.run(place.columns[chain.source].row(place.offset), key, place.sample, out)
        except BadData:
            with place.blame(chain.source):  # here, since entering it costs two microseconds a sample
                raise
        decode_ns += decoding
        transform_ns += transforming
    return WorkTimes(read_ns=perf_counter_ns() - began - decode_ns - transform_ns, decode_ns=decode_ns, transform_ns=transform_ns)


def sample_of(place: Place, fields: Mapping[str, Field], chains: Mapping[str, Chain], key: int) -> tuple[dict[str, Any], WorkTimes]:
    """Return a row as the user's function gets it: transformed columns as arrays, the others as `Dataset` gives them.

    Raises:
        BadData: the row is damaged; names shard, row and column.
    """
    sample: dict[str, Any] = {}
    times = WorkTimes()
    for name in {**fields, **chains}:
        chain = chains.get(name)
        source = name if chain is None else chain.source
        value = place.value(source)
        with place.blame(source):
            if chain is None:
                sample[name] = fields[name].decode(value)
                continue
            shape = (value.size,) if isinstance(chain.output, Ragged) else chain.output.fixed_shape
            out = sample[name] = np.empty(shape, chain.output.dtype)
            decode_ns, transform_ns = chain.run(value, key, place.sample, out)
        times = times.merge(WorkTimes(decode_ns=decode_ns, transform_ns=transform_ns))
    return sample, times


def _mapped(steps: Steps, mapping: DeclaredMap, places: Sequence[Place], keys: Sequence[int], sink: Sink) -> WorkTimes:
    """Run the user's function on every row, or once on all of them, into the sink."""
    began = perf_counter_ns()
    outs = {name: sink.fixed(name) for name in mapping.outputs}
    sink.stage(Stage.DECODE)
    times = WorkTimes()
    samples = []
    for index, (place, key) in enumerate(zip(places, keys, strict=True)):
        sample, took = sample_of(place, steps.fields, steps.chains, key)
        times = times.merge(took)
        if mapping.map.batched:
            samples.append(sample)
            continue
        sink.stage(Stage.MAP)
        with place.blame_map():
            for name, value in mapping.run(sample, key, place.sample).items():
                outs[name][index] = value
    if mapping.map.batched and places:
        sink.stage(Stage.MAP)
        columns = {name: stacked([sample[name] for sample in samples]) for name in samples[0]}
        with places[0].blame_map():
            for name, value in mapping.run_batch(columns, keys, [place.sample for place in places]).items():
                outs[name][...] = value
    rest_ns = perf_counter_ns() - began - times.decode_ns - times.transform_ns
    return times.merge(WorkTimes(transform_ns=rest_ns))
