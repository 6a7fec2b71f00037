"""What does each node of a very large run read, and what changes when a tenth of the ranks leave? By simulation of the law itself: no data, no network.

A pass over 10^6 shards of about 10^6 rows, 10^12 samples, is dealt to lanes (`loaders.law`), and each global batch is shared out over ranks by lanes
(`loaders.plan`), eight ranks to a node. From the plan follows which lanes every node has, at steps spread over the pass. A node fetches each shard of its lanes
once: its cache holds a window or two of each, and its ranks share it. The last, short global batch is cut by position and not by lane: what nodes then read with
tail="pad" is a column of its own, of some of the nodes; tail="drop" leaves it out.

    python -m benchmarks.scale [--ranks 100000] [--lanes 12500,100000,200000] [--batch-size 256] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from penstock.loaders.law import Ordering, WindowedLaw
from penstock.loaders.plan import Dealt, Plan

SHARDS, ROWS, RANKS_A_NODE, WINDOW, STEPS, NODES = 10**6, 10**6, 8, 4, 40, 9
"""Shards, their mean rows, ranks of a node, shards of a window, steps that are looked at, and nodes whose last step is drawn row by row."""

ROW_BYTES = 136
"""Bytes of a row: 32 float32 and a label, as in W4 of the other benchmarks."""

COLUMNS = (
    "shards",
    "lanes",
    "ranks",
    "requests a node",
    "GB a node",
    "a node / fair share",
    "most",
    "all traffic / data",
    "a lane: most / mean",
    "new shards a node",
    "shards in the last step, pad",
)

Rows = npt.NDArray[np.int64]


class Reading(NamedTuple):
    """What the nodes of a run read.

    Attributes:
        first: the first lane of each node.
        last: its last.
        rows: rows of the shards that it fetches in a pass.
        requests: how many shards those are.
    """

    first: Rows
    last: Rows
    rows: Rows
    requests: Rows


def shard_starts(*, uneven: bool) -> Rows:
    """Return the first row of each shard and, last, all rows: equal shards, or log-normal ones whose sizes deviate by about a third."""
    if not uneven:
        return np.arange(SHARDS + 1, dtype=np.int64) * ROWS
    sizes = np.random.default_rng(0).lognormal(0, 0.3, SHARDS)
    return np.concatenate([[0], np.cumsum((sizes / sizes.mean() * ROWS).astype(np.int64))]).astype(np.int64)


def reading(law: WindowedLaw, lanes: int, ranks: int, batch_size: int, start: int) -> Reading:
    """Return what each node reads of a pass that is gone on with from position `start` by so many ranks."""
    whole = ranks * batch_size
    nodes = ranks // RANKS_A_NODE
    places = np.arange(nodes) * RANKS_A_NODE * batch_size
    first, last = np.full(nodes, lanes), np.zeros(nodes, np.int64)
    steps = (law.rows - start) // whole
    for step in np.unique(np.linspace(0, steps - 1, STEPS).astype(np.int64)).tolist():
        begin = start + step * whole
        dealt = Dealt(begin, whole, lanes)
        first = np.minimum(first, dealt.lanes(dealt.offsets(places)))
        last = np.maximum(last, dealt.lanes(dealt.offsets(places + RANKS_A_NODE * batch_size - 1)))
    shards, rows = law.reach(0, first, last)
    return Reading(first, last, rows, shards)


def last_step(law: WindowedLaw, starts: Rows, ranks: int, batch_size: int, start: int) -> int:
    """Return from how many shards the median of some nodes has its rows of the last global batch, when that is short and padded; 0 when none is short."""
    plan = Plan(rows=law.rows, batch_size=batch_size, world_size=ranks, tail="pad")
    short = (law.rows - start) // plan.global_batch
    if short == plan.steps(start):
        return 0
    found = []
    for node in np.linspace(0, ranks // RANKS_A_NODE - 1, NODES).astype(int).tolist():
        own = [replace(plan, rank=node * RANKS_A_NODE + rank).batch(short, start).positions() for rank in range(RANKS_A_NODE)]
        rows = law.draw(0, np.concatenate(own) % law.rows)
        found.append(np.unique(np.searchsorted(starts, rows, side="right")).size)
    return int(np.median(found))


def simulated(lanes: int, ranks: int, batch_size: int, *, uneven: bool) -> list[dict[str, str | int | float]]:
    """Return a row of the table for a run, and one for the same after a tenth of its nodes left in the middle of the pass."""
    starts = shard_starts(uneven=uneven)
    law = WindowedLaw(starts, Ordering(0, True, WINDOW, lanes))
    before = reading(law, lanes, ranks, batch_size, 0)
    told = []
    numbers = np.arange(lanes)
    by_lane = law.reach(0, numbers, numbers)[1]
    staying = np.flatnonzero(np.arange(before.first.size) % 10 != 9)
    after = reading(law, lanes, staying.size * RANKS_A_NODE, batch_size, law.rows // 2)
    for ranks_now, start, read, fresh in (
        (ranks, 0, before, np.zeros(1)),
        (staying.size * RANKS_A_NODE, law.rows // 2, after, _new_lanes(before, after, staying)),
    ):
        share = read.rows / (law.rows / (ranks_now / RANKS_A_NODE))
        values: tuple[str | int | float, ...] = (
            "log-normal" if uneven else "equal",
            lanes,
            ranks_now,
            int(np.median(read.requests)),
            round(float(np.median(read.rows)) * ROW_BYTES / 1e9, 1),
            round(float(np.median(share)), 3),
            round(float(share.max()), 3),
            round(float(read.rows.sum() / law.rows), 3),
            round(float(by_lane.max() / by_lane.mean()), 3),
            round(float(np.mean(fresh)) * WINDOW, 1),
            last_step(law, starts, ranks_now, batch_size, start),
        )
        told.append(dict(zip(COLUMNS, values, strict=True)))
    return told


def _new_lanes(before: Reading, after: Reading, staying: Rows) -> Rows:
    """Return how many lanes each node that stays did not have before."""
    kept = np.minimum(after.last, before.last[staying]) - np.maximum(after.first, before.first[staying]) + 1
    return np.asarray(after.last - after.first + 1 - np.maximum(kept, 0))


def main() -> None:
    """Simulate, and show the table."""
    parser = argparse.ArgumentParser(description="What nodes of a very large run read, by simulation.")
    parser.add_argument("--ranks", type=int, default=100_000)
    parser.add_argument("--lanes", default="12500,100000,200000")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    began = time.monotonic()
    rows = [
        row
        for uneven in (False, True)
        for lanes in map(int, asked.lanes.split(","))
        for row in simulated(lanes, asked.ranks, asked.batch_size, uneven=uneven)
    ]
    table = Table(*COLUMNS)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    Console(width=200).print(table, f"{time.monotonic() - began:.1f} s")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2))
    if asked.markdown:
        asked.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
