"""From runs to what the side-by-side table says: medians, the best setting of each loader, and ratios round by round.

Pure functions on values; nothing is run or printed here. A ratio is taken within each round, where both sides met the same state of the
machine, and told as the median of the rounds with its range.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .harness import Run
from .rivals.registry import Family, Loader

Runs = Mapping[str, Mapping[int, Run]]
"""Runs of each configuration by `key`, each by its round."""


SETTING = " with "
"""Between a loader and the workers with which it failed, in the name of an absence or a failure."""

FAILED = "*"
"""Behind a number of workers: a round with it failed, and its figures are those of the others."""


BOTH_WITH = "torch over one memory map, both with "
"""In front of the most workers that both were tried with, in the name of a ratio."""

OTHERS: tuple[Family, ...] = ("shards", "memmap")
"""What counts as another loader."""


def key(workload: str, loader: str, workers: int) -> str:
    """Return the name of a configuration."""
    return f"{workload} | {loader} | {workers}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration's figures; medians of its rounds.

    Attributes:
        loader: its name.
        family: what it is compared as.
        workers: processes or threads.
        rounds: how many were measured.
        failed: how many were tried and failed.
        samples_per_s: the rate.
        least: the lowest rate.
        most: the highest.
        cpu_s_per_1000: CPU seconds of the process tree for 1,000 samples, in the measured time.
        peak_mb: largest proportional set size of the process tree.
        first_batch_s: from the start of the process.
        versions: of its packages.
    """

    loader: str
    family: Family
    workers: int
    rounds: int
    failed: int
    samples_per_s: float
    least: float
    most: float
    cpu_s_per_1000: float
    peak_mb: float
    first_batch_s: float
    versions: Mapping[str, str]


def _row(loader: Loader, workers: int, runs: Sequence[Run], failed: int) -> Row:
    rates = [float(run.told["samples_per_s"]) for run in runs]
    return Row(
        loader=loader.name,
        family=loader.family,
        workers=workers,
        rounds=len(runs),
        failed=failed,
        samples_per_s=statistics.median(rates),
        least=min(rates),
        most=max(rates),
        cpu_s_per_1000=statistics.median(1000 * run.told["window_cpu_s"] / max(run.told["samples"], 1) for run in runs),
        peak_mb=statistics.median(run.peak_bytes / 1e6 for run in runs),
        first_batch_s=statistics.median(float(run.told["first_batch_s"]) for run in runs),
        versions=runs[0].told.get("versions", {}),
    )


