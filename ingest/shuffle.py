"""The second stage of a shuffled conversion: each output shard gathers its rows from the staged ones.

The row at position p of the result is staged row `permute(p)` of its split, a bijection computed from the seed. Every output shard is a run of
positions, so shards can be written in any order and by anybody. Rows are gathered a few MB at a time from mapped files: the cost is one random
read a row, at the speed of the page cache while the staged data fit in memory. Refused: a shuffle buffer, which only mixes neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from .. import order
from ..shards.storage import atomic_write, read_file
from .assign import Ints, shuffled_shards
from .job import Marker, Plan
from .output import Staged
from .source import CHUNK_BYTES, CHUNK_ROWS

_FILE = "stage2.json"
_CAP_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run of positions of one split's shuffled order."""

    split: int
    start: int
    stop: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """The second stage: where the rows are, and which run each part writes."""

    staged: tuple[Staged, ...]
    tasks: tuple[Task, ...]


def plan_tasks(plan: Plan, markers: Sequence[Marker]) -> Tasks:
    """Return the second stage's parts; a function of what the first stage wrote."""
    staged = [shard for marker in markers for shard in marker.staged]
    tasks = []
    for split in range(len(plan.settings.targets)):
        mine = [shard for shard in staged if shard.split == split]
        rows, size = sum(shard.rows for shard in mine), sum(shard.bytes for shard in mine)
        for start, stop in pairwise(shuffled_shards(rows, size, plan.settings.shard_bytes).tolist()):
            tasks.append(Task(split=split, start=start, stop=stop, bytes=size * (stop - start) // max(rows, 1)))
    return Tasks(staged=tuple(staged), tasks=tuple(tasks))


def write_tasks(folder: Path, tasks: Tasks) -> None:
    """Write the second stage's parts where workers find them."""
    atomic_write(folder / _FILE, json.dumps(asdict(tasks)).encode())


def read_tasks(folder: Path) -> Tasks:
    """Return the second stage's parts."""
    given = json.loads(read_file(folder / _FILE, cap_bytes=_CAP_BYTES))
    return Tasks(staged=tuple(Staged(**s) for s in given["staged"]), tasks=tuple(Task(**t) for t in given["tasks"]))


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
                    reader = pa.ipc.open_file(pa.memory_map(str(self._folder / shard.name)))
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
