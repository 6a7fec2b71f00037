"""The inner loops of the fused pass as explicit machine-level code, for use inside numba kernels.

numba's loops are vectorised along the innermost dimension only, and a pixel has three bytes: written in Python, the horizontal pass runs at
one multiplication a cycle. These intrinsics emit LLVM's portable vector instructions (SSE, AVX2, NEON alike), with unaligned loads of four bytes
a pixel, of which the fourth is a neighbour's and is overwritten by the next store. So both need slack: `SLACK` bytes that exist behind the last
pixel read and behind the last byte written. Sums are exact integers, so no order of summation can change a result. The table look-up is here too,
since numba's test for negative indices doubles its cost.

Addresses are plain integers: an intrinsic that took arrays would unpack them in every call.
"""

# ruff: noqa: ARG001 - numba reads an intrinsic's parameters from its signature; types are checked, not used

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .slack import PRECISION

LANES = 32
"""Bytes that one step of the vertical pass computes."""

PIXELS = 16
"""Pixels that one step of parting them into planes moves."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _variable(builder: Any, value: Any) -> Any:
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    kind = ir.VectorType(_I32, lanes)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _weighted_sums(builder: Any, sources: Sequence[Any], step: Any, weights: Any, taps: Any, lanes: int) -> list[Any]:
    """Emit the loop over taps for several sources at once; return each one's rounded sums as bytes."""
    wide, narrow = ir.VectorType(_I32, lanes), ir.VectorType(_I8, lanes)
    half = ir.Constant(wide, [1 << (PRECISION - 1)] * lanes)
    sums = [_variable(builder, half) for _ in sources]
    for total in sums:
        builder.store(half, total)  # the variable is made once, at the function's entry, and this loop stands in another
    with cgutils.for_range(builder, taps) as loop:
        weight = builder.load(_at(builder, builder.add(weights, builder.mul(loop.index, ir.Constant(_I64, 4))), _I32), align=4)
        factor = _splat(builder, weight, lanes)
        offset = builder.mul(loop.index, step)
        for source, total in zip(sources, sums, strict=True):
            pixels = builder.load(_at(builder, builder.add(source, offset), narrow), align=1)
            builder.store(builder.add(builder.load(total), builder.mul(builder.zext(pixels, wide), factor)), total)
    shift = ir.Constant(wide, [PRECISION] * lanes)
    return [builder.trunc(builder.lshr(builder.load(total), shift), narrow) for total in sums]


def _rows(rows: int) -> Callable[..., Any]:
    """Emit the loop over the outputs of some rows; the rows share the loads of weights and the branches."""

    def emit(context: Any, builder: Any, _signature: Any, args: Sequence[Any]) -> Any:
        out, out_stride, source, stride, places, weights, width, count = args
        index = [ir.Constant(_I64, row) for row in range(rows)]
        sources = [builder.add(source, builder.mul(stride, row)) for row in index]
        targets = [builder.add(out, builder.mul(out_stride, row)) for row in index]
        with cgutils.for_range(builder, count) as loop:
            place = builder.add(places, builder.mul(loop.index, ir.Constant(_I64, 16)))
            first = builder.mul(builder.load(_at(builder, place, _I64), align=8), ir.Constant(_I64, 3))
            taps = builder.load(_at(builder, builder.add(place, ir.Constant(_I64, 8)), _I64), align=8)
            own = builder.add(weights, builder.mul(loop.index, width))
            pixels = _weighted_sums(builder, [builder.add(s, first) for s in sources], ir.Constant(_I64, 3), own, taps, 4)
            at = builder.mul(loop.index, ir.Constant(_I64, 3))
            for target, pixel in zip(targets, pixels, strict=True):
                builder.store(pixel, _at(builder, builder.add(target, at), ir.VectorType(_I8, 4)), align=1)
        return context.get_dummy_value()

    return emit


_intrinsic: Any = intrinsic  # its types describe the emitter, not the call
_LONGS = (types.int64,) * 8


def _column(context: Any, builder: Any, _signature: Any, args: Sequence[Any]) -> Any:
    target, first, stride, weights, taps = args
    (result,) = _weighted_sums(builder, [first], stride, weights, taps, LANES)
    builder.store(result, _at(builder, target, ir.VectorType(_I8, LANES)), align=1)
    return context.get_dummy_value()


