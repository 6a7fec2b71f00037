"""Where each column of a batch lies in a slot of shared memory: batch shape to aligned offsets. Pure.

A fixed column is `[rows, *shape]`. A ragged column is a run of lengths (int64, one a row) and a region of values in which every row has a
budget of `row_bytes`, so that workers that fill different rows of one batch never share a byte; a worker whose rows need more than their
budget says so, and the ring is rebuilt with a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import BadRequest

ALIGNMENT = 64
"""Bytes; a cache line, and the widest vector register."""


class Output(NamedTuple):
    """What a batch column holds.

    Attributes:
        shape: one row's shape; `()` when ragged.
        dtype: numpy name of an element.
        ragged: whether rows differ in length.
    """

    shape: tuple[int, ...]
    dtype: str
    ragged: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a fixed column."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class ColumnSlot(NamedTuple):
    """One column's place in a slot.

    Attributes:
        output: what it holds.
        offset: byte at which a fixed column, or the values of a ragged one, begin.
        row_bytes: bytes of one row; of a ragged column, its budget, a multiple of `ALIGNMENT`.
        lengths_offset: byte at which the lengths of a ragged column begin; -1 for a fixed one.
    """

    output: Output
    offset: int
    row_bytes: int
    lengths_offset: int = -1


class Layout(NamedTuple):
    """A slot: its columns by name, the rows of a full batch, and its bytes (a multiple of 4,096)."""

    columns: Mapping[str, ColumnSlot]
    rows: int
    bytes: int


def _aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    return -(-offset // alignment) * alignment


def layout(outputs: Mapping[str, Output], rows: int, budgets: Mapping[str, int]) -> Layout:
    """Return the layout of a slot for `rows` rows; `budgets` gives the bytes a row of each ragged column may need.

    Raises:
        BadRequest: a slot would be larger than any memory.
    """
    columns: dict[str, ColumnSlot] = {}
    offset = 0
    for name, output in outputs.items():
        lengths_offset = -1
        row_bytes = output.row_bytes
        if output.ragged:
            lengths_offset, offset = offset, _aligned(offset + 8 * rows)
            row_bytes = _aligned(max(budgets[name], 1))
        columns[name] = ColumnSlot(output=output, offset=offset, row_bytes=row_bytes, lengths_offset=lengths_offset)
        offset = _aligned(offset + row_bytes * rows)
    if offset > 2**46:
        raise BadRequest(f"a batch of {rows} rows would need {offset / 2**30:,.0f} GiB; lower batch_size")
    return Layout(columns=columns, rows=rows, bytes=_aligned(max(offset, 1), 4096))


def chunks(rows: int, parts: int, smallest: int) -> list[tuple[int, int]]:
    """Return [0, rows) cut into at most `parts` runs of nearly equal size, none below `smallest` unless there is but one."""
    count = max(1, min(parts, rows // max(smallest, 1)))
    return [(rows * i // count, rows * (i + 1) // count) for i in range(count)]
