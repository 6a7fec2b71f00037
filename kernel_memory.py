"""Memory at an address, for kernels that are called for every batch: a number costs a call less than an array.

Imported only to be compiled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def _longs(_context: Any, _address: Any) -> Any:
    """Return an address as a pointer to int64, which kernels index as an array."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.uint64), generate  # type: ignore[no-untyped-call]


longs: Any = _longs  # numba hands an intrinsic its context, which a checker of types does not know
"""The int64 values at an address: `longs(address)[i]`."""


@intrinsic
def _prefetched(_context: Any, _address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64), generate


prefetch: Any = _prefetched
"""Ask for the cache line at an address, which may be any."""
