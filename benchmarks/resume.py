"""What does it cost to go on in the middle of an epoch, beside a start from its beginning? Loaders that have a state, side by side.

Each loader delivers half an epoch once and writes its state. Then, in fresh processes and in turn, `--rounds` times, it starts from the beginning and from
that state; told are the seconds from the moment that everything is imported to the first batch (the dataset is opened meanwhile, workers started), the ratio of
both, taken within a round, and whether the batches behind the state are those that an uninterrupted run delivers. A loader that fails is told with the reason.

    python -m benchmarks.resume --data DIR [--rounds 5] [--workloads W3,W4] [--workers 0,2] [--only penstock,grain] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import harness
from .rivals.registry import STATEFUL, Loader
from .rivals.samples import BATCH, WINDOW
from .table import Campaign, last_words, prepared
from .workloads import rows_of

MODULE = "benchmarks.rivals.stateful"
LIMIT_S = 300.0
"""Seconds that one measurement may take."""


def batches_of(workload: str, scale: float) -> int:
    """Return the batches of an epoch."""
    return rows_of(workload, scale) // (WINDOW if workload == "W3" else 1) // BATCH[workload]


def resumed(campaign: Campaign, loader: Loader, workload: str, workers: int, state: Path) -> list[harness.Config]:
    """Have a loader save its state in the middle of an epoch; return its two configurations, and note in both what the save told.

    Raises:
        RuntimeError: its data cannot be made, or the program failed.
    """
    if reason := loader.absent():
        raise RuntimeError(reason)
    config = prepared(campaign, loader, workload)
    config = {
        **config,
        "module": MODULE,
        "program": loader.module,
        "workers": workers,
        "state": str(state),
        "at": batches_of(workload, campaign.scale) // 2,
    }
    told = harness.measure({**config, "do": "save"}, LIMIT_S).told
    return [{**config, "do": do, "loader": loader.name, "kind": workload, "saved": told} for do in ("start", "resume")]


def row_of(starts: list[harness.Run], resumes: list[harness.Run], saved: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a loader."""
    ratios = [resume.told["open_s"] / start.told["open_s"] for start, resume in zip(starts, resumes, strict=True)]
    return {
        "start_s": harness.median(starts, "open_s"),
        "resume_s": harness.median(resumes, "open_s"),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "first_batch_s": harness.median(resumes, "first_batch_s"),
        "exact": all(run.told["next"] == saved["next"] for run in resumes),
        "state_us": saved["state_us"],
        "state_bytes": saved["state_bytes"],
    }


def measured(campaign: Campaign, workload: str, workers: int, loaders: list[Loader], folder: Path) -> dict[str, dict[str, Any]]:
    """Return a row for each loader, or why there is none."""
    rows: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[harness.Config]] = {}
    for number, loader in enumerate(loaders):
        try:
            pairs[loader.name] = resumed(campaign, loader, workload, workers, folder / f"{workload}-{workers}-{number}")
        except RuntimeError as error:
            rows[loader.name] = {"absent": last_words(error)}
    runs: dict[str, tuple[list[harness.Run], list[harness.Run]]] = {name: ([], []) for name in pairs}
    for turn in range(campaign.rounds):
        for name in harness.turned(list(pairs), turn):
            try:
                harness.warm({**pairs[name][0], "module": pairs[name][0]["program"]})
                for which in (0, 1) if turn % 2 == 0 else (1, 0):
                    runs[name][which].append(harness.measure(pairs[name][which], LIMIT_S))
            except RuntimeError as error:
                rows[name] = {"absent": last_words(error)}
                del pairs[name]
    return {**{name: row_of(*runs[name], pair[0]["saved"]) for name, pair in pairs.items()}, **rows}


def show(found: dict[str, Any]) -> None:
    """Print a table for each workload and number of workers."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    for title, rows in found["rows"].items():
        table = Table("loader", "start, s", "resume, s", "ratio", "range", "exact", "state_dict(), us", "state, bytes", title=title)
        for name, row in rows.items():
            if "absent" in row:
                table.add_row(name, "absent", row["absent"])
                continue
            numbers = (f"{row['start_s']:.3f}", f"{row['resume_s']:.3f}", f"{row['ratio']:.2f}", f"{row['least']:.2f} to {row['most']:.2f}")
            table.add_row(name, *numbers, "yes" if row["exact"] else "NO", f"{row['state_us']:,.0f}", f"{row['state_bytes']:,}")
        console.print(table)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description="Going on from a saved state beside a start from the beginning.")
    parser.add_argument("--data", type=Path, required=True, help="folder for the data, kept for the next time")
    parser.add_argument("--workloads", default="W3,W4")
    parser.add_argument("--workers", default="0,2")
    parser.add_argument("--only", default="", help="parts of loaders' names, separated by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="of the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    parts = asked.only.lower().split(",")
    campaign = Campaign(data=asked.data, scale=asked.scale, rounds=asked.rounds)
    found: dict[str, Any] = {"machine": harness.machine(), "rounds": asked.rounds, "scale": asked.scale, "rows": {}}
    with tempfile.TemporaryDirectory() as name:
        for workload in asked.workloads.split(","):
            loaders = [loader for loader in STATEFUL if workload in loader.workloads and any(part in loader.name.lower() for part in parts)]
            for workers in map(int, asked.workers.split(",")):
                title = f"{workload}, {workers} workers"
                print(f"{title} ...", flush=True)
                found["rows"][title] = measured(campaign, workload, workers, loaders, Path(name))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