def rows_of(workload: str, loaders: Sequence[Loader], workers: Sequence[int], runs: Runs, failures: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return a row for every configuration that was measured at these numbers of workers; `failures` are the last words of rounds that failed, by `key`."""
    return [
        _row(loader, number, list(found.values()), len(failures.get(key(workload, loader.name, number), ())))
        for loader in loaders
        for number in loader.settings(workers)
        if workload in loader.workloads and (found := runs.get(key(workload, loader.name, number)))
    ]


def best(rows: Sequence[Row], family: Family) -> Row | None:
    """Return the fastest row of a family."""
    return max((row for row in rows if row.family == family), key=lambda row: row.samples_per_s, default=None)


def best_settings(rows: Sequence[Row]) -> list[Row]:
    """Return each loader's fastest row, fastest loader first."""
    names = dict.fromkeys(row.loader for row in rows)
    fastest = [max((row for row in rows if row.loader == name), key=lambda row: row.samples_per_s) for name in names]
    return sorted(fastest, key=lambda row: -row.samples_per_s)


def _rate(run: Run) -> float:
    return float(run.told["samples_per_s"])


def _first_batch_s(run: Run) -> float:
    return float(run.told["first_batch_s"])


def _peak_bytes(run: Run) -> float:
    return float(run.peak_bytes)


def _ratio(workload: str, runs: Runs, ours: Row, theirs: Row, figure: Callable[[Run], float] = _rate) -> dict[str, Any]:
    """Return the ratio of a figure, round by round; empty when the two never ran in one round."""
    one, other = (runs[key(workload, row.loader, row.workers)] for row in (ours, theirs))
    each = [figure(one[turn]) / figure(other[turn]) for turn in one if turn in other]
    if not each:
        return {}
    return {"ratio": statistics.median(each), "least": min(each), "most": max(each), "against": f"{theirs.loader} ({theirs.workers})"}


def ahead(loader: str) -> str:
    """Return the name of our ratio over a loader that is ahead of us in rate."""
    return f"rate, over {loader}"


def _ahead(workload: str, rows: Sequence[Row], runs: Runs, ours: Row) -> dict[str, dict[str, Any]]:
    """Return our rate over that of each loader whose best setting is ahead of ours; limits are no loaders."""
    faster = [row for row in best_settings(rows) if row.family in OTHERS and row.samples_per_s > ours.samples_per_s]
    return {ahead(row.loader): _ratio(workload, runs, ours, row) for row in faster}


def _starts(workload: str, rows: Sequence[Row], runs: Runs) -> dict[str, dict[str, Any]]:
    """Return first batch and peak memory over torch's at the same number of workers: over the best of its ways."""
    found = {}
    for row in rows:
        torch = [other for other in rows if other.loader.startswith("torch") and other.workers == row.workers]
        if row.family == "ours" and torch:
            first, small = min(torch, key=lambda other: other.first_batch_s), min(torch, key=lambda other: other.peak_mb)
            found[f"time to first batch, {row.workers} workers, over torch's"] = _ratio(workload, runs, row, first, _first_batch_s)
            found[f"peak memory, {row.workers} workers, over torch's"] = _ratio(workload, runs, row, small, _peak_bytes)
    return found


def ratios_of(workload: str, rows: Sequence[Row], runs: Runs) -> dict[str, dict[str, Any]]:
    """Return what the table is asked: ours over the best loader of shards, over torch's memory map, over each limit."""
    ours = best(rows, "ours")
    if ours is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, family in (("best loader of shards or files", "shards"), ("best of torch over one memory map", "memmap")):
        theirs = best(rows, family)  # type: ignore[arg-type]  # mypy widens the literals of a tuple
        if theirs is not None:
            found[name] = _ratio(workload, runs, ours, theirs)
    most = max((row.workers for row in rows if row.family == "memmap"), default=0)
    with_workers = [row for row in rows if row.workers == most > 0]
    ours_there, theirs_there = best(with_workers, "ours"), best(with_workers, "memmap")
    if ours_there is not None and theirs_there is not None:
        found[f"{BOTH_WITH}{most} workers"] = _ratio(workload, runs, ours_there, theirs_there)
    for limit in (row for row in rows if row.family == "limit"):
        found[limit.loader] = _ratio(workload, runs, ours, limit)
    found |= {**_ahead(workload, rows, runs, ours), **_starts(workload, rows, runs)}
    return {name: ratio for name, ratio in found.items() if ratio}


def gathered(absent: Mapping[str, str]) -> dict[str, str]:
    """Return the absences with settings of one loader that have one reason in one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in absent.items():
        loader, _, setting = name.rpartition(SETTING)
        groups.setdefault((loader or setting, reason), []).append(setting if loader else "")
    return {
        f"{loader}{SETTING}{', '.join(s.removesuffix(' workers') for s in settings)} workers" if settings[0] else loader: reason
        for (loader, reason), settings in groups.items()
    }


def setting(row: Mapping[str, Any]) -> str:
    """Return a row's number of workers, marked when a round failed."""
    return f"{row['workers']}{FAILED if row.get('failed') else ''}"


def heading(found: Mapping[str, Any]) -> str:
    """Return the line that stands over the tables: when, on what, of which commit or version, and how they were measured."""
    machine, how = found["machine"], found["campaign"]
    versions = machine["versions"]
    code = f"commit {machine['commit'][:12]}{' with changes' if machine['dirty'] else ''}" if "commit" in machine else "no checkout"
    return (
        f"Measured {machine['date']} on {machine['cores']} cores of {machine['processor']}, Python {machine['python']}, torch {versions['torch']}, "
        f"penstock {versions['penstock']} ({code}): {how['rounds']} rounds of {how['seconds']:g} s behind {how['warm_s']:g} s of warm-up, "
        f"{', '.join(map(str, how['workers']))} workers, scale {how['scale']:g}."
    )


def markdown(found: Mapping[str, Any]) -> str:
    """Return the tables as the README shows them: each loader's best setting, those that are absent, and the ratios."""
    lines = []
    for workload, part in found["workloads"].items():
        lines += [
            f"**{workload}**",
            "",
            "| loader | workers | samples/s | range | CPU s per 1,000 | peak MB | first batch, s |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in part["best"]:
            span = f"{row['least']:,.0f} to {row['most']:,.0f}"
            numbers = f"{row['cpu_s_per_1000']:.3g} | {row['peak_mb']:,.0f} | {row['first_batch_s']:.2f}"
            lines.append(f"| {row['loader']} | {setting(row)} | {row['samples_per_s']:,.0f} | {span} | {numbers} |")
        lines += [f"| {name} | - | absent | {reason} | - | - | - |" for name, reason in part["absent"].items()]
        lines += [line for name, reason in part.get("failed", {}).items() for line in ("", f"\\{FAILED} {name}: {reason}")]
        lines += [line for name, reason in part.get("skipped", {}).items() for line in ("", f"{name}: {reason}")]
        lines += ["", "| ours over | ratio | range of the rounds | against |", "|---|---|---|---|"]
        for name, ratio in part["ratios"].items():
            span = f"{ratio['least']:.2f} to {ratio['most']:.2f}" if "least" in ratio else "-"
            lines.append(f"| {name} | {ratio['ratio']:.2f} | {span} | {ratio['against']} |")
        lines.append("")
    return "\n".join(lines)
