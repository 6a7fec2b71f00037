"""Grain over ArrayRecord, by its Dataset API: source, global shuffle, map, batch, then read threads or worker processes.

As its documentation recommends: `group_size:1` for random access when writing, an index shuffle
anew in each repetition, `ReadOptions` at their defaults (16 threads)
with no workers, `mp_prefetch` with them. Batches are numpy arrays, as Grain makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from .endless import Endless
from .loop import Config, run
from .samples import Source, finisher, pack, unpack


def make(kind: str, source: Path, out: Path) -> None:
    """Write one ArrayRecord file."""
    writer = ArrayRecordWriter(str(out / "rows.array_record"), "group_size:1")
    for sample in Source(source, kind):
        writer.write(pack(sample))
    writer.close()


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers, size = config["kind"], config["workers"], config["batch_size"]
    finish = finisher(kind)
    source = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(str(Path(config["data"]) / "rows.array_record")))
    dataset = source.seed(0).shuffle().repeat().map(lambda data: finish(unpack(kind, data))).batch(size).to_iter_dataset()
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return Endless(iter(dataset), len(source) // size)


if __name__ == "__main__":
    run(make, load)
