"""The side-by-side table as a picture: for each workload the best setting of every loader as a bar, longest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from penstock.cli.chart import Bar, Panel, draw_bars

COLOURS = {"ours": "#0b7a75", "shards": "#9aa5b1", "memmap": "#d08c3f", "limit": "#2b2d42"}
"""A colour a family."""

LEGEND = "green: Penstock   grey: loaders of shards or files   orange: torch over one memory map   dark: no loader at all"


def chart(found: Mapping[str, Any]) -> Image.Image:
    """Return the picture of a table's result."""
    panels = [
        Panel(
            f"{workload}: samples a second",
            [Bar(f"{row['loader']} ({row['workers']})", row["samples_per_s"], COLOURS[row["family"]]) for row in part["best"]],
        )
        for workload, part in found["workloads"].items()
    ]
    about = found["machine"]
    return draw_bars(panels, f"{LEGEND}   |   {about['date']}, {about['cores']} cores of {about['processor']}")
