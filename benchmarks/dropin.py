"""Is ours faster than torch's over datasets of the user's own, and no later and no larger? Both classes, the same dataset, fresh processes in turn.

python -m benchmarks.dropin [--rounds 5] [--seconds 4] [--workers 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .dropin_loop import CASES
from .harness import Config, Run, interleaved, machine, median

BOUNDS = {"eight small tensors": 2.0, "one of 37 MiB": 1.5, "an int": 0.95}
"""Ours over torch's, that each case is to reach."""


def configurations(workers: int, seconds: float) -> dict[str, Config]:
    """Return every configuration by name."""
    base = {"module": "benchmarks.dropin_loop", "workers": workers, "seconds": seconds}
    return {f"{case} | {loader}": {**base, "case": case, "loader": loader} for case in CASES for loader in ("torch", "penstock")}


def summary(runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Return the medians of each case, and those of the ratios of its rounds."""
    found = {}
    for case in CASES:
        theirs, ours = runs[f"{case} | torch"], runs[f"{case} | penstock"]

        def ratio(name: str, ours: list[Run] = ours, theirs: list[Run] = theirs) -> float:
            return statistics.median(float(mine.told[name]) / float(other.told[name]) for mine, other in zip(ours, theirs, strict=True))

        found[case] = {
            "torch": median(theirs, "batches_per_s"),
            "penstock": median(ours, "batches_per_s"),
            "ratio": ratio("batches_per_s"),
            "bound": BOUNDS[case],
            "first_batch": ratio("first_s"),
            "memory": statistics.median(mine.peak_bytes / other.peak_bytes for mine, other in zip(ours, theirs, strict=True)),
        }
    return found


def show(found: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    table = Table("a row", "torch, batches/s", "Penstock", "ratio", "asked for", "first batch, over torch's", "peak memory, over torch's")
    for case, row in found.items():
        cells = (
            f"{row['torch']:,.0f}",
            f"{row['penstock']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['bound']:.2f}",
            f"{row['first_batch']:.2f}",
            f"{row['memory']:.2f}",
        )
        table.add_row(case, *cells)
    Console().print(table)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description="Ours against torch's DataLoader over datasets of the user's own.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: Any = summary(interleaved(configurations(asked.workers, asked.seconds), asked.rounds))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "cases": found}, indent=2))


if __name__ == "__main__":
    main()
