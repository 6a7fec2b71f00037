"""Grain over ArrayRecord, by its Dataset API: source, global shuffle anew in each repetition, map, batch, then threads or worker processes.

As its documentation recommends: `group_size:1` for random access when writing, `to_iter_dataset` with its default 16 read threads and batches made
behind it for images, `mp_prefetch` for workers. Of the orders and numbers of threads that it allows, those were tried that made sense, and the
fastest kept:

- `samples`: rows of arrays are batched in front of `to_iter_dataset`, with two threads and four batches ahead.
- `batched`: a batch's numbers are mapped to a batched read, which ArrayRecord does faster for rows that are small.

Batches are numpy arrays, as Grain makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from .endless import Endless
from .loop import Config, run
from .samples import Source, collate, finisher, pack, unpack


def make(kind: str, source: Path, out: Path) -> None:
    """Write one ArrayRecord file."""
    writer = ArrayRecordWriter(str(out / "rows.array_record"), "group_size:1")
    for sample in Source(source, kind):
        writer.write(pack(sample))
    writer.close()


AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
"""For datasets of batches: the default, 500 elements ahead, means 500 batches there."""


class Stateful(Endless):
    """Epochs of an iterator that has a state."""

    batches: Any

    def state_dict(self) -> Any:
        """Return the iterator's state."""
        return self.batches.get_state()

    def load_state_dict(self, state: Any) -> None:
        """Go on from a state."""
        self.batches.set_state(state)


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers, size = config["kind"], config["workers"], config["batch_size"]
    finish = finisher(kind)
    records = grain.sources.ArrayRecordDataSource(str(Path(config["data"]) / "rows.array_record"))

    def decoded(data: bytes) -> Any:
        return finish(unpack(kind, data))

    def read(rows: Any) -> Any:
        return collate([decoded(data) for data in records.__getitems__(rows.tolist())])

    if config["style"] == "batched":
        numbers = grain.MapDataset.range(len(records)).seed(0).shuffle().repeat().batch(size)
        dataset = numbers.map(read).to_iter_dataset(AHEAD)
    else:
        samples = grain.MapDataset.source(records).seed(0).shuffle().repeat().map(decoded)
        images = kind.startswith("W1")
        dataset = samples.to_iter_dataset().batch(size) if images else samples.batch(size).to_iter_dataset(AHEAD)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return Stateful(iter(dataset), len(records) // size)


if __name__ == "__main__":
    run(make, load)
