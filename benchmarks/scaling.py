"""At how many workers does the parent become the bottleneck?

The parent's processor time for a batch is measured at 1, 2, 4 and 8 workers, which need not have a core each for that, and the workers' time for a
batch at 1. A line through the parent's times gives its cost for a batch and for a task; `scaling_model` says what follows from these for more
workers than this machine has cores. It holds where memory and storage keep up, which it knows nothing of.

    python -m benchmarks.scaling [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import penstock as ps

from . import images
from .harness import interleaved, machine, median
from .scaling_model import Cost, fitted, saturation, simulated

MEASURED = (1, 2, 4, 8)
"""Workers."""

SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Workers of the table."""


def make_data(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """Make the data and return what is loaded, by name."""
    images.generate(folder / "files", count=count, seed=0)
    ps.convert(folder / "files", folder / "images")
    rng = np.random.default_rng(0)
    np.savez(folder / "rows.npz", x=rng.random((400_000, 32), np.float32), label=np.arange(400_000))
    ps.convert(folder / "rows.npz", folder / "rows")
    return {
        "images": {"data": str(folder / "images"), "images": True, "batch_size": 256, "epochs": 4, "smallest": 8},
        "rows": {"data": str(folder / "rows"), "batch_size": 1024, "epochs": 40, "smallest": 1024},
    }


def described(name: str, cost: Cost) -> Table:
    """Return the table of one kind."""
    title = f"{name}: parent {1e6 * cost.batch_s:.0f} us a batch and {1e6 * cost.task_s:.1f} us a task, workers {1e3 * cost.work_s:.3g} ms a batch"
    table = Table("workers", "samples/s by formula", "samples/s simulated", "parent busy", title=title)
    for workers in SHOWN:
        rate, busy = simulated(cost, workers)
        table.add_row(str(workers), f"{cost.rate(workers):,.0f}", f"{rate:,.0f}", f"{busy:.0%}")
    return table


def main() -> None:
    """Measure, fit, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="images")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    began = time.time()
    base = {"module": "benchmarks.strain_loop", "experiment": "handover"}
    with tempfile.TemporaryDirectory() as folder:
        kinds = make_data(Path(folder), chosen.count)
        configs = {f"{name} {w}": {**base, **kind, "workers": w} for name, kind in kinds.items() for w in MEASURED}
        runs = interleaved(configs, chosen.rounds)
    console, told = Console(width=120), {}
    for name, kind in kinds.items():
        points = {w: median(runs[f"{name} {w}"], "parent_s") for w in MEASURED}
        cost = fitted(points, kind["batch_size"], median(runs[f"{name} 1"], "work_s"), kind["smallest"])
        console.print(described(name, cost))
        console.print(f"measured parent time a batch: {', '.join(f'{w} workers {1e6 * s:.0f} us' for w, s in points.items())}")
        console.print(
            f"{name}: the parent is busy all the time from {saturation(cost)} workers on, at {cost.rate(saturation(cost)):,.0f} samples/s\n"
        )
        told[name] = {**cost._asdict(), "points": points, "saturation": saturation(cost), "rate": cost.rate(saturation(cost))}
    print(f"{chosen.rounds} rounds in {time.time() - began:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps({"machine": machine(), **told}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
