"""The second stage of a shuffled conversion, planned: every output shard is a run of positions of the shuffled order. Pure but for its file.

Refused: a shuffle buffer, which only mixes neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from ..shards.storage import atomic_write
from .assign import shuffled_shards
from .job import Marker, Plan, read_json, understood
from .output import Staged

_FILE = "stage2.json"


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
    with understood(folder / _FILE):
        given = read_json(folder / _FILE)
        return Tasks(staged=tuple(Staged(**s) for s in given["staged"]), tasks=tuple(Task(**t) for t in given["tasks"]))
