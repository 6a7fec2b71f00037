"""Whole numbers at an address, for kernels that are called for every batch: a number costs a call 0.1 us, an array ten times as much.

Imported only to be compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@intrinsic
def _longs(_context: Any, _address: Any) -> Any:
    """Return an address as a pointer to int64, which kernels index as an array."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.uint64), generate  # type: ignore[no-untyped-call]


longs: Any = _longs  # numba hands an intrinsic its context, which a checker of types does not know
"""The int64 values at an address: `longs(address)[i]`."""
