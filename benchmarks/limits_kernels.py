"""The compiled half of `limits`: rows of a mapped array into a batch that is made once, by plain loops. Imported only by `limits`.

Runs of rows have their memory asked for before the first of them is copied, since a bare loop would wait for each cache line in turn. Kept apart
from the library's kernels, so that they are measured against something that does not change with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

AHEAD = 64
"""Rows whose memory is asked for at once."""

LINES = 8
"""Cache lines of a row that are asked for; the processor finds the rest by itself."""


def _njit(function: Compiled) -> Compiled:
    """Hand the function to numba, keeping its type."""
    return cast("Compiled", numba.njit(function))


@intrinsic
def _ask(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64), generate


@_njit
def copy_rows(rows: Any, array: Any, out: Any) -> None:
    """Copy rows of a two-dimensional array into a batch, of another type if it likes: tokens are widened."""
    origin, row_bytes = np.uint64(array.ctypes.data), np.uint64(array.shape[1] * array.itemsize)
    lines = min((row_bytes + np.uint64(63)) // np.uint64(64), np.uint64(LINES))
    for first in range(0, rows.size, AHEAD):
        last = min(first + AHEAD, rows.size)
        for i in range(first, last):
            for line in range(lines):
                _ask(origin + np.uint64(rows[i]) * row_bytes + np.uint64(line) * np.uint64(64))  # type: ignore[call-arg]  # numba passes the context
        for i in range(first, last):
            source, target = array[rows[i]], out[i]
            for k in range(source.size):
                target[k] = source[k]
