"""At how many workers does the parent become the bottleneck, and how many have something to do?

The parent's processor time for a batch is measured at 1, 2, 4 and 8 workers, which need not have a core each for that, and the workers' time for a
batch at 1. A line through the parent's times gives its cost for a batch and for a task; `scaling_model` says by formula, and `scaling_engine` by
running the engine's own rules with made-up workers, what follows from these for more workers than this machine has cores. It holds where memory and
storage keep up, which it knows nothing of, and for a consumer that takes each batch as soon as it is there.

    python -m benchmarks.scaling [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import penstock as ps
from penstock.loaders.ring import MAX_WORKERS

from . import images
from .harness import interleaved, machine, median
from .scaling_engine import shapes, simulated
from .scaling_model import Cost, ShapeAt, at_work, fitted, saturation, useful
from .strain_loop import loader_of

MEASURED = (1, 2, 4, 8)
"""Workers."""

SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Workers of the table."""


def make_data(folder: Path, count: int, rows: int) -> dict[str, dict[str, Any]]:
    """Make the data and return what is loaded, by name."""
    images.generate(folder / "files", count=count, seed=0)
    ps.convert(folder / "files", folder / "images")
    rng = np.random.default_rng(0)
    np.savez(folder / "rows.npz", x=rng.random((rows, 32), np.float32), label=np.arange(rows))
    ps.convert(folder / "rows.npz", folder / "rows")
    return {
        "images": {"data": str(folder / "images"), "images": True, "batch_size": 256, "epochs": 4},
        "rows": {"data": str(folder / "rows"), "batch_size": 1024, "epochs": 40},
    }


def described(name: str, cost: Cost, shape_at: ShapeAt) -> Table:
    """Return the table of one kind."""
    title = f"{name}: parent {1e6 * cost.batch_s:.0f} us a batch and {1e6 * cost.task_s:.1f} us a task, workers {1e3 * cost.work_s:.3g} ms a batch"
    table = Table("workers", "of these at work", "samples/s by formula", "samples/s simulated", "parent busy", title=title)
    for workers in SHOWN:
        shape = shape_at(workers)
        rate, busy = simulated(cost, shape, workers)
        table.add_row(str(workers), str(at_work(shape, workers)), f"{cost.rate(shape, workers):,.0f}", f"{rate:,.0f}", f"{busy:.0%}")
    return table


def told(cost: Cost, shape_at: ShapeAt) -> dict[str, Any]:
    """Return what follows from the costs."""
    busy, most = saturation(cost, shape_at, MAX_WORKERS), useful(shape_at, MAX_WORKERS)
    at = busy or most
    return {**cost._asdict(), "saturation": busy, "useful": most, "rate": cost.rate(shape_at(at), at)}


def sentence(name: str, found: dict[str, Any]) -> str:
    """Return the answer in words."""
    rate = f"{found['rate']:,.0f} samples/s by formula"
    if found["saturation"] is not None:
        return f"{name}: the parent is busy all the time from {found['saturation']} workers on, at {rate}"
    return f"{name}: no number of workers keeps the parent busy; while the consumer waits, no more than {found['useful']} have something to do, at {rate}"


def main(words: Sequence[str] | None = None) -> None:
    """Measure, fit, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="images")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(words)
    began = time.time()
    base = {"module": "benchmarks.strain_loop", "experiment": "handover"}
    console, found = Console(width=120), {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = make_data(Path(folder), chosen.count, chosen.rows)
        configs = {f"{name} {w}": {**base, **kind, "workers": w} for name, kind in kinds.items() for w in MEASURED}
        runs = interleaved(configs, chosen.rounds)
        for name, kind in kinds.items():
            shape_at = shapes(loader_of({**kind, "workers": 1}))
            points = {w: median(runs[f"{name} {w}"], "parent_s") for w in MEASURED}
            cost = fitted(points, shape_at, kind["batch_size"], median(runs[f"{name} 1"], "work_s"))
            found[name] = {**told(cost, shape_at), "points": points}
            console.print(described(name, cost, shape_at))
            console.print(f"measured parent time a batch: {', '.join(f'{w} workers {1e6 * s:.0f} us' for w, s in points.items())}")
            console.print(sentence(name, found[name]) + "\n")
    print(f"{chosen.rounds} rounds in {time.time() - began:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps({"machine": machine(), **found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
