"""What every loader does to a training image: torchvision's RandomResizedCrop with its default ranges, and ImageNet's mean and deviation."""

from __future__ import annotations

import math
import random

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the three channels, as torchvision's models want them."""

SIDE = 224
"""Pixels of a side of a training image."""


def crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width as torchvision's RandomResizedCrop draws them."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
