"""The pass over an image, twice: `resample` lends scratch memory to the fused kernel, `resize_reference` is the slow obvious one.

`Pass` is the pure part: from a `View` and the scale at which the image was decoded it computes every bound that the kernel trusts. Scratch
memory belongs to the thread and grows to the largest image seen, so a steady stream of images allocates nothing.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import kernels
from .geometry import Crop, Scale, Step, View
from .vectors import PRECISION, SLACK

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pass:
    """What the kernel is told.

    Attributes:
        limits: top, bottom, left, right of the pixels that may be read.
        box: the same of the part that is resized, in fractions of pixels.
        scale: height and width that the box is resized to.
        window: top, left, height, width of what is kept.
        flipped: whether it is mirrored.
        fill: a value a channel for what lies outside.
    """

    limits: tuple[int, int, int, int]
    box: tuple[float, float, float, float]
    scale: tuple[int, int]
    window: tuple[int, int, int, int]
    flipped: bool
    fill: tuple[int, ...]

    @staticmethod
    def of(view: View, factor: int) -> Pass:
        """Return the pass for an image decoded at 1/`factor` of the size that the view speaks of."""
        top, left, height, width = view.source
        box = (top / factor, (top + height) / factor, left / factor, (left + width) / factor)
        limits = (top // factor, -(-(top + height) // factor), left // factor, -(-(left + width) // factor))
        return Pass(limits, box, view.scale, view.window, view.flipped, view.fill)


class _Scratch(threading.local):
    """Memory of one thread."""

    def __init__(self) -> None:
        self.line = np.empty(1 << 20, np.uint8)
        self.places = np.empty(1 << 11, np.int64)
        self.weights = np.empty(1 << 15, np.int32)
        self.pixels = np.empty(1 << 20, np.uint8)


_SCRATCH = _Scratch()


def pixel_buffer(size: int) -> npt.NDArray[np.uint8]:
    """Return at least `size` bytes of this thread's memory for decoded pixels; the next call hands out the same."""
    if _SCRATCH.pixels.size < size:
        _SCRATCH.pixels = np.empty(size + size // 4, np.uint8)
    return _SCRATCH.pixels


def resample(image: Array, task: Pass, table: Array, out: Array, *, channels_first: bool) -> None:
    """Write the result of a pass through `table` into `out`.

    Args:
        image: uint8 `[height, width, channels]`.
        task: what to do, within the image.
        table: `[channels, 256]` of the dtype of `out`.
        out: `[channels, height, width]` or `[height, width, channels]`, C-contiguous.
        channels_first: which of the two.
    """
    _, _, height, width = task.window
    rows = task.limits[1] - task.limits[0]
    channels = image.shape[2]
    tall = 2 * math.ceil(max((task.box[1] - task.box[0]) / task.scale[0], 1.0)) + 2
    wide = 2 * math.ceil(max((task.box[3] - task.box[2]) / task.scale[1], 1.0)) + 2
    pitch = -(-(width * channels + SLACK) // SLACK) * SLACK
    own = _SCRATCH
    if own.line.size < (needed := (rows + 2) * pitch):
        own.line = np.empty(needed, np.uint8)
    if own.places.size < (needed := 2 * (height + width)):
        own.places = np.empty(needed, np.int64)
    if own.weights.size < (needed := height * tall + width * wide):
        own.weights = np.empty(needed, np.int32)
    strides = (width, 1, height * width) if channels_first else (width * channels, channels, 1)
    fill = np.empty(channels, np.uint8)
    fill[:] = task.fill
    flat = np.ascontiguousarray(image).reshape(-1)
    if not flat.flags.writeable:
        flat = flat.copy()
    room = (tall, wide, pitch)
    kernels.fused(
        flat, image.shape, task.limits, task.box, task.scale, task.window, task.flipped, fill, table, out.reshape(-1), strides, room, own.line, own.places, own.weights
    )  # fmt: skip


IDENTITY = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
"""The table that changes nothing."""


def resampled(image: Array, task: Pass) -> Array:
    """Return the result of a pass as a fresh uint8 image, channels last."""
    out = np.empty((*task.window[2:], image.shape[2]), np.uint8)
    resample(image, task, IDENTITY[: image.shape[2]], out, channels_first=False)
    return out


def weights_reference(low: float, high: float, size: int, begin: int, end: int) -> list[tuple[int, list[int]]]:
    """Return for each output the first pixel it reads and its fixed-point weights, by Pillow's formulas."""
    scale = (high - low) / size
    support = max(scale, 1.0)
    found = []
    for index in range(size):
        center = (low - begin) + (index + 0.5) * scale
        start, stop = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), end - begin)
        weights = [max(1.0 - abs((place - center + 0.5) * (1.0 / support)), 0.0) for place in range(start, stop)]
        total = 0.0
        for weight in weights:
            total += weight
        found.append((begin + start, [int(0.5 + weight / total * (1 << PRECISION)) for weight in weights]))
    return found


def resize_reference(image: Array, box: tuple[float, float, float, float], limits: tuple[int, int, int, int], scale: tuple[int, int]) -> Array:
    """Return `box` of a uint8 image, channels last, resized to `scale`; pixels outside `limits` have no influence."""
    half = 1 << (PRECISION - 1)
    source = image.astype(np.int64)
    across = np.empty((image.shape[0], scale[1], image.shape[2]), np.int64)
    for x, (start, weights) in enumerate(weights_reference(box[2], box[3], scale[1], limits[2], limits[3])):
        across[:, x] = (np.tensordot(source[:, start : start + len(weights)], weights, axes=(1, 0)) + half) >> PRECISION
    out = np.empty((*scale, image.shape[2]), np.uint8)
    for y, (start, weights) in enumerate(weights_reference(box[0], box[1], scale[0], limits[0], limits[1])):
        out[y] = (np.tensordot(across[start : start + len(weights)], weights, axes=(0, 0)) + half) >> PRECISION
    return out


def carry_out(step: Step, image: Array) -> Array:
    """Return a uint8 image, channels last, after one step, the slow and obvious way."""
    height, width = image.shape[:2]
    if isinstance(step, Scale):
        whole = (0, height, 0, width)
        return resize_reference(image, (0.0, float(height), 0.0, float(width)), whole, (step.height, step.width))
    if not isinstance(step, Crop):
        return image[:, ::-1]
    top, left, tall, wide = step.box
    out = np.empty((tall, wide, image.shape[2]), np.uint8)
    out[:] = step.fill
    y0, y1, x0, x1 = max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
    if y0 < y1 and x0 < x1:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out
