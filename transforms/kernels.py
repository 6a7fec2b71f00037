"""One pass from decoded pixels to the batch slot: crop, antialiased bilinear resize, window, flip, lookup table, layout.

The resize is Pillow's: a triangle filter whose support grows with the reduction, weights in 22-bit fixed point, first along rows and then
along columns, each rounded to a byte. Sums of fixed-point products are exact integers, so vector code and `resample.resize_reference` agree in
every bit. Pillow's bytes are the same where it goes along rows first as well, and elsewhere at most one grey level away. Only rows that the vertical pass will look at go through the horizontal one. What follows the resize
(scaling, normalising, any function of a channel's byte) is a table of 256 entries a channel.

Imported only to be compiled. No allocation happens here: the caller lends scratch memory. No bounds are checked either; `resample.py` computes them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from ..kernel_memory import longs
from .slack import PRECISION, RECORD
from .vectors import (
    LANES,
    PIXELS,
    byte_at,
    bytes_of_a_column,
    look_up_four_bytes,
    look_up_one_byte,
    part_into_planes,
    part_into_planes_mirrored,
    resize_eight_rows,
    resize_one_row,
)

Compiled = TypeVar("Compiled", bound=Callable[..., object])
Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.int32]


def _njit(function: Compiled) -> Compiled:
    """Hand the function to numba, keeping its type."""
    return cast(Compiled, numba.njit(function))


@_njit
def triangle_weights(begin: int, end: int, factor: int, size: int, first: int, count: int, places: Longs, weights: Words, width: int) -> None:
    """Fill in where outputs `first` to `first + count` read, and with which weights.

    An image that was decoded at a fraction stands for one whose pixels are repeated `factor` times, so its pixels carry the sums of their
    copies' weights: exactly what resizing the repeated image would compute.

    Args:
        begin: the first source pixel that is resized and read, counted at full size.
        end: the one behind the last.
        factor: how many source pixels one pixel of the image stands for.
        size: how many outputs the whole part has.
        first: the first output wanted.
        count: how many are wanted.
        places: filled with pairs (first pixel read, pixels read), counted in the image.
        weights: filled with `width` weights an output.
        width: room for weights of one output.
    """
    scale = (end - begin) / size
    support = max(scale, 1.0)
    inverse = 1.0 / support
    for index in range(count):
        center = (first + index + 0.5) * scale
        start = max(int(center - support + 0.5), 0)
        stop = min(int(center + support + 0.5), end - begin)
        total = 0.0
        for place in range(start, stop):
            total += max(1.0 - abs((place - center + 0.5) * inverse), 0.0)
        base = index * width
        origin = (begin + start) // factor
        taps = (begin + stop - 1) // factor - origin + 1
        weights[base : base + taps] = 0
        for place in range(start, stop):
            weight = int(0.5 + max(1.0 - abs((place - center + 0.5) * inverse), 0.0) / total * (1 << PRECISION))
            weights[base + (begin + place) // factor - origin] += weight
        while taps > 1 and weights[base + taps - 1] == 0:
            taps -= 1
        if taps > 1 and weights[base] == 0:
            taps -= 1
            origin += 1
            for place in range(base, base + taps):
                weights[place] = weights[place + 1]
        places[2 * index] = origin
        places[2 * index + 1] = taps


@_njit
def _row_by_bytes(start: int, target: Bytes, out: int, channels: int, count: int, places: Longs, weights: Words, width: int) -> None:
    """Resize one row without vector code: for grey images, and for an image's last row, behind which there may be no byte to read."""
    for index in range(count):
        first = start + places[2 * index] * channels
        for channel in range(channels):
            total = np.int32(1 << (PRECISION - 1))
            for tap in range(places[2 * index + 1]):
                total += np.int32(byte_at(first + tap * channels + channel)) * weights[index * width + tap]
            target[out + index * channels + channel] = total >> PRECISION


@_njit
def horizontal(
    read: int,
    stride: int,
    channels: int,
    rows: tuple[int, int],
    last: int,
    target: Bytes,
    pitch: int,
    count: int,
    places: Longs,
    weights: Words,
    width: int,
) -> None:
    """Resize the rows from `rows[0]` to `rows[1]` of an image along x into `target`, `pitch` bytes a row.

    Args:
        read: the image's address.
        stride: bytes of one of its rows.
        channels: bytes of one of its pixels.
        rows: first row and the one behind the last.
        last: the image's last row, whose end may be the end of its memory.
        target: where rows go, with slack behind each.
        pitch: bytes between rows of `target`.
        count: outputs in a row.
        places: from `triangle_weights`.
        weights: from `triangle_weights`.
        width: room for weights of one output.
    """
    begin, end = rows
    row = begin
    if channels == 3:
        safe = min(end, last)
        write = target.ctypes.data
        first, table = places.ctypes.data, weights.ctypes.data
        while row + 8 <= safe:
            resize_eight_rows(write + (row - begin) * pitch, pitch, read + row * stride, stride, first, table, width * 4, count)
            row += 8
        while row < safe:
            resize_one_row(write + (row - begin) * pitch, pitch, read + row * stride, stride, first, table, width * 4, count)
            row += 1
    while row < end:
        _row_by_bytes(read + row * stride, target, (row - begin) * pitch, channels, count, places, weights, width)
        row += 1


@_njit
def vertical(source: Bytes, offset: int, pitch: int, target: Bytes, at: int, length: int, weights: Words, first: int, taps: int) -> None:
    """Write `length` bytes of `target` from `at` on: the weighted sums of `taps` rows of `source` that begin at `offset`; overruns by `SLACK`."""
    read, write, table = source.ctypes.data + offset, target.ctypes.data + at, weights.ctypes.data + first * 4
    for place in range(0, length, LANES):
        bytes_of_a_column(write + place, read + place, pitch, table, taps)


