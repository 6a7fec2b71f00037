"""The compiled half of `limits`: rows of a mapped array into a batch that is made once, by plain loops. Imported only by `limits`.

A row's memory is asked for some rows before it is copied, since a bare loop would wait for each cache line in turn. Kept apart from the library's
kernels, so that they are measured against something that does not change with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from penstock.kernel_memory import prefetch

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

AHEAD = 32
"""Cache lines that are asked for before they are copied."""

LINES = 8
"""Cache lines of a row that are asked for; the processor finds the rest by itself."""


def _njit(function: Compiled) -> Compiled:
    """Hand the function to numba, keeping its type."""
    return cast("Compiled", numba.njit(function))


@_njit
def copy_rows(rows: Any, array: Any, out: Any) -> None:
    """Copy rows of a two-dimensional array into a batch, of another type if it likes: tokens are widened."""
    origin, row_bytes = np.uint64(array.ctypes.data), np.uint64(array.shape[1] * array.itemsize)
    lines = min((row_bytes + np.uint64(63)) // np.uint64(64), np.uint64(LINES))
    ahead = np.int64(max(AHEAD // lines, np.uint64(1)))
    for i in range(rows.size + ahead):
        if i < rows.size:
            for line in range(lines):
                prefetch(origin + np.uint64(rows[i]) * row_bytes + np.uint64(line) * np.uint64(64))
        if i >= ahead:
            source, target = array[rows[i - ahead]], out[i - ahead]
            for k in range(source.size):
                target[k] = source[k]
