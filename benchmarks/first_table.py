"""Is our loader faster than torch's DataLoader, and no later with the first batch?

Images: 224-pixel training images (RandomResizedCrop, flip, normalise, float32 CHW) decoded from JPEG, batch 256. Rows: 32 float32 and a
label, batch 1,024. Both shuffled, with 0, 1 and 2 workers, torch and we in the same interleaved run. "Best" compares the best rate of each
over the numbers of workers. First batch counts from the start of the process, imports included.

    python -m benchmarks.first_table [--rounds 5] [--json FILE]
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
from .harness import Run, interleaved, machine, median, spread

WORKERS = (0, 1, 2)


def make_data(folder: Path, count: int, rows: int) -> dict[str, str]:
    """Make both data sets in both forms and return where each loader finds its own."""
    images.generate(folder / "files", count=count, seed=0)
    ps.convert(folder / "files", folder / "images")
    rng = np.random.default_rng(0)
    x, label = rng.random((rows, 32), np.float32), np.arange(rows)
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "x.npy", x)
    np.save(folder / "arrays" / "label.npy", label)
    np.savez(folder / "rows.npz", x=x, label=label)
    ps.convert(folder / "rows.npz", folder / "rows")
    return {
        "penstock images": str(folder / "images"),
        "torch images": str(folder / "files"),
        "penstock rows": str(folder / "rows"),
        "torch rows": str(folder / "arrays"),
    }


def configurations(data: dict[str, str], seconds: float) -> dict[str, dict[str, Any]]:
    """Return every configuration by name."""
    return {
        f"{loader}, {workers} workers": {
            "module": f"benchmarks.loop_{loader.split()[0]}",
            "kind": loader.split()[1],
            "workers": workers,
            "data": path,
            "batch_size": 256 if "images" in loader else 1024,
            "seconds": seconds,
        }
        for loader, path in data.items()
        for workers in WORKERS
    }


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Return the medians by configuration and the ratios that the question asks for."""
    rows = {
        name: {
            "samples_per_s": median(each, "samples_per_s"),
            "range": spread(each, "samples_per_s"),
            "first_batch_s": median(each, "first_batch_s"),
            "cpu_s_per_1000": sorted(run.cpu_s / run.told["samples"] * 1000 for run in each)[len(each) // 2],
            "peak_MB": sorted(run.peak_bytes for run in each)[len(each) // 2] / 1e6,
        }
        for name, each in runs.items()
    }
    ratios: dict[str, float] = {}
    for kind in ("images", "rows"):
        best = {who: max(rows[f"{who} {kind}, {w} workers"]["samples_per_s"] for w in WORKERS) for who in ("penstock", "torch")}
        ratios[f"best rate of {kind}"] = best["penstock"] / best["torch"]
        for w in WORKERS:
            ours, theirs = rows[f"penstock {kind}, {w} workers"], rows[f"torch {kind}, {w} workers"]
            ratios[f"rate of {kind}, {w} workers"] = ours["samples_per_s"] / theirs["samples_per_s"]
            ratios[f"time to first batch of {kind}, {w} workers"] = ours["first_batch_s"] / theirs["first_batch_s"]
    return {"machine": machine(), "medians": rows, "ratios": ratios}


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    table = Table("configuration", "samples/s", "range", "first batch, s", "CPU s per 1,000", "peak MB")
    for name, row in found["medians"].items():
        numbers = (
            f"{row['samples_per_s']:,.0f}",
            row["range"],
            f"{row['first_batch_s']:.2f}",
            f"{row['cpu_s_per_1000']:.3f}",
            f"{row['peak_MB']:,.0f}",
        )
        table.add_row(name, *numbers)
    console.print(table)
    ratios = Table("ours over torch's", "ratio")
    for name, ratio in found["ratios"].items():
        ratios.add_row(name, f"{ratio:.2f}")
    console.print(ratios)


def main() -> None:
    """Make the data, run the rounds, print and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=3000, help="images")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="least time of a measurement")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), chosen.count, chosen.rows)
        found = summary(interleaved(configurations(data, chosen.seconds), chosen.rounds))
    show(found)
    print(f"{chosen.rounds} rounds in {time.time() - began:.0f} s")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
