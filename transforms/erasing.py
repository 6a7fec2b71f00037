"""`RandomErasing`: a rectangle of an image blanked at random, with torchvision's arguments, in the finished pixels.

It changes few of the values that a chain has written, so it stands behind all other ops and works in the batch's own memory, whatever dtype and layout
they gave it. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadRequest
from .base import Array, Encoded, Given, SlotOp, Spec, Words
from .image import numbers_range
from .random import Draws, Random

_ATTEMPTS = 10
_DRAWS = 4
"""Draws of one attempt: area, proportions, top, left; all of them are drawn, so that each attempt's are at a place of their own."""


@dataclass(frozen=True)
class RandomErasing(SlotOp):
    """Blank a rectangle of random area, proportions and place, sometimes.

    Attributes:
        p: the probability.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest height over width.
        value: what pixels become, in the units that the op finds them in: one number, or one a channel.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        probability: Any = self.p
        if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
            raise BadRequest(f"RandomErasing: p={self.p!r} is not a probability from 0 to 1")
        for name in ("scale", "ratio"):
            object.__setattr__(self, name, numbers_range("RandomErasing", name, getattr(self, name)))
        given: Any = self.value
        try:
            values = tuple(float(n) for n in (given if isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str) else (given,)))
        except (TypeError, ValueError):
            raise BadRequest(f"RandomErasing: value={given!r} is not a number or a sequence of numbers") from None
        if not values:
            raise BadRequest(f"RandomErasing: value={given!r} is empty; give one number, or one a channel")
        object.__setattr__(self, "value", values)

    def declare(self, given: Given) -> Spec:
        """Return what was given."""
        if not isinstance(given, Spec) or given.layout is None:
            remedy = "Decode() comes first" if isinstance(given, Encoded) else "use it on a column of Image, or of Array((height, width, 3))"
            raise BadRequest(f"{self} works on images, not on {given}: {remedy}")
        channels = given.shape[0 if given.layout == "CHW" else 2]
        if len(self.values) not in (1, channels):
            raise BadRequest(f"{self} has {len(self.values)} values for {channels} channels of {given}: give one number, or one a channel")
        return given

    @property
    def values(self) -> tuple[float, ...]:
        """What pixels become: one number, or one a channel."""
        found: Any = self.value
        return tuple(found)

    def boxes(self, height: int, width: int, keys: Words, samples: Words, number: int) -> Array:
        """Return what is blanked of each of many images, int64 `[N, 4]`: top, left, height, width; all 0 where nothing is."""
        draws = Draws(keys, samples, number, 1 + _ATTEMPTS * _DRAWS)
        left = draws.uniform(0) < self.p
        boxes = np.zeros((len(keys), 4), np.int64)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for attempt in range(_ATTEMPTS):
            if not left.any():
                break
            first = 1 + attempt * _DRAWS
            area = height * width * draws.uniform(first, *self.scale)
            ratio = np.array([math.exp(each) for each in draws.uniform(first + 1, low, high).tolist()])  # numpy's may differ by a bit
            tall, wide = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
            hit = left & (tall < height) & (wide < width)
            tall, wide = np.where(hit, tall, 0), np.where(hit, wide, 0)
            top, aside = draws.integer(first + 2, height - tall + 1), draws.integer(first + 3, width - wide + 1)
            boxes[hit] = np.stack([top, aside, tall, wide], axis=1)[hit]
            left &= ~hit
        return boxes

    def box(self, height: int, width: int, rng: Random) -> tuple[int, int, int, int]:
        """Return what is blanked of one image, by the same arithmetic."""
        if rng.uniform() >= self.p:
            return 0, 0, 0, 0
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if tall < height and wide < width:
                return rng.integer(0, height - tall + 1), rng.integer(0, width - wide + 1), tall, wide
            rng.words(2)
        return 0, 0, 0, 0

    def touch(self, out: Array, given: Given, rng: Random) -> None:
        """Blank it where it lies."""
        first = isinstance(given, Spec) and given.layout == "CHW"
        height, width = out.shape[1:] if first else out.shape[:2]
        top, left, tall, wide = self.box(height, width, rng)
        value = np.asarray(self.values).astype(out.dtype)
        if first:
            out[:, top : top + tall, left : left + wide] = value[:, None, None]
        else:
            out[top : top + tall, left : left + wide] = value
