"""A batch as numpy arrays: fixed columns as they are, ragged ones as values and offsets. Views of a slot, or arrays of their own.

A ragged column whose rows were written by several workers lies in several runs; they are moved together inside the slot. Fixed columns are never
moved; a whole batch is copied only when the consumer holds more of them than the ring can spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .plan import Run
from .slots import ColumnSlot, Layout

Bytes = npt.NDArray[np.uint8]


class Ragged(NamedTuple):
    """Rows of differing length: row i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: 1-D, all rows one after the other; `uint8` for text, bytes and encoded images.
        offsets: int64 `[B + 1]`.
    """

    values: Any
    offsets: Any


Batch = dict[str, Any]
"""Column name to an array, or to `Ragged`."""


def fixed_view(memory: Bytes, column: ColumnSlot, start: int, stop: int) -> npt.NDArray[Any]:
    """Return rows [start, stop) of a fixed column, `[stop - start, *shape]`."""
    first = column.offset + start * column.row_bytes
    raw = memory[first : column.offset + stop * column.row_bytes]
    return raw.view(column.output.dtype).reshape(stop - start, *column.output.shape)


def ragged_views(memory: Bytes, column: ColumnSlot, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return the lengths of rows [start, stop) of a ragged column, and the region their values may use."""
    lengths = memory[column.lengths_offset + 8 * start : column.lengths_offset + 8 * stop].view(np.int64)
    region = memory[column.offset + start * column.row_bytes : column.offset + stop * column.row_bytes]
    return lengths, region.view(column.output.dtype)


def from_slot(memory: Bytes, layout: Layout, rows: int, cuts: Sequence[tuple[int, int]]) -> Batch:
    """Return the batch in a slot: `rows` rows, written in the runs `cuts`."""
    batch: Batch = {}
    for name, column in layout.columns.items():
        batch[name] = _joined(memory, column, rows, cuts) if column.output.ragged else fixed_view(memory, column, 0, rows)
    return batch


def _joined(memory: Bytes, column: ColumnSlot, rows: int, cuts: Sequence[tuple[int, int]]) -> Ragged:
    lengths, values = ragged_views(memory, column, 0, rows)
    offsets = offsets_of(lengths)
    itemsize = np.dtype(column.output.dtype).itemsize
    for start, stop in cuts:
        if start:
            first = start * column.row_bytes // itemsize
            size = int(offsets[stop] - offsets[start])
            values[offsets[start] : offsets[stop]] = values[first : first + size]
    return Ragged(values=values[: offsets[rows]], offsets=offsets)


def parted(batch: Batch, run: Run) -> list[Batch]:
    """Return the rows of several batches as one batch each, without a copy; ragged columns are never those of several."""
    if run.batches == 1:
        return [batch]
    size = run.size
    return [{name: array[first : first + size] for name, array in batch.items()} for first in range(0, run.rows, size)]


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `[rows + 1]` offsets of rows of these lengths."""
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def each(batch: Batch, change: Callable[[Any], Any], but: Collection[str] = ()) -> Batch:
    """Return a batch whose every array was changed, values and offsets of ragged columns alike, but for those of some columns."""
    return {
        name: v if name in but else Ragged(change(v.values), change(v.offsets)) if isinstance(v, Ragged) else change(v) for name, v in batch.items()
    }


def copied(batch: Batch) -> Batch:
    """Return the batch in memory of its own."""
    return {name: Ragged(v.values.copy(), v.offsets) if isinstance(v, Ragged) else v.copy() for name, v in batch.items()}


def budgets(ragged: Iterable[str], mean_row_bytes: float) -> dict[str, int]:
    """Return a first guess of the bytes a row of each ragged column may need: twice the mean row of the dataset, rounded up."""
    return {name: max(64, 64 * math.ceil(2 * mean_row_bytes / 64)) for name in ragged}
