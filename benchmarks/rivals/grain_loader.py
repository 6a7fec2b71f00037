"""Grain over ArrayRecord, by its Dataset API: source, global shuffle anew in each repetition, map, batch, then threads or worker processes.

As its documentation recommends: `group_size:1` for random access when writing, `to_iter_dataset` with its default 16 read threads and batches made
behind it for images, `mp_prefetch` for workers. Of the orders and numbers of threads that it allows, those were tried that made sense, and the
fastest kept:

One read of one row takes ArrayRecord (0.8.6) a time that grows with the rows of its file: 15 us at 5,000, 40 us at 20,000, 3 to 15 ms at one and two
million. So rows are in many files, which a source takes as a list; a batched read is twice as fast from one, and has one.

- `samples`: rows of arrays are batched in front of `to_iter_dataset`, with two threads and four batches ahead.
- `batched`: a batch's numbers are mapped to a batched read, which ArrayRecord does faster for rows that are small (W4).

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

FILE_ROWS = 5_000
"""Rows of a file."""


def _write(path: Path, rows: Source, first: int, last: int) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index in range(first, last):
        writer.write(pack(rows[index]))
    writer.close()


def make(kind: str, source: Path, out: Path) -> None:
    """Write ArrayRecord files, named as the format's users name them; and one of all rows where those are read a batch at once."""
    rows = Source(source, kind)
    files = -(-len(rows) // FILE_ROWS)
    for number in range(files):
        first = number * FILE_ROWS
        _write(out / f"rows-{number:05d}-of-{files:05d}.array_record", rows, first, min(first + FILE_ROWS, len(rows)))
    if kind == "W4":
        (out / "one").mkdir()
        _write(out / "one" / "rows.array_record", rows, 0, len(rows))


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
    folder = Path(config["data"]) / ("one" if config["style"] == "batched" else "")
    records = grain.sources.ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))

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
