"""The augmentation of rivals that bring none of their own: simplejpeg decodes, Pillow crops and resizes, numpy flips and normalises.

As their users write it: `augmentation.crop`, a flip of half of them, float32 (or uint8) channels first.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from .augmentation import MEAN, SIDE, STD, crop

SCALE = (1 / (255 * np.array(STD))).astype(np.float32)[:, None, None]
SHIFT = (np.array(MEAN) / np.array(STD)).astype(np.float32)[:, None, None]


def resized(value: Any) -> Any:
    """Return a random part of a JPEG's bytes or of an array as `[224, 224, 3]`; the decoded image is freed here, before more is allocated."""
    pixels = value if isinstance(value, np.ndarray) and value.ndim == 3 else simplejpeg.decode_jpeg(value)
    top, left, height, width = crop(*pixels.shape[:2])
    part = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def augment(value: Any, *, normalise: bool) -> Any:
    """Return a training image `[3, 224, 224]` of a JPEG's bytes or of an array `[height, width, 3]`."""
    pixels = resized(value)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    if not normalise:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    array = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    array *= SCALE
    array -= SHIFT
    return array
