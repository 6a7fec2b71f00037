"""Bars for people: panels of labelled bars, one below the other, drawn with Pillow alone. Pure: values in, an image out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

WIDTH, LABEL, BAR, GAP, HEAD, MARGIN = 1180, 330, 20, 7, 46, 24


class Bar(NamedTuple):
    """One bar.

    Attributes:
        label: what stands to its left.
        value: its length, 0 or more; the longest of its panel fills the width.
        colour: as Pillow takes it, such as `"#0b7a75"`.
    """

    label: str
    value: float
    colour: str


class Panel(NamedTuple):
    """Bars that are compared with each other, under a title."""

    title: str
    bars: Sequence[Bar]


def draw_bars(panels: Sequence[Panel], note: str) -> Image.Image:
    """Return the picture of some panels, with a note below them."""
    height = sum(HEAD + len(panel.bars) * (BAR + GAP) + MARGIN for panel in panels) + 2 * MARGIN
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    y = MARGIN
    for panel in panels:
        y = _panel(draw, y, panel)
    draw.text((MARGIN, height - MARGIN - 4), note, "#555555", ImageFont.load_default(12))
    return image


def _panel(draw: ImageDraw.ImageDraw, y: int, panel: Panel) -> int:
    """Draw one panel from `y` on, and return where the next begins."""
    draw.text((MARGIN, y + 10), panel.title, "black", ImageFont.load_default(18))
    y += HEAD
    longest = max((bar.value for bar in panel.bars), default=0.0) or 1.0
    small = ImageFont.load_default(14)
    for bar in panel.bars:
        length = round((WIDTH - LABEL - 2 * MARGIN - 110) * bar.value / longest)
        draw.text((MARGIN, y + 1), bar.label, "black", small)
        draw.rectangle((LABEL, y, LABEL + max(length, 1), y + BAR), fill=bar.colour)
        draw.text((LABEL + length + 8, y + 1), f"{bar.value:,.0f}", "black", small)
        y += BAR + GAP
    return y + MARGIN
