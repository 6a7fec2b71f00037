"""What a shard gives for a block of rows of one column: numpy views, no copies where the format allows.

A block is a run of rows that a format stores together (an Arrow record batch, a Parquet row group, a whole tar). Views keep the mapped file
alive for as long as they are referred to, so a reader may be closed while a batch still looks at its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class FixedColumn(NamedTuple):
    """Rows of one shape, contiguous in memory.

    Attributes:
        values: `[rows, *shape]` of the field's dtype.
    """

    values: npt.NDArray[Any]

    def row(self, index: int) -> npt.NDArray[Any]:
        """Return row `index`, `[*shape]`."""
        return np.asarray(self.values[index])


class RaggedColumn(NamedTuple):
    """Rows of any length in one run of memory.

    Attributes:
        starts: `[rows]`, where each row begins in `values`, in elements.
        ends: `[rows]`, where it ends.
        values: 1-D; `uint8` for fields made of bytes.
    """

    starts: npt.NDArray[np.integer[Any]]
    ends: npt.NDArray[np.integer[Any]]
    values: npt.NDArray[Any]

    def row(self, index: int) -> npt.NDArray[Any]:
        """Return row `index`, 1-D."""
        return self.values[self.starts[index] : self.ends[index]]


class ParsedColumn(NamedTuple):
    """Rows that a format keeps as text or as small files (`.cls`, `.npy` in a tar), parsed when asked for.

    Attributes:
        raw: the bytes of each row.
        parse: turns a row's bytes into an array of the field's shape and dtype (1-D when the field is ragged), or raises `BadData`.
    """

    raw: RaggedColumn
    parse: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]

    def row(self, index: int) -> npt.NDArray[Any]:
        """Return row `index`, parsed."""
        return self.parse(self.raw.row(index))


Column = FixedColumn | RaggedColumn | ParsedColumn


def unpacked_bytes(block: Mapping[str, Column]) -> int:
    """Return the bytes of a block's arrays of truth values: Arrow packs these into bits, so what is unpacked is no view."""
    fixed = (column.values for column in block.values() if isinstance(column, FixedColumn))
    return sum(values.nbytes for values in fixed if values.dtype == np.bool_ and values.ndim > 1)
