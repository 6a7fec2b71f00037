"""Photo-like pictures and their encodings, for tests: scikit-learn's two bundled photographs, crops of them, and plain noise."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_sample_image

Picture = npt.NDArray[np.uint8]


@cache
def _photograph(name: str) -> Picture:
    return np.asarray(load_sample_image(name))


def photo(height: int = 375, width: int = 500, number: int = 0) -> Picture:
    """Return a photograph resampled to a size (the originals are 427 x 640)."""
    whole = Image.fromarray(_photograph(("china.jpg", "flower.jpg")[number % 2]))
    return np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Picture:
    """Return independent random bytes: the hardest picture for a resize to get right."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(picture: Picture, kind: str = "jpeg", **options: Any) -> Picture:
    """Return the encoded bytes as a reader hands them out: a read-only uint8 array."""
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return np.frombuffer(sink.getvalue(), np.uint8)
