"""The second stage: runs of a computed permutation, planned from what the first stage wrote, covering every staged row of each split once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.ingest.job import Marker
from penstock.ingest.output import Staged
from penstock.ingest.permuted import Permuted, _gather
from penstock.ingest.settings import Settings
from penstock.ingest.shuffle import Task, Tasks, plan_tasks, read_tasks, write_tasks

Shards = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500), st.integers(0, 10**7)), max_size=12)


def staged(number: int, split: int, rows: int, size: int = 1000) -> Staged:
    """Return a staged shard."""
    return Staged(name=f"s1-{number:05d}-{split:03d}-00000.arrow", split=split, rows=rows, bytes=size, xxh3="0" * 16, block_rows=rows)


def plan(**options: Any) -> Any:
    """Return as much of a plan as the second stage looks at."""
    asked = Settings(source="/s", kind="csv", splits={"a": 0.4, "b": 0.3, "c": 0.3}, shuffle=5, **options)
    return SimpleNamespace(settings=asked)


def marker(shards: list[Staged]) -> Marker:
    """Return the marker of a part that wrote some shards."""
    return Marker(rows_in=0, left_out=0, structure=0, samples=0, reasons=(), staged=tuple(shards))


@given(Shards, st.integers(1, 10**7))
def test_tasks_cover_each_split_once(shards: list[tuple[int, int, int]], shard_bytes: int) -> None:
    """Each split's runs go from its first position to its last, one behind the other, none empty, split after split."""
    made = [staged(number, *shard) for number, shard in enumerate(shards)]
    tasks = plan_tasks(plan(shard_bytes=shard_bytes), [marker([one]) for one in made])
    assert tasks.staged == tuple(made)
    assert [task.split for task in tasks.tasks] == sorted(task.split for task in tasks.tasks)
    for split in range(3):
        runs = [(task.start, task.stop) for task in tasks.tasks if task.split == split]
        rows = sum(one.rows for one in made if one.split == split)
        assert all(start < stop for start, stop in runs)
        assert [stop for _, stop in runs[:-1]] == [start for start, _ in runs[1:]]
        assert (runs[0][0], runs[-1][1]) == (0, rows) if rows else runs == []
        assert sum(task.bytes for task in tasks.tasks if task.split == split) <= sum(one.bytes for one in made if one.split == split)


def test_tasks_come_back_from_their_file(tmp_path: Path) -> None:
    """What the parent wrote is what a worker reads; a file that is no plan is named."""
    tasks = Tasks(staged=(staged(0, 1, 3),), tasks=(Task(split=1, start=0, stop=3, bytes=7),))
    write_tasks(tmp_path, tasks)
    assert read_tasks(tmp_path) == tasks
    (tmp_path / "stage2.json").write_text('{"staged": [{}], "tasks": []}')
    with pytest.raises(BadData, match=r"stage2\.json: it cannot be understood"):
        read_tasks(tmp_path)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_gathered_rows_are_those_asked_for(sizes: list[int], data: st.DataObject) -> None:
    """Rows of any batches, in any order and also twice, come as asked."""
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    batches = [pa.record_batch([pa.array(range(low, high))], ["n"]) for low, high in pairwise(bounds.tolist())]
    wanted = data.draw(st.lists(st.integers(0, int(bounds[-1]) - 1), min_size=1, max_size=20))
    assert _gather(batches, bounds, np.array(wanted))["n"].to_pylist() == wanted


@settings(deadline=None, max_examples=15)
@given(rows=st.lists(st.integers(1, 60), min_size=1, max_size=4), cuts=st.lists(st.integers(1, 20), max_size=4))
def test_runs_together_are_a_permutation(tmp_path_factory: pytest.TempPathFactory, rows: list[int], cuts: list[int]) -> None:
    """However the positions are cut into runs, each staged row comes once, at the same place of the whole."""
    folder = tmp_path_factory.mktemp("staged")
    first, shards = 0, []
    for number, count in enumerate(rows):
        shards.append(staged(number, 0, count))
        table = pa.table({"n": range(first, first + count)})
        with pa.ipc.new_file(str(folder / shards[-1].name), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
        first += count
    orders = []
    for bounds in ([0, first], sorted({0, first, *(cut for cut in cuts if cut < first)})):
        tasks = tuple(Task(split=0, start=low, stop=high, bytes=100) for low, high in pairwise(bounds))
        reader = Permuted(folder, Tasks(staged=tuple(shards), tasks=tasks), plan())
        orders.append([n for part in range(len(tasks)) for batch in reader.batches(part) for n in batch["n"].to_pylist()])
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(first))
