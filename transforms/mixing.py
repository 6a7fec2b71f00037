"""`MixUp` and `CutMix`: every sample of a batch mixed with the one before it, pixels and labels alike, with torchvision's meaning.

They are ops on whole batches, given to a loader as `batch_transforms=`. What is drawn for a batch is keyed by its first sample, so it is the same at every resume and on
whatever device; who its neighbours are follows from the batch size, which so decides what a sample looks like. `apply` is the reference, in numpy; `device` does
the same with torch.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import BadRequest
from .base import Array
from .random import Random

FIRST_NUMBER = 1 << 31
"""Number of the first batch op among those that key draws; ops on columns count from 0."""


class Mix(NamedTuple):
    """What is drawn for a batch.

    Attributes:
        share: of a sample itself in what becomes of it, for its label.
        box: top, left, height, width of what comes from the other sample; None when all pixels are mixed.
    """

    share: float
    box: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class BatchOp(ABC):
    """One transform of a whole batch of images and their labels.

    Attributes:
        num_classes: length of the labels that come out, float32 `[B, num_classes]`.
        alpha: both parameters of the Beta distribution that shares are drawn from.
        image: the column of images, floats `[B, C, H, W]`.
        label: the column of labels, integers `[B]` below `num_classes`, or what another such op made of them.
    """

    num_classes: int
    alpha: float = 1.0
    image: str = "image"
    label: str = "label"

    def __post_init__(self) -> None:
        """Check the arguments."""
        name = type(self).__name__
        if type(self.num_classes) is not int or self.num_classes < 1:
            raise BadRequest(f"{name}: num_classes={self.num_classes!r} is not a number of classes")
        alpha: Any = self.alpha
        if not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
            raise BadRequest(f"{name}: alpha={self.alpha!r} is not a number above 0")

    @abstractmethod
    def draw(self, height: int, width: int, rng: Random) -> Mix:
        """Return what is done to a batch of images of this size."""

    def check(self, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Refuse a batch that has no such images and labels; `shapes` has the shape of a row, and the dtype, of each column.

        Raises:
            BadRequest: it names what there is.
        """
        for name, rank, kinds, wanted in (
            (self.image, 3, "f", "float images [C, H, W]; put Normalize or ToDtype first"),
            (self.label, 0, "iu", "integer labels"),
        ):
            if name not in shapes:
                raise BadRequest(f"{self}: there is no column {name!r}; the batch has {', '.join(shapes)}")
            shape, dtype = shapes[name]
            if name == self.label and shape == (self.num_classes,) and dtype == "float32":
                continue
            if len(shape) != rank or np.dtype(dtype).kind not in kinds:
                raise BadRequest(f"{self}: column {name!r} holds {dtype} {list(shape)}, not {wanted}")

    def apply(self, images: Array, labels: Array, rng: Random) -> tuple[Array, Array]:
        """Return what becomes of images and labels: the reference."""
        mix = self.draw(images.shape[2], images.shape[3], rng)
        others = np.roll(images, 1, axis=0)
        share = images.dtype.type(mix.share)
        if mix.box is None:
            mixed = images * share + others * (images.dtype.type(1) - share)
        else:
            top, left, tall, wide = mix.box
            mixed = images.copy()
            mixed[:, :, top : top + tall, left : left + wide] = others[:, :, top : top + tall, left : left + wide]
        told = np.eye(self.num_classes, dtype=np.float32)[labels] if labels.ndim == 1 else labels
        return mixed, told * np.float32(mix.share) + np.roll(told, 1, axis=0) * np.float32(1.0 - mix.share)


@dataclass(frozen=True)
class MixUp(BatchOp):
    """Mix all pixels of a sample and of the one before it."""

    def draw(self, height: int, width: int, rng: Random) -> Mix:  # noqa: ARG002  (a share knows no size)
        """Return a share."""
        return Mix(beta(self.alpha, rng), None)


@dataclass(frozen=True)
class CutMix(BatchOp):
    """Paste a rectangle of the sample before into a sample; its label gets the share of its area."""

    def draw(self, height: int, width: int, rng: Random) -> Mix:
        """Return a rectangle of about the share's area, cut off at the edges, and the share that is left."""
        share = beta(self.alpha, rng)
        across, down = rng.integer(0, width), rng.integer(0, height)
        half = 0.5 * math.sqrt(1.0 - share)
        wide, tall = int(half * width), int(half * height)
        left, top = max(across - wide, 0), max(down - tall, 0)
        right, bottom = min(across + wide, width), min(down + tall, height)
        return Mix(1.0 - (right - left) * (bottom - top) / (width * height), (top, left, bottom - top, right - left))


def beta(alpha: float, rng: Random) -> float:
    """Return a draw from Beta(alpha, alpha).

    Jöhnk's method up to 1 ("Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", Metrika 1964), Cheng's BB above ("Generating beta variates
    with nonintegral shape parameters", CACM 1978). numpy's would depend on its version.
    """
    if alpha <= 1:
        while True:
            one, two = (math.log(max(rng.uniform(), 2.0**-53)) / alpha for _ in range(2))
            most = max(one, two)
            low = most + math.log(
                math.exp(one - most) + math.exp(two - most)
            )  # of the sum of both powers; they themselves may be too small for a float
            if low <= 0:
                return math.exp(one - low)
    both = 2.0 * alpha
    slope = math.sqrt((both - 2.0) / (2.0 * alpha * alpha - both))
    bend = alpha + 1.0 / slope
    while True:
        one, two = (max(rng.uniform(), 2.0**-53) for _ in range(2))
        tilt = slope * math.log(one / (1.0 - one))
        weight = alpha * math.exp(min(tilt, 700.0))
        rest, product = bend * tilt - math.log(4.0), one * one * two
        accept = alpha + rest - weight
        if (
            accept + 1.0 + math.log(5.0) >= 5.0 * product
            or accept >= math.log(product)
            or rest + both * math.log(both / (alpha + weight)) >= math.log(product)
        ):
            return weight / (alpha + weight)
