"""The side-by-side table on one page: the best of each loader on each workload, our ratios, and every row in which we are behind.

Pure functions on the JSON of a campaign, for the README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .report import BOTH_WITH, OTHERS, ahead, setting

Found = Mapping[str, Any]
"""What `table.result` returns."""

RATIOS = {
    "best loader of shards or files": "the best loader of shards or files",
    "best of torch over one memory map": "the best of torch over one memory map",
    BOTH_WITH: "the same, both with ",
    "limit: whole images decoded": "the limit, whole images decoded",
    "limit: regions decoded": "the limit, regions decoded",
    "limit: fused kernel": "the limit, fused kernel",
    "limit: gather": "the limit, a gather in one process",
}
"""The ratios that are told, and how."""


def overview(found: Found) -> str:
    """Return the rates, the ratios and what we are behind in as markdown tables."""
    return "\n".join([*_rates(found), "", *_ratios(found), "", *_losses(found), ""])


def _head(first: str, found: Found) -> list[str]:
    workloads = list(found["workloads"])
    return [f"| {first} | {' | '.join(workloads)} |", "|---|" + "---|" * len(workloads)]


def _rates(found: Found) -> list[str]:
    """Return samples a second of each loader at its best setting; bold where it is ahead of ours, which no limit counts as."""
    parts = found["workloads"].values()
    families = {row["loader"]: row["family"] for part in parts for row in part["rows"]}
    names = [*families, *dict.fromkeys(name for part in parts for name in part["absent"] if name not in families)]
    order = sorted(names, key=lambda name: {"ours": 0, "limit": 2}.get(families.get(name, "shards"), 1))
    lines = _head("samples/s, at the best number of workers", found)
    for name in order:
        cells = [_rate(part, name) for part in parts]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _ours(part: Found) -> float:
    return max((row["samples_per_s"] for row in part["best"] if row["family"] == "ours"), default=0.0)


def _is_ahead(part: Found, row: Found) -> bool:
    return row["family"] in OTHERS and row["samples_per_s"] > _ours(part)


def _rate(part: Found, name: str) -> str:
    for row in part["best"]:
        if row["loader"] == name:
            told = f"{row['samples_per_s']:,.0f} ({setting(row)})"
            return f"**{told}**" if _is_ahead(part, row) else told
    return "absent" if name in part["absent"] else "-"


def _ratios(found: Found) -> list[str]:
    lines, parts = _head("Penstock over", found), found["workloads"].values()
    with_workers = dict.fromkeys(name for part in parts for name in part["ratios"] if name.startswith(BOTH_WITH))
    for name, told in RATIOS.items():
        for full in with_workers if name == BOTH_WITH else [name]:
            cells = [f"{part['ratios'][full]['ratio']:.2f}" if full in part["ratios"] else "-" for part in parts]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {told}{full.removeprefix(name)} | {' | '.join(cells)} |")
    return lines


def _losses(found: Found) -> list[str]:
    """Return every comparison in which we are behind: rates of every loader, first batches and memory of the best of torch's ways."""
    lines = [
        "| behind: in rate, any loader; in first batch and memory, torch's DataLoader | ratio | range of the rounds | against |",
        "|---|---|---|---|",
    ]
    for workload, part in found["workloads"].items():
        lines += [
            f"| {workload}: rate | {_told(_over(part, row))} | {row['loader']} ({setting(row)}) |" for row in part["best"] if _is_ahead(part, row)
        ]
        lines += [
            f"| {workload}: {name} | {_told(ratio)} | {ratio['against']} |"
            for name, ratio in part["ratios"].items()
            if name.startswith(("time to first batch", "peak memory")) and round(ratio["ratio"], 2) > 1
        ]
    return lines if len(lines) > 2 else ["No loader is ahead of us in rate, and torch's DataLoader in nothing."]


def _over(part: Found, row: Found) -> Found:
    """Return our rate over a row's: round by round where it is known, else of the medians."""
    over: Found = part["ratios"].get(ahead(row["loader"]), {"ratio": _ours(part) / row["samples_per_s"]})
    return over


def _told(ratio: Found) -> str:
    span = f"{ratio['least']:.2f} to {ratio['most']:.2f}" if "least" in ratio else "-"
    return f"{ratio['ratio']:.2f} | {span}"
