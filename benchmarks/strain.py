"""Does the loader keep pace under strain, and out of the way: a slow consumer, slow samples, many epochs, very many rows?

- A consumer whose step takes half as long again as the loader needs for a batch: what part of its time does it wait?
- What part of a core does the training process itself spend on loading 1,000 images a second? The step does not get that.
- One sample in a hundred ten times as slow, which is 9 % more work: how much of the rate is lost, and is the order the same?
- Twenty epochs, and 1 million against 100 million rows: does memory grow? Pages of the mapped shards are told apart from memory: they are the
  page cache, which the system takes back whenever it wants them, and torch over a mapped array has them too.

Each measurement is a fresh process, in turn, `--rounds` times; what is told are medians.

    python -m benchmarks.strain [--rounds 5] [--rows 100000000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import penstock as ps

from . import images
from .harness import Config, Run, interleaved, machine, median

COST_S = 0.0005
"""Of an even sample, in CPU seconds."""

EVERY, FACTOR = 100, 10
"""One sample in so many costs so many times that."""

WORK = 1 + (FACTOR - 1) / EVERY
"""Of the uneven samples over that of the even ones."""

PARENT_BOUND = 0.05
"""Of a core, for 1,000 images a second: the most that loading may take of the training process."""

CHUNK = 4_000_000
"""Rows written at once."""


def make_rows(folder: Path, rows: int) -> str:
    """Write a dataset of so many labels and return its path."""
    with ps.Writer(folder, {"label": ps.Scalar("int64")}) as writer:
        for start in range(0, rows, CHUNK):
            writer.write_table(pa.table({"label": np.arange(start, min(start + CHUNK, rows))}))
    return str(folder)


def configurations(folder: Path, count: int, rows: int) -> dict[str, Config]:
    """Make the data and return every configuration by name."""
    images.generate(folder / "files", count=count, seed=0)
    ps.convert(folder / "files", folder / "images")
    photos: dict[str, Any] = {"data": str(folder / "images"), "images": True, "batch_size": 256}
    few, some, many = (make_rows(folder / f"rows-{n}", n) for n in (20_000, 1_000_000, rows))
    base = {"module": "benchmarks.strain_loop"}
    found: dict[str, Config] = {}
    for workers in (1, 2):
        for name, every in (("even", 0), ("uneven", EVERY)):
            burn = {"cost_s": COST_S, "every": every, "factor": FACTOR, "batch_size": 256, "data": few}
            found[f"{name} samples, {workers} workers"] = {**base, **burn, "experiment": "uneven", "workers": workers}
        for name, slow in (("images", photos), ("rows", {"data": some, "batch_size": 1024})):
            found[f"consumer of {name}, {workers} workers"] = {**base, **slow, "experiment": "consumer", "workers": workers}
        found[f"handover of images, {workers} workers"] = {**base, **photos, "experiment": "handover", "workers": workers, "epochs": 4}
    for workers in (0, 2):
        epochs = {"experiment": "memory", "workers": workers, "epochs": 20, "batches": 1000}
        found[f"20 epochs of images, {workers} workers"] = {**base, **photos, **epochs}
        for name, data in (("1 million", some), (f"{rows / 1e6:g} million", many)):
            found[f"{name} rows, {workers} workers"] = {**base, **epochs, "data": data, "batch_size": 1024, "epochs": 2, "batches": 400}
    return found


def growth(runs: list[Run]) -> float:
    """Return by how many bytes the memory of the last five epochs is above that of the second to sixth; the median of the runs."""
    each: list[float] = []
    for run in runs:
        taken: list[float] = [epoch["memory_bytes"] for epoch in run.told["epochs"]]
        each.append(statistics.median(taken[-5:]) - statistics.median(taken[1:6]))
    return statistics.median(each)


def answers(runs: dict[str, list[Run]], rows: int) -> list[tuple[str, str, bool]]:
    """Return what was asked, what was found, and whether that is within the bound."""
    found: list[tuple[str, str, bool]] = []
    for workers in (1, 2):
        even, uneven = runs[f"even samples, {workers} workers"], runs[f"uneven samples, {workers} workers"]
        kept = statistics.median(b.told["samples_per_s"] / a.told["samples_per_s"] * WORK for a, b in zip(even, uneven, strict=True))
        same = len({run.told["order"] for run in (*even, *uneven)}) == 1
        found.append((f"rate with slow samples over their share of the work, {workers} workers (1 or more)", f"{kept:.3f}", kept >= 1))
        found.append((f"order with slow samples, {workers} workers", "the same" if same else "another", same))
        for name in ("images", "rows"):
            each = runs[f"consumer of {name}, {workers} workers"]
            waiting, present, step_ms = median(each, "waiting"), median(each, "waiting_when_ready"), 1000 * median(each, "step_s")
            question = f"waiting of a slow consumer of {name}, {workers} workers, steps of {step_ms:.0f} ms (under 1 %)"
            found.append((question, f"{waiting:.2%}, and {present:.2%} when batches lie ready", waiting < 0.01))
        share = median(runs[f"handover of images, {workers} workers"], "parent_s_per_1000")  # CPU seconds in each second that brings 1,000
        question = f"parent CPU per 1,000 images/s, {workers} workers (under {100 * PARENT_BOUND:g} % of a core)"
        found.append((question, f"{share:.2%} of a core", share < PARENT_BOUND))
    for workers in (0, 2):
        grown = growth(runs[f"20 epochs of images, {workers} workers"]) / 1e6
        found.append((f"growth over 20 epochs of images, {workers} workers (within 10 MB)", f"{grown:.1f} MB", grown < 10))
        few, many = (runs[f"{name} rows, {workers} workers"] for name in ("1 million", f"{rows / 1e6:g} million"))
        more = (median(many, "memory_bytes") - median(few, "memory_bytes")) / 1e6
        pages = (median(many, "mapped_bytes") - median(few, "mapped_bytes")) / 1e6
        text = f"{more:.1f} MB, and {pages:,.0f} MB of page cache"
        found.append((f"memory for {rows / 1e6:g} million rows over that for 1 million, {workers} workers (within 10 MB)", text, abs(more) < 10))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Make the data, run the rounds, print and save the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=2000, help="images")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(words)
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        runs = interleaved(configurations(Path(folder), chosen.count, chosen.rows), chosen.rounds)
    found = answers(runs, chosen.rows)
    table = Table("under strain", "found", "within the bound")
    for question, answer, good in found:
        table.add_row(question, answer, "yes" if good else "no")
    Console(width=150).print(table)
    print(f"{chosen.rounds} rounds in {time.time() - began:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": machine(), "answers": found, "runs": {name: [run.told for run in each] for name, each in runs.items()}}
        chosen.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
