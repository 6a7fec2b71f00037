"""The second stage of a shuffled conversion, done: an output shard gathers its rows from the staged ones.

The row at position p of the result is staged row `permute(p)` of its split, a bijection computed from the seed. Shards can be written in any order
and by anybody. Rows are gathered a few MB at a time from mapped files: the cost is one random read a row, at the speed of the page cache while
the staged data fit in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from .. import order
from .assign import Ints
from .job import Job, Marker, Plan
from .part import FIRST_REASONS, Progress, Stage
from .report import Bad
from .samplenames import Origins, Sieve
from .shuffle import Tasks, read_tasks
from .source import CHUNK_BYTES, CHUNK_ROWS


class Permuted:
    """Staged rows in shuffled order."""

    def __init__(self, folder: Path, tasks: Tasks, plan: Plan) -> None:
        """Note where the rows are; files are mapped when they are first needed."""
        self._folder, self._tasks, self._plan = folder, tasks, plan
        self._batches: dict[int, tuple[list[pa.RecordBatch], Ints]] = {}

    def split(self, part: int) -> int:
        """Return the split that a part writes to."""
        return self._tasks.tasks[part].split

    def batches(self, part: int) -> Iterator[pa.RecordBatch]:
        """Yield a part's rows in their order."""
        task = self._tasks.tasks[part]
        batches, starts = self._staged(task.split)
        rows = int(starts[-1])
        seed = self._plan.settings.shuffle
        assert seed is not None
        key = order.fold("penstock.convert", seed, self._plan.settings.targets[task.split])
        step = max(min(CHUNK_ROWS, (task.stop - task.start) * CHUNK_BYTES // max(task.bytes, 1)), 1)
        for start in range(task.start, task.stop, step):
            positions = np.arange(start, min(start + step, task.stop), dtype=np.int64)
            yield _gather(batches, starts, order.permute(positions, rows, key))

    def _staged(self, split: int) -> tuple[list[pa.RecordBatch], Ints]:
        """Return the mapped record batches of a split and the first row of each."""
        if split not in self._batches:
            batches: list[pa.RecordBatch] = []
            for shard in self._tasks.staged:
                if shard.split == split:
                    reader = pa.ipc.open_file(pa.memory_map(os.fsencode(self._folder / shard.name)))
                    batches.extend(reader.get_batch(number) for number in range(reader.num_record_batches))
            starts = np.zeros(len(batches) + 1, np.int64)
            np.cumsum([batch.num_rows for batch in batches], out=starts[1:])
            self._batches[split] = (batches, starts)
        return self._batches[split]


def _gather(batches: list[pa.RecordBatch], starts: Ints, rows: Ints) -> pa.RecordBatch:
    """Return the given rows, in the given order: taken batch by batch, then put in place."""
    arranged = np.argsort(rows, kind="stable")
    numbers = np.searchsorted(starts, rows[arranged], side="right") - 1
    found = []
    for number in np.unique(numbers).tolist():
        inside = rows[arranged[numbers == number]] - starts[number]
        found.append(batches[number].take(pa.array(inside)))
    joined = found[0] if len(found) == 1 else pa.concat_batches(found)
    back = np.empty(len(rows), np.int64)
    back[arranged] = np.arange(len(rows), dtype=np.int64)
    return joined.take(pa.array(back))


class SecondStage(Stage):
    """Writes runs of positions."""

    number = 2

    def __init__(self, job: Job) -> None:
        """Find the staged rows."""
        super().__init__(job)
        self._permuted = Permuted(job.path, read_tasks(job.path), self.plan)

    def do(self, part: int, progress: Progress) -> None:
        """Write one run of positions of the shuffled order."""
        settings, schema = self.plan.settings, self.plan.schema
        output = self.output(part, schema, settings.format)
        sieve = Sieve(output, schema, settings.format, len(settings.targets))
        split = self._permuted.split(part)
        bad: list[Bad] = []
        rows = 0
        try:
            for batch in self._permuted.batches(part):
                origins = Origins(batch)
                refused = sieve.write(batch.select(list(schema)), np.full(batch.num_rows, split), origins.key)
                bad += [origins.bad(row, reason) for row, reason in refused.items()]
                rows += batch.num_rows
                progress(batch.num_rows, batch.nbytes)
            staged = output.close()
        except BaseException:  # also Ctrl-C: a shard that is not finished must not stay
            output.abort()
            raise
        reasons = tuple(str(one) for one in bad[:FIRST_REASONS])
        self.job.mark(2, part, Marker(rows_in=rows, left_out=0, structure=0, samples=len(bad), reasons=reasons, staged=tuple(staged)), bad)


STAGE = SecondStage
"""What `open_stage` opens for stage 2."""
