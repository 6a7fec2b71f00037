"""The side-by-side table as a picture: for each workload the best setting of every loader as a bar, longest first. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLOURS = {"ours": "#0b7a75", "shards": "#9aa5b1", "memmap": "#d08c3f", "limit": "#2b2d42"}
"""A colour a family."""

WIDTH, LABEL, BAR, GAP, HEAD, MARGIN = 1180, 330, 20, 7, 46, 24


def chart(found: Mapping[str, Any]) -> Image.Image:
    """Return the picture of a table's result."""
    parts = found["workloads"]
    height = sum(HEAD + len(part["best"]) * (BAR + GAP) + MARGIN for part in parts.values()) + 2 * MARGIN
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    y = MARGIN
    for workload, part in parts.items():
        y = _panel(draw, y, f"{workload}: samples a second", part["best"])
    legend = "green: Penstock   grey: loaders of shards or files   orange: torch over one memory map   dark: no loader at all"
    about = found["machine"]
    note = f"{legend}   |   {about['date']}, {about['cores']} cores of {about['processor']}"
    draw.text((MARGIN, height - MARGIN - 4), note, "#555555", ImageFont.load_default(12))
    return image


def _panel(draw: ImageDraw.ImageDraw, y: int, title: str, rows: list[Mapping[str, Any]]) -> int:
    """Draw one workload from `y` on, and return where the next begins."""
    draw.text((MARGIN, y + 10), title, "black", ImageFont.load_default(18))
    y += HEAD
    longest = max((row["samples_per_s"] for row in rows), default=1.0)
    small = ImageFont.load_default(14)
    for row in rows:
        length = round((WIDTH - LABEL - 2 * MARGIN - 110) * row["samples_per_s"] / longest)
        draw.text((MARGIN, y + 1), f"{row['loader']} ({row['workers']})", "black", small)
        draw.rectangle((LABEL, y, LABEL + max(length, 1), y + BAR), fill=COLOURS[row["family"]])
        draw.text((LABEL + length + 8, y + 1), f"{row['samples_per_s']:,.0f}", "black", small)
        y += BAR + GAP
    return y + MARGIN