@_njit
def _is_identity(table: int, channels: int) -> bool:
    """Return whether a table of bytes changes nothing."""
    others = 0
    for channel in range(channels):
        for byte in range(256):
            others += np.int64(byte_at(table + channel * 256 + byte)) != byte
    return others == 0


@_njit
def _emit_plain(line: Bytes, width: int, flipped: bool, target: int, plane: int) -> None:
    """Write one finished row of RGB pixels, at least `PIXELS` wide, into its planes."""
    source = line.ctypes.data
    if flipped:
        part_into_planes_mirrored(target, plane, source, width)
    else:
        part_into_planes(target, plane, source, width)


@_njit
def _emit(line: Bytes, width: int, channels: int, flipped: bool, table: int, size: int, out: int, step: int, plane: int) -> None:
    """Write one finished row through the table, whose entries have so many bytes."""
    for channel in range(channels):
        target = out + channel * plane * size
        first = line.ctypes.data + channel + ((width - 1) * channels if flipped else 0)
        stride = -channels if flipped else channels
        entries = table + channel * 256 * size
        if size == 4:
            look_up_four_bytes(target, step * 4, first, stride, entries, width)
        else:
            look_up_one_byte(target, step, first, stride, entries, width)


@_njit
def _fill(line: Bytes, begin: int, end: int, channels: int, fill: tuple[int, int, int, int]) -> None:
    for x in range(begin, end):
        for channel in range(channels):
            line[x * channels + channel] = fill[channel]


@_njit
def fused(
    scratch: Bytes,
    places: Longs,
    weights: Words,
    source: int,
    shape: tuple[int, int, int],
    part: tuple[int, int, int, int],
    factor: int,
    scale: tuple[int, int],
    window: tuple[int, int, int, int],
    flipped: bool,
    fill: tuple[int, int, int, int],
    table: int,
    size: int,
    out: int,
    strides: tuple[int, int, int],
    room: tuple[int, int, int],
) -> None:
    """Write the whole result.

    Args:
        scratch: one line, then the rows of the horizontal pass.
        places: two numbers for each output row and column.
        weights: weights of the rows, then of the columns.
        source: address of the image's bytes.
        shape: its height, width, channels.
        part: top, left, height, width of what is resized and read, counted at full size.
        factor: how many pixels of full size one pixel of the image stands for, each way.
        scale: height and width that the part is resized to.
        window: top, left, height, width of what is kept of that; parts outside are filled.
        flipped: mirror the result.
        fill: a byte a channel.
        table: address of `[channels, 256]` entries.
        size: bytes of an entry: 1 or 4.
        out: address of the slot, whose elements are entries of the table.
        strides: elements of `out` between rows, columns and channels.
        room: weights of one output along y, the same along x, bytes between scratch rows.
    """
    _, width, channels = shape
    top, left, height, across = window
    tall, wide, pitch = room
    y0, y1 = max(-top, 0), max(min(scale[0] - top, height), 0)
    x0, x1 = max(-left, 0), max(min(scale[1] - left, across), 0)
    rows, columns = y1 - y0, x1 - x0
    down, along = weights[: max(rows, 0) * tall], weights[max(rows, 0) * tall :]
    over = places[2 * max(rows, 0) :]
    buffer = scratch[pitch:]
    begin = 0
    plain = size == 1 and channels == 3 and strides[1] == 1 and across >= PIXELS and _is_identity(table, channels)
    if rows > 0 and columns > 0:
        triangle_weights(part[0], part[0] + part[2], factor, scale[0], top + y0, rows, places, down, tall)
        triangle_weights(part[1], part[1] + part[3], factor, scale[1], left + x0, columns, over, along, wide)
        begin = places[0]
        needed = (begin, places[2 * rows - 2] + places[2 * rows - 1])
        horizontal(source, width * channels, channels, needed, shape[0] - 1, buffer, pitch, columns, over, along, wide)
    for row in range(height):
        if y0 <= row < y1 and columns > 0:
            place = 2 * (row - y0)
            offset = (places[place] - begin) * pitch
            vertical(buffer, offset, pitch, scratch, x0 * channels, columns * channels, down, (row - y0) * tall, places[place + 1])
            _fill(scratch, 0, x0, channels, fill)
            _fill(scratch, x1, across, channels, fill)
        else:
            _fill(scratch, 0, across, channels, fill)
        target = out + row * strides[0] * size
        if plain:
            _emit_plain(scratch, across, flipped, target, strides[2])
        else:
            _emit(scratch, across, channels, flipped, table, size, target, strides[1], strides[2])


@_njit
def fused_rows(scratch: Bytes, places: Longs, weights: Words, records: int, count: int) -> None:
    """Write the results of many passes, whose arguments from `source` on stand one after the other at an address, `RECORD` int64 each."""
    all_of = longs(np.uint64(records))
    for index in range(count):
        at = index * RECORD
        fused(
            scratch,
            places,
            weights,
            all_of[at],
            (all_of[at + 1], all_of[at + 2], all_of[at + 3]),
            (all_of[at + 4], all_of[at + 5], all_of[at + 6], all_of[at + 7]),
            all_of[at + 8],
            (all_of[at + 9], all_of[at + 10]),
            (all_of[at + 11], all_of[at + 12], all_of[at + 13], all_of[at + 14]),
            all_of[at + 15] != 0,
            (all_of[at + 16], all_of[at + 17], all_of[at + 18], all_of[at + 19]),
            all_of[at + 20],
            all_of[at + 21],
            all_of[at + 22],
            (all_of[at + 23], all_of[at + 24], all_of[at + 25]),
            (all_of[at + 26], all_of[at + 27], all_of[at + 28]),
        )
