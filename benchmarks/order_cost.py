"""What do order, seeking, mixing, packing and the state cost, and how well do they do what they are for?

In one process on one core, without a loader of anybody else's: these are costs, not comparisons. Medians of `--rounds`. Told are

- nanoseconds a sample of each order, and its part of the processor time that a loader with that order takes for a row of W4 (32 float32 and a label, inline);
- microseconds of `state_dict()` in the middle of an epoch;
- milliseconds from the moment that the shards' sizes are known to the rows of the first batch in the middle of a pass, over 10^6 samples in one shard and
  over 10^12 in 10^6, and the memory that the order keeps (no shard exists);
- how seldom neighbours stay neighbours, and come from one shard, by the width of a window of shards;
- how full packed sequences are, how many documents are cut that a sequence could hold, and what a row and a plan cost.

    python -m benchmarks.order_cost [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import penstock as ps
from penstock.loaders.law import Ordering, Stream
from penstock.loaders.mixing import Mix
from penstock.loaders.plan import Plan
from penstock.transforms import packing

from .harness import machine

SEQ_LEN = 4096


def median_s(call: Callable[[], object], rounds: int) -> float:
    """Return the median seconds of a call, the first one left out."""
    call()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


ORDERS = {"global": Ordering(0, True), "windows of 4 shards": Ordering(0, True, 4), "windows of 4 shards, 8 lanes": Ordering(0, True, 4, 8)}
"""What is compared, by name; a rank of eight reads one of the lanes."""


def orders(rounds: int, count: int) -> dict[str, float]:
    """Return nanoseconds a sample of `count` positions, by order."""
    every, eighth, starts = np.arange(count), np.arange(count) * 8, np.arange(0, 10**8 + 1, 10**5)

    def drawing(ordering: Ordering, positions: Any = every, starts: Any = starts) -> Callable[[], object]:
        stream = Stream(ordering, starts)
        return lambda: stream.draw(0, positions)

    mix = Mix({0: [0.5, 0.3, 0.2]}, seed=0)
    calls = {name: drawing(ordering, eighth if ordering.lanes > 1 else every) for name, ordering in ORDERS.items()}
    calls |= {f"global, {name} rows": drawing(ORDERS["global"], starts=np.array([0, rows])) for name, rows in (("10^6", 10**6), ("10^12", 10**12))}
    calls["windows, all 8 lanes by one rank"] = drawing(Ordering(0, True, 4, 8))
    calls["mixture of 3, without its sources' orders"] = lambda: mix.locate(every)
    return {name: median_s(call, rounds) / count * 1e9 for name, call in calls.items()}


def loaders(folder: Path, rounds: int, rows: int) -> dict[str, dict[str, float]]:
    """Return wall and processor nanoseconds that an inline loader takes for a row of W4, and microseconds of its `state_dict()`, by order."""
    with ps.Writer(
        folder / "rows", fields={"x": ps.Array((32,), "float32"), "label": ps.Scalar("int64")}, shard_size=max(rows // 16, 1) * 136
    ) as writer:
        for n in range(rows):
            writer.write({"x": np.full(32, n, np.float32), "label": n})
    found = {}
    for name, order in ORDERS.items():
        loader = ps.DataLoader(ps.Dataset(folder / "rows"), 1024, shuffle=True, window_shards=order.window_shards, lanes=order.lanes)
        times = []
        for _ in range(rounds + 1):
            began, used = time.perf_counter(), time.process_time()
            for _ in range(5):
                for _ in loader:
                    pass
            times.append((time.perf_counter() - began, time.process_time() - used))
        wall, cpu = (statistics.median(each) / (5 * rows) * 1e9 for each in zip(*times[1:], strict=True))
        batches = iter(loader)
        next(batches)
        state_s = median_s(loader.state_dict, 100 * rounds)
        found[name] = {"wall_ns": wall, "cpu_ns": cpu, "state_us": state_s * 1e6}
    return found


def seeking(rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds to the rows of a batch in the middle of a pass, and megabytes that are kept, by order and number of samples."""
    found = {}
    for name, ordering in (*ORDERS.items(), ("windows of 4 shards, 1,000 lanes", Ordering(0, True, 4, 1000))):
        for shards in (1, 10**6):
            starts = np.arange(shards + 1, dtype=np.int64) * 10**6

            def seek(ordering: Ordering = ordering, starts: Any = starts) -> Stream:
                stream = Stream(ordering, starts)
                plan = Plan(rows=stream.positions, batch_size=256, rank=3, world_size=64, tail="drop", lanes=ordering.lanes)
                stream.draw(0, plan.batch(0, plan.rows // 2).positions())
                return stream

            took = median_s(seek, rounds)
            tracemalloc.start()
            kept = seek()
            megabytes = tracemalloc.get_traced_memory()[0] / 1e6
            tracemalloc.stop()
            del kept
            found[f"{name}, 10^{len(str(shards)) + 5}"] = {"ms": took * 1e3, "mb": megabytes}
    return found


def mixed() -> dict[str, dict[str, float]]:
    """Return the shares of neighbours that stay neighbours and of those from one shard, by the width of a window, over 100 shards of 1,000 rows."""
    starts, positions, found = np.arange(0, 100_001, 1000), np.arange(100_000), {}
    for width in (1, 4, 16, 32, 0):
        side, same = [], []
        for seed in range(5):
            rows = Stream(Ordering(seed, True, width), starts).draw(0, positions).rows
            side.append(np.mean(np.abs(np.diff(rows)) == 1))
            same.append(np.mean(rows[1:] // 1000 == rows[:-1] // 1000))
        found[str(width or "all")] = {"side_by_side": float(np.median(side)), "one_shard": float(np.median(same))}
    return found


def packed(folder: Path, rounds: int, documents: int) -> dict[str, dict[str, float]]:
    """Return how full sequences are of log-normal documents, what part of those is cut, and microseconds a row and a plan, by algorithm."""
    lengths = np.maximum(np.random.default_rng(0).lognormal(6, 1.1, documents), 1).astype(np.int64)
    with ps.Writer(folder / "documents", fields={"tokens": ps.Tokens("uint16")}) as writer:
        for length in lengths.tolist():
            writer.write({"tokens": np.zeros(length, np.uint16)})
    found: dict[str, dict[str, float]] = {}
    for algorithm in packing.ALGORITHMS:
        rows = ps.Packed(ps.Dataset(folder / "documents"), SEQ_LEN, algorithm, dtype="int64")
        asked = range(min(100, len(rows)))
        row_s = median_s(partial(rows.__getitems__, asked), rounds) / max(len(asked), 1)
        plan_s = median_s(partial(packing.pack, lengths[:3000], SEQ_LEN, algorithm), rounds)
        found[algorithm] = {"filled": rows.filled, "cut": rows.cut(), "row_us": row_s * 1e6, "plan_us": plan_s * 1e6}
    return found


def show(found: dict[str, Any]) -> None:
    """Print what was measured, a table for each question."""
    w4 = found["loaders"]
    titles: list[tuple[str, list[str], dict[str, list[str]]]] = [
        (
            "order",
            ["ns a sample", "a row of W4, ns", "of processor time", "the order's part of that"],
            {
                name: [
                    f"{ns:.1f}",
                    *([f"{w4[name]['wall_ns']:.0f}", f"{w4[name]['cpu_ns']:.0f}", f"{ns / w4[name]['cpu_ns']:.0%}"] if name in w4 else []),
                ]
                for name, ns in found["orders_ns"].items()
            },
        ),
        ("state_dict()", ["us"], {name: [f"{one['state_us']:.1f}"] for name, one in w4.items()}),
        ("to the middle of a pass", ["ms", "MB kept"], {name: [f"{one['ms']:.2f}", f"{one['mb']:.1f}"] for name, one in found["seeking"].items()}),
        (
            "100 shards of 1,000 rows, by window_shards",
            ["still neighbours", "of one shard"],
            {name: [f"{one['side_by_side']:.4%}", f"{one['one_shard']:.1%}"] for name, one in found["windows"].items()},
        ),
        (
            f"log-normal documents in sequences of {SEQ_LEN:,}",
            ["filled", "documents cut", "us a row", "us a plan of 3,000"],
            {
                n: [f"{one['filled']:.1%}", f"{one['cut']:.1%}", f"{one['row_us']:.0f}", f"{one['plan_us']:.0f}"]
                for n, one in found["packing"].items()
            },
        ),
    ]
    console = Console()
    for title, columns, rows in titles:
        table = Table("", *columns, title=title)
        for name, cells in rows.items():
            table.add_row(name, *cells)
        console.print(table)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description="What order, seeking, mixing, packing and the state cost.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--positions", type=int, default=1 << 14, help="positions whose rows are computed at once")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the W4 dataset that is made")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {
            "machine": machine(),
            "orders_ns": orders(asked.rounds, asked.positions),
            "loaders": loaders(folder, asked.rounds, asked.rows),
            "seeking": seeking(asked.rounds),
            "windows": mixed(),
            "packing": packed(folder, asked.rounds, asked.documents),
        }
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
