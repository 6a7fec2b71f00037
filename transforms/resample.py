"""The pass over an image, twice: `resample` lends scratch memory to the fused kernel, `resize_reference` is the slow obvious one.

Every bound that the kernel trusts is computed here from a `View`. Scratch memory belongs to the thread and grows to the largest image seen, so a
steady stream of images allocates nothing.

What a JPEG decoded at a fraction means is stated here too: it stands for the image with every pixel repeated (`enlarged`), and resizing it is
resizing that. Reading its pixels as points instead, as Pillow's draft mode does, is sharper than the antialiased resize by up to 5 grey levels on
average, and is refused.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ..jit import Held, Kernel
from .geometry import Crop, Scale, Step, View
from .slack import PRECISION, RECORD, SLACK

Array = npt.NDArray[Any]

_SIGNATURE = "void(u1[:] i8[:] i4[:] i8 i8*3 i8*4 i8 i8*2 i8*4 b1 i8*4 i8 i8 i8 i8*3 i8*3)"
fused = Kernel("transforms.kernels", "fused", _SIGNATURE, sources=("transforms.vectors", "transforms.slack"))
"""The whole pass; its arguments are explained in `kernels`."""

fused_rows = Kernel(
    "transforms.kernels", "fused_rows", "void(u1[:] i8[:] i4[:] i8 i8)", sources=("transforms.vectors", "transforms.slack", "kernel_memory")
)
"""Many passes, one after the other."""

_KEPT_BYTES = 1 << 26
"""Decoded pixels of a larger image get memory of their own: one such image a worker would otherwise cost it that memory for good."""


class _Scratch(threading.local):
    """Memory of one thread."""

    def __init__(self) -> None:
        self.pixels = np.empty(1 << 20, np.uint8)
        self.line = self.places = self.weights = 0
        self.grow(1 << 20, 1 << 11, 1 << 15)

    def grow(self, line: int, places: int, weights: int) -> None:
        """Have room for at least so many elements of each kind."""
        if line > self.line or places > self.places or weights > self.weights:
            self.line, self.places, self.weights = max(line, self.line), max(places, self.places), max(weights, self.weights)
            arrays = np.empty(self.line, np.uint8), np.empty(self.places, np.int64), np.empty(self.weights, np.int32)
            self.fused = fused.bind(*map(Held, arrays))
            self.fused_rows = fused_rows.bind(*map(Held, arrays))


_SCRATCH = _Scratch()


def pixel_buffer(size: int) -> npt.NDArray[np.uint8]:
    """Return at least `size` bytes of this thread's memory for decoded pixels; the next call hands out the same, unless they were many."""
    if size > _KEPT_BYTES:
        return np.empty(size, np.uint8)
    if _SCRATCH.pixels.size < size:
        _SCRATCH.pixels = np.empty(size + size // 4, np.uint8)
    return _SCRATCH.pixels


def resample(image: Array, view: View, factor: int, table: Array, out: Array, *, channels_first: bool) -> None:
    """Write what a view shows of an image through `table` into `out`.

    Args:
        image: uint8 `[height, width, channels]`, decoded at 1/`factor` of the size that the view speaks of (rounded up).
        view: what to show.
        factor: 1, or what the decoder divided by.
        table: `[channels, 256]` of the dtype of `out`.
        out: `[channels, height, width]` or `[height, width, channels]`, C-contiguous.
        channels_first: which of the two.
    """
    (height, width), channels = view.size, image.shape[2]
    tall, wide = (_most_taps(view.source[2 + axis], view.scale[axis], factor) for axis in (0, 1))
    pitch = -(-(width * channels + SLACK) // SLACK) * SLACK
    _SCRATCH.grow((view.source[2] // factor + 4) * pitch, 2 * (height + width), height * tall + width * wide)
    strides = (width, 1, height * width) if channels_first else (width * channels, channels, 1)
    packed = np.ascontiguousarray(image)
    _SCRATCH.fused(
        packed.ctypes.data,
        *packed.shape,
        *view.source,
        factor,
        *view.scale,
        *view.window,
        view.flipped,
        *(view.fill * 4)[:4],
        table.ctypes.data,
        table.itemsize,
        out.ctypes.data,
        *strides,
        tall,
        wide,
        pitch,
    )


def resample_rows(
    sources: Array,
    shape: tuple[int, int, int],
    boxes: Array,
    size: tuple[int, int],
    flipped: Array,
    table: Array,
    out: Array,
    *,
    channels_first: bool,
) -> None:
    """Write a part of each of many images of one size, resized to one size, through `table` into `out`.

    Args:
        sources: int64 `[N]`, the address of each image, uint8 `shape`, C-contiguous.
        shape: height, width and channels of them all.
        boxes: int64 `[N, 4]`, top, left, height and width of the part, which lies inside.
        size: height and width of the results.
        flipped: bool `[N]`, which of them are mirrored.
        table: `[channels, 256]` of the dtype of `out`.
        out: `[N, channels, height, width]` or `[N, height, width, channels]`, C-contiguous.
        channels_first: which of the two.
    """
    (height, width), channels = size, shape[2]
    taps = [2 * np.ceil(np.maximum(boxes[:, 2 + axis] / size[axis], 1.0)).astype(np.int64) + 4 for axis in (0, 1)]
    pitch = -(-(width * channels + SLACK) // SLACK) * SLACK
    most = [int(each.max(initial=0)) for each in (boxes[:, 2], *taps)]
    _SCRATCH.grow((most[0] + 4) * pitch, 2 * (height + width), height * most[1] + width * most[2])
    records = np.empty((len(sources), RECORD), np.int64)
    records[:, 0] = sources
    records[:, 1:4] = shape
    records[:, 4:8] = boxes
    records[:, 8:15] = (1, height, width, 0, 0, height, width)
    records[:, 15] = flipped
    records[:, 16:22] = (0, 0, 0, 0, table.ctypes.data, table.itemsize)
    records[:, 22] = out.ctypes.data + np.arange(len(sources)) * (height * width * channels * out.itemsize)
    records[:, 23:26] = (width, 1, height * width) if channels_first else (width * channels, channels, 1)
    records[:, 26], records[:, 27], records[:, 28] = *taps, pitch
    _SCRATCH.fused_rows(records.ctypes.data, len(records))


def _most_taps(length: int, size: int, factor: int) -> int:
    """Return room for the weights of one output: its support covers twice the reduction, and one pixel more at each end."""
    return 2 * math.ceil(max(length / size, 1.0)) // factor + 4


IDENTITY = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
"""The table that changes nothing."""


def resampled(image: Array, view: View, factor: int = 1) -> Array:
    """Return what a view shows of an image as a fresh uint8 image, channels last."""
    out = np.empty((*view.size, image.shape[2]), np.uint8)
    resample(image, view, factor, IDENTITY[: image.shape[2]], out, channels_first=False)
    return out


def weights_reference(length: int, size: int) -> list[tuple[int, list[int]]]:
    """Return for each output the first pixel it reads and its fixed-point weights, by Pillow's formulas."""
    scale = length / size
    support = max(scale, 1.0)
    found = []
    for index in range(size):
        center = (index + 0.5) * scale
        start, stop = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), length)
        weights = [max(1.0 - abs((place - center + 0.5) * (1.0 / support)), 0.0) for place in range(start, stop)]
        total = 0.0
        for weight in weights:
            total += weight
        found.append((start, [int(0.5 + weight / total * (1 << PRECISION)) for weight in weights]))
    return found


def resize_reference(image: Array, size: tuple[int, int]) -> Array:
    """Return a uint8 image, channels last, resized to (height, width)."""
    half = 1 << (PRECISION - 1)
    source = image.astype(np.int64)
    across = np.empty((image.shape[0], size[1], image.shape[2]), np.int64)
    for x, (start, weights) in enumerate(weights_reference(image.shape[1], size[1])):
        across[:, x] = (np.tensordot(source[:, start : start + len(weights)], weights, axes=(1, 0)) + half) >> PRECISION
    out = np.empty((*size, image.shape[2]), np.uint8)
    for y, (start, weights) in enumerate(weights_reference(image.shape[0], size[0])):
        out[y] = (np.tensordot(across[start : start + len(weights)], weights, axes=(0, 0)) + half) >> PRECISION
    return out


def enlarged(image: Array, factor: int, size: tuple[int, int]) -> Array:
    """Return the image that one decoded at 1/`factor` stands for: each pixel repeated both ways, cut to the full size."""
    return np.asarray(image.repeat(factor, axis=0).repeat(factor, axis=1)[: size[0], : size[1]])


def carry_out(step: Step, image: Array) -> Array:
    """Return a uint8 image, channels last, after one step, the slow and obvious way."""
    height, width = image.shape[:2]
    if isinstance(step, Scale):
        return resize_reference(image, (step.height, step.width))
    if not isinstance(step, Crop):
        return image[:, ::-1]
    top, left, tall, wide = step.box
    out = np.empty((tall, wide, image.shape[2]), np.uint8)
    out[:] = step.fill
    y0, y1, x0, x1 = max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
    if y0 < y1 and x0 < x1:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out