def _lookup(bits: int) -> Callable[..., Any]:
    kind, unroll = ir.IntType(bits), 8

    def emit(context: Any, builder: Any, _signature: Any, args: Sequence[Any]) -> Any:
        out, out_step, source, step, table, count = args

        def one(place: Any) -> None:
            byte = builder.load(_at(builder, builder.add(source, builder.mul(place, step)), _I8), align=1)
            entry = builder.mul(builder.zext(byte, _I64), ir.Constant(_I64, bits // 8))
            value = builder.load(_at(builder, builder.add(table, entry), kind), align=bits // 8)
            builder.store(value, _at(builder, builder.add(out, builder.mul(place, out_step)), kind), align=bits // 8)

        eights = builder.sdiv(count, ir.Constant(_I64, unroll))
        with cgutils.for_range(builder, eights) as loop:
            base = builder.mul(loop.index, ir.Constant(_I64, unroll))
            for place in range(unroll):
                one(builder.add(base, ir.Constant(_I64, place)))
        done = builder.mul(eights, ir.Constant(_I64, unroll))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            one(builder.add(done, loop.index))
        return context.get_dummy_value()

    return emit


def _parted(*, mirrored: bool) -> Callable[..., Any]:
    """Emit the loop that moves whole steps; the last one is moved back so that it ends with the row."""
    strided = [ir.Constant(ir.VectorType(_I32, PIXELS), [3 * pixel + channel for pixel in range(PIXELS)]) for channel in range(3)]
    backwards = ir.Constant(ir.VectorType(_I32, PIXELS), list(reversed(range(PIXELS))))
    narrow, wide = ir.VectorType(_I8, PIXELS), ir.VectorType(_I8, 3 * PIXELS)
    nothing, none = ir.Constant(wide, ir.Undefined), ir.Constant(narrow, ir.Undefined)

    def emit(context: Any, builder: Any, _signature: Any, args: Sequence[Any]) -> Any:
        out, plane, source, count = args
        step = ir.Constant(_I64, PIXELS)
        last = builder.sub(count, step)
        steps = builder.sdiv(builder.add(count, ir.Constant(_I64, PIXELS - 1)), step)
        with cgutils.for_range(builder, steps) as loop:
            wanted = builder.mul(loop.index, step)
            first = builder.select(builder.icmp_signed("<", wanted, last), wanted, last)
            pixels = builder.load(_at(builder, builder.add(source, builder.mul(first, ir.Constant(_I64, 3))), wide), align=1)
            place = builder.sub(last, first) if mirrored else first
            for channel, mask in enumerate(strided):
                values = builder.shuffle_vector(pixels, nothing, mask)
                if mirrored:
                    values = builder.shuffle_vector(values, none, backwards)
                target = builder.add(builder.add(out, builder.mul(plane, ir.Constant(_I64, channel))), place)
                builder.store(values, _at(builder, target, narrow), align=1)
        return context.get_dummy_value()

    return emit


def _byte(_context: Any, builder: Any, _signature: Any, args: Sequence[Any]) -> Any:
    return builder.load(_at(builder, args[0], _I8), align=1)


def _eight_rows(_typing: Any, out: Any, out_stride: Any, source: Any, stride: Any, places: Any, weights: Any, width: Any, count: Any) -> Any:
    return types.void(*_LONGS), _rows(8)


def _one_row(_typing: Any, out: Any, out_stride: Any, source: Any, stride: Any, places: Any, weights: Any, width: Any, count: Any) -> Any:
    return types.void(*_LONGS), _rows(1)


def _one_column(_typing: Any, out: Any, source: Any, stride: Any, weights: Any, taps: Any) -> Any:
    return types.void(*_LONGS[:5]), _column


def _four_bytes(_typing: Any, out: Any, out_step: Any, source: Any, step: Any, table: Any, count: Any) -> Any:
    return types.void(*_LONGS[:6]), _lookup(32)


def _one_byte(_typing: Any, out: Any, out_step: Any, source: Any, step: Any, table: Any, count: Any) -> Any:
    return types.void(*_LONGS[:6]), _lookup(8)


def _one_value(_typing: Any, address: Any) -> Any:
    return types.uint8(types.int64), _byte


def _planes(_typing: Any, out: Any, plane: Any, source: Any, count: Any) -> Any:
    return types.void(*_LONGS[:4]), _parted(mirrored=False)


def _planes_mirrored(_typing: Any, out: Any, plane: Any, source: Any, count: Any) -> Any:
    return types.void(*_LONGS[:4]), _parted(mirrored=True)


resize_eight_rows: Callable[[int, int, int, int, int, int, int, int], None] = _intrinsic(_eight_rows)
"""Write `count` RGB pixels in each of eight rows, `out_stride` apart, from rows `stride` apart.

`places` holds pairs (first pixel read, pixels read) as 64-bit integers, `weights` rows of 32-bit integers `width` bytes apart.
"""

resize_one_row: Callable[[int, int, int, int, int, int, int, int], None] = _intrinsic(_one_row)
"""Write `count` RGB pixels in one row."""

bytes_of_a_column: Callable[[int, int, int, int, int], None] = _intrinsic(_one_column)
"""Write `LANES` bytes: the weighted sums of `taps` rows that lie `stride` bytes apart."""

look_up_four_bytes: Callable[[int, int, int, int, int, int], None] = _intrinsic(_four_bytes)
"""Replace `count` bytes, `step` apart, by the four-byte entries of a table that they number, written `out_step` bytes apart."""

look_up_one_byte: Callable[[int, int, int, int, int, int], None] = _intrinsic(_one_byte)
"""Replace `count` bytes, `step` apart, by the one-byte entries of a table that they number, written `out_step` bytes apart."""

byte_at: Callable[[int], int] = _intrinsic(_one_value)
"""Return the byte at an address."""

part_into_planes: Callable[[int, int, int, int], None] = _intrinsic(_planes)
"""Move `count` RGB pixels, at least `PIXELS`, into three rows that lie `plane` bytes apart."""

part_into_planes_mirrored: Callable[[int, int, int, int], None] = _intrinsic(_planes_mirrored)
"""Move `count` RGB pixels, at least `PIXELS`, into three rows that lie `plane` bytes apart, the last pixel first."""
