"""What do order, seeking, mixing, packing and the state cost, and how well do they do what they are for?

In one process on one core, without a loader of anybody else's: these are costs, not comparisons. Medians of `--rounds`. Told are

- nanoseconds a sample of each order, positions of a rank included, and its part of the processor time that a loader with that order takes for a row of W4
  (32 float32 and a label, inline); a loader whose lanes are dealt to eight ranks is one of the eight;
- microseconds of `state_dict()` in the middle of an epoch;
- milliseconds from the moment that a dataset's commits are read to a `DataLoader`, its state loaded and the rows of its first batch known, in the middle of a
  pass over 10^6 samples in one shard and over 10^12 in 10^6; then to the opening of the first shard, which fails, since no shard exists; and the memory that
  the loader keeps;
- how seldom neighbours stay neighbours, and come from one shard, and how far rows stay from where they stood, by the width of a window of shards;
- how full packed sequences are, how many documents are cut that a sequence could hold, and what a row and a plan cost: rows that follow one another, rows of a
  global shuffle over all windows, and the same where no plan is kept, as with more windows than `packed.PLAN_BYTES` holds.

    python -m benchmarks.order_cost [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import penstock as ps
from penstock.errors import StorageError
from penstock.loaders import packed as packing_rows
from penstock.loaders.law import Ordering, Stream
from penstock.loaders.mixing import Mix
from penstock.loaders.mixture import MixedStream
from penstock.loaders.plan import Plan
from penstock.shards.commits import commit_path
from penstock.shards.manifest import Commit, Shard
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


class Case(NamedTuple):
    """What is measured.

    Attributes:
        ordering: what decides the order.
        ranks: how many share the data; the first is measured.
        mixed: whether the data is a mixture of three datasets.
    """

    ordering: Ordering
    ranks: int = 1
    mixed: bool = False


ORDERS = {
    "global": Case(Ordering(0, True)),
    "windows of 4 shards": Case(Ordering(0, True, 4)),
    "windows of 4 shards, 8 lanes, one a rank": Case(Ordering(0, True, 4, 8), ranks=8),
    "windows of 4 shards, 8 lanes, all of one rank": Case(Ordering(0, True, 4, 8)),
    "mixture of 3": Case(Ordering(0, True), mixed=True),
}
"""What is compared, by name."""

SEEKING = {
    "global": Ordering(0, True),
    "windows of 4 shards": Ordering(0, True, 4),
    "windows of 4 shards, 8 lanes": Ordering(0, True, 4, 8),
    "windows of 4 shards, 1,000 lanes": Ordering(0, True, 4, 1000),
}
"""Orders whose middle is looked for."""

FIELDS: dict[str, ps.fields.Field] = {"x": ps.Array((32,), "float32"), "label": ps.Scalar("int64")}
"""The columns of W4."""


def w4(folder: Path, rows: int) -> ps.Dataset:
    """Write rows of W4 in 16 shards."""
    with ps.Writer(folder / "rows", fields=FIELDS, shard_size=max(rows // 16, 1) * 136) as writer:
        for n in range(rows):
            writer.write({"x": np.full(32, n, np.float32), "label": n})
    return ps.Dataset(folder / "rows")


def three(dataset: ps.Dataset) -> ps.Mixture:
    """Return a mixture of a dataset with itself."""
    return ps.Mixture(dict.fromkeys("abc", dataset), dict(zip("abc", (0.5, 0.3, 0.2), strict=True)))


def orders(dataset: ps.Dataset, rounds: int, count: int) -> dict[str, float]:
    """Return nanoseconds a sample of `count` positions of a rank, by order."""
    starts = np.arange(0, 10**8 + 1, 10**5)

    def drawing(case: Case, starts: Any = starts) -> Callable[[], object]:
        ordering = case.ordering
        stream = MixedStream(three(dataset), ordering) if case.mixed else Stream(ordering, starts)
        plan = Plan(rows=stream.positions, batch_size=min(count, stream.positions // case.ranks), world_size=case.ranks, lanes=ordering.lanes)
        return lambda: stream.draw(0, plan.batch(0).positions())

    every, mix = np.arange(count), Mix({0: [0.5, 0.3, 0.2]}, seed=0)
    calls = {name: drawing(case) for name, case in ORDERS.items()}
    calls |= {f"global, {name} rows": drawing(ORDERS["global"], np.array([0, rows])) for name, rows in (("10^6", 10**6), ("10^12", 10**12))}
    calls["mixture of 3, without its sources' orders"] = lambda: mix.locate(every)
    return {name: median_s(call, rounds) / count * 1e9 for name, call in calls.items()}


def loaders(dataset: ps.Dataset, rounds: int) -> dict[str, dict[str, float]]:
    """Return wall and processor nanoseconds that an inline loader takes for a row of W4, and microseconds of its `state_dict()`, by order."""
    found = {}
    for name, (order, ranks, mixed) in ORDERS.items():
        loader = ps.DataLoader(
            three(dataset) if mixed else dataset,
            1024,
            shuffle=True,
            window_shards=order.window_shards,
            lanes=order.lanes,
            topology=(0, ranks),
            epoch_samples=len(dataset) * ranks,  # so that epochs of this rank are equally long
        )
        times = []
        for _ in range(rounds + 1):
            rows, began, used = 0, time.perf_counter(), time.process_time()
            for _ in range(5):
                for batch in loader:
                    rows += len(batch["label"])
            times.append(((time.perf_counter() - began) / rows, (time.process_time() - used) / rows))
        wall, cpu = (statistics.median(each) * 1e9 for each in zip(*times[1:], strict=True))
        batches = iter(loader)
        next(batches)
        state_s = median_s(loader.state_dict, 100 * rounds)
        found[name] = {"wall_ns": wall, "cpu_ns": cpu, "state_us": state_s * 1e6}
    return found


def published(folder: Path, shards: int) -> Path:
    """Write the commit of a dataset of W4 of so many shards of 10^6 rows, none of which exists."""
    added = tuple(
        Shard(path=f"data/{number:09d}.arrow", format="arrow", rows=10**6, bytes=136 * 10**6, xxh3=f"{number:016x}", block_rows=4096)
        for number in range(shards)
    )
    made = Commit(version=1, parent=None, time="2026-01-01T00:00:00Z", operation="create", schema=FIELDS, metadata={}, added=added)
    path = commit_path(folder / f"of {shards}", 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(made.to_json())
    return folder / f"of {shards}"


def seeking(folder: Path, rounds: int, most_shards: int) -> dict[str, dict[str, float]]:
    """Return milliseconds to the rows of a batch in the middle of a pass, and on to the first shard, and megabytes that are kept, by order and shards."""
    found: dict[str, dict[str, float]] = {}
    for shards in (1, most_shards):
        path = published(folder, shards)
        began = time.perf_counter()
        dataset = ps.Dataset(path)
        read_s = time.perf_counter() - began
        for name, ordering in SEEKING.items():
            options: dict[str, Any] = {"window_shards": ordering.window_shards, "lanes": ordering.lanes, "topology": (3, 64), "tail": "drop"}
            state = ps.DataLoader(dataset, 256, shuffle=True, **options).state_dict() | {"samples": len(dataset) // 2, "under_way": True}

            def built(options: dict[str, Any] = options, state: dict[str, Any] = state, dataset: ps.Dataset = dataset) -> ps.DataLoader:
                loader = ps.DataLoader(dataset, 256, shuffle=True, output="numpy", **options)
                loader.load_state_dict(state)
                return loader

            def sought(built: Callable[[], ps.DataLoader] = built, dataset: ps.Dataset = dataset) -> object:
                loader = built()
                stream = Stream(loader.ordering, dataset.starts)  # as the loader's own is
                stream.draw(0, loader.plan.batch(0, len(dataset) // 2).positions())
                return loader, stream

            def opened(built: Callable[[], ps.DataLoader] = built) -> None:
                with suppress(StorageError):  # there is no shard
                    next(iter(built()))

            took = [median_s(call, rounds) * 1e3 for call in (sought, opened)]
            tracemalloc.start()
            kept = sought()
            megabytes = tracemalloc.get_traced_memory()[0] / 1e6
            tracemalloc.stop()
            del kept
            found[f"{name}, {shards:,} shards"] = {"ms": took[0], "first_shard_ms": took[1], "mb": megabytes, "commit_s": read_s}
    return found


def mixed() -> dict[str, dict[str, float]]:
    """Return how well an order mixes, by the width of a window, over 100 shards of 1,000 rows and 20 seeds.

    Told are the shares of neighbours that stay neighbours and of those from one shard (means), and the rank correlation of rows and positions over a pass and
    inside a window (root mean squares): chance has 1 / sqrt(99) for 100 permuted shards, and 1 / sqrt(n) for n permuted rows.
    """
    starts, positions, found = np.arange(0, 100_001, 1000), np.arange(100_000), {}
    for width in (1, 4, 16, 32, 0):
        size = (width or 100) * 1000
        told = []
        for seed in range(20):
            rows = Stream(Ordering(seed, True, width), starts).draw(0, positions).rows
            whole = rows[: rows.size // size * size].reshape(-1, size)
            inside = [np.corrcoef(np.argsort(np.argsort(window)), positions[:size])[0, 1] for window in whole]
            steps = np.abs(np.diff(rows)) == 1
            told.append((np.mean(steps), np.mean(np.diff(rows // 1000) == 0), np.corrcoef(rows, positions)[0, 1] ** 2, np.mean(np.square(inside))))
        side_by_side, one_shard, correlation, in_window = np.mean(told, axis=0).tolist()
        found[str(width or "all")] = {
            "side_by_side": side_by_side,
            "one_shard": one_shard,
            "correlation": correlation**0.5,
            "in_window": in_window**0.5,
        }
    return found


@contextmanager
def keeping(plans_bytes: int) -> Iterator[None]:
    """Have packed sequences keep so many bytes of plans."""
    usual, packing_rows.PLAN_BYTES = packing_rows.PLAN_BYTES, plans_bytes
    try:
        yield
    finally:
        packing_rows.PLAN_BYTES = usual


def packed(folder: Path, rounds: int, documents: int) -> dict[str, dict[str, float]]:
    """Return how full sequences are of log-normal documents, what part of those is cut, and microseconds a row and a plan, by algorithm."""
    lengths = np.maximum(np.random.default_rng(0).lognormal(6, 1.1, documents), 1).astype(np.int64)
    with ps.Writer(folder / "documents", fields={"tokens": ps.Tokens("uint16")}) as writer:
        for length in lengths.tolist():
            writer.write({"tokens": np.zeros(length, np.uint16)})
    found: dict[str, dict[str, float]] = {}
    for algorithm in packing.ALGORITHMS:
        rows = ps.Packed(ps.Dataset(folder / "documents"), SEQ_LEN, algorithm, dtype="int64")
        count = min(500, len(rows))
        shuffled = np.random.default_rng(1).permutation(len(rows))[:count].tolist()
        rows.__getitems__(range(0, len(rows), packing_rows.WINDOW // 2))  # plans of all windows, as far as they are kept
        row_s, shuffled_s = (median_s(partial(rows.__getitems__, asked), rounds) / max(count, 1) for asked in (range(count), shuffled))
        with keeping(0):
            bare = ps.Packed(ps.Dataset(folder / "documents"), SEQ_LEN, algorithm, dtype="int64")
            unkept_s = median_s(partial(bare.__getitems__, shuffled), rounds) / max(count, 1)
        plan_s = median_s(partial(packing.pack, lengths[:3000], SEQ_LEN, algorithm), rounds)
        took = {"row_us": row_s, "shuffled_us": shuffled_s, "unkept_us": unkept_s, "plan_us": plan_s}
        told = {"filled": rows.filled, "cut": rows.cut(), "windows": len(rows) / packing_rows.WINDOW}
        found[algorithm] = told | {name: seconds * 1e6 for name, seconds in took.items()}
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
        (
            "to the middle of a pass",
            ["ms", "to the first shard, ms", "MB kept", "commits read before, s"],
            {
                name: [f"{one['ms']:.2f}", f"{one['first_shard_ms']:.2f}", f"{one['mb']:.1f}", f"{one['commit_s']:.2f}"]
                for name, one in found["seeking"].items()
            },
        ),
        (
            "100 shards of 1,000 rows, by window_shards",
            ["still neighbours", "of one shard", "correlation", "in a window"],
            {
                name: [f"{one['side_by_side']:.4%}", f"{one['one_shard']:.1%}", f"{one['correlation']:.3f}", f"{one['in_window']:.4f}"]
                for name, one in found["windows"].items()
            },
        ),
        (
            f"log-normal documents in sequences of {SEQ_LEN:,}",
            ["filled", "documents cut", "windows", "us a row", "shuffled", "without its plan", "us a plan of 3,000"],
            {
                n: [
                    *(f"{one[name]:.1%}" for name in ("filled", "cut")),
                    *(f"{one[name]:.0f}" for name in ("windows", "row_us", "shuffled_us", "unkept_us", "plan_us")),
                ]
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
    parser.add_argument("--shards", type=int, default=10**6, help="shards of 10^6 rows of the larger dataset that is opened")
    parser.add_argument("--documents", type=int, default=120_000, help="documents that are packed: more than 64 windows of them")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = w4(folder, asked.rows)
        found: dict[str, Any] = {
            "machine": machine(),
            "orders_ns": orders(dataset, asked.rounds, asked.positions),
            "loaders": loaders(dataset, asked.rounds),
            "seeking": seeking(folder, asked.rounds, asked.shards),
            "windows": mixed(),
            "packing": packed(folder, asked.rounds, asked.documents),
        }
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
