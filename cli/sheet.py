"""A contact sheet: many images of a dataset in one PNG, each with its row and label.

An image that does not decode gets a tile that says so, since finding such images is what one looks at a sheet for. JPEGs are decoded at the
smallest scale that fills a tile. Memory: one tile at a time beside the sheet.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TILE_PX = 160
CAPTION_PX = 16
_INK = (230, 230, 230)
_PAPER = (24, 24, 24)


def opened(value: Any) -> Image.Image:
    """Return encoded bytes, or an array [H, W] or [H, W, 3] of uint8, as an RGB image that fits a tile."""
    image = _decoded(value) if isinstance(value, bytes) else Image.fromarray(np.asarray(value))
    image = image.convert("RGB")
    image.thumbnail((TILE_PX, TILE_PX))
    return image


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (TILE_PX, TILE_PX))
    return ImageOps.exif_transpose(image)


def contact_sheet(tiles: Iterable[tuple[str, Any]], count: int) -> Image.Image:
    """Return a sheet of `count` tiles, each a caption and an encoded image or an array."""
    across = max(1, round(math.sqrt(count * 1.5)))
    down = max(1, math.ceil(count / across))
    sheet = Image.new("RGB", (across * TILE_PX, down * (TILE_PX + CAPTION_PX)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (caption, value) in enumerate(tiles):
        x, y = (number % across) * TILE_PX, (number // across) * (TILE_PX + CAPTION_PX)
        try:
            image = opened(value)
            sheet.paste(image, (x + (TILE_PX - image.width) // 2, y + (TILE_PX - image.height) // 2))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            draw.rectangle((x + 2, y + 2, x + TILE_PX - 3, y + TILE_PX - 3), outline=(200, 60, 60))
            draw.multiline_text((x + 8, y + 8), f"cannot decode:\n{str(error)[:40]}", fill=(230, 110, 110), font=font)
        draw.text((x + 4, y + TILE_PX), caption[:26], fill=_INK, font=font)
    return sheet
