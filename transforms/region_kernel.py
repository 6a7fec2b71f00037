"""Calls libjpeg-turbo to decode a part of a JPEG. Imported only to be compiled.

libjpeg reports an error by calling `error_exit`, which must not return: ours jumps back (`longjmp`) to where the failed call was made. Each call is made
through `_attempt`, a function of its own that does nothing else, so no variable of the decoder lives across the jump. What libjpeg keeps
(`jpeg_decompress_struct`, version 6b's binary interface with 64-bit pointers, the one that libjpeg-turbo's library 62 has) lies in memory of the caller's.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .region_layout import (
    AHEAD,
    CINFO,
    CINFO_BYTES,
    COLOURS,
    COMPONENTS,
    CREATE,
    CROP,
    CROP_SCANLINE,
    DESTROY,
    ERROR,
    JUMP,
    MANY_SCANS,
    MARGIN,
    MEM_SRC,
    OUT_COLOURS,
    OUTPUT_HEIGHT,
    OUTPUT_WIDTH,
    READ_HEADER,
    READ_SCANLINES,
    RGB,
    ROWS,
    SCALE,
    SCANS,
    SKIP_SCANLINES,
    START,
    STD_ERROR,
    VERSION,
    WARNINGS,
    YCC,
)

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FOUR = ir.FunctionType(_I64, [_I64, _I64, _I64])
_BYTES = _I8.as_pointer()


def _function(module: Any, name: str, kind: Any, attributes: tuple[str, ...]) -> Any:
    made = cgutils.get_or_insert_function(module, kind, name)  # type: ignore[no-untyped-call]
    for attribute in attributes:
        made.attributes.add(attribute)
    return made


def _guarded(module: Any) -> Any:
    """Return the function that calls another and comes back with -1 when that fails."""
    made = _function(module, "penstock_attempt", ir.FunctionType(_I64, [_I64] * 5), ("noinline",))
    if made.blocks:
        return made
    made.linkage = "internal"
    target, one, two, three, buffer = made.args
    builder = ir.IRBuilder(made.append_basic_block())
    setjmp = _function(module, "_setjmp", ir.FunctionType(_I32, [_BYTES]), ("returns_twice",))
    first = builder.icmp_signed("==", builder.call(setjmp, [builder.inttoptr(buffer, _BYTES)]), _I32(0))
    go, fail = made.append_basic_block(), made.append_basic_block()
    builder.cbranch(first, go, fail)
    builder.position_at_end(go)
    result = builder.call(builder.inttoptr(target, _FOUR.as_pointer()), [one, two, three])
    builder.ret(builder.and_(result, _I64(0x7FFFFFFF)))  # what a function of type void leaves there is never taken for a failure
    builder.position_at_end(fail)
    builder.ret(_I64(-1))
    return made


def _handler(module: Any, name: str, *, jumps: bool) -> Any:
    """Return a function that libjpeg calls with its struct: one that jumps to where `_guarded` waits, or one that does nothing."""
    made = _function(module, name, ir.FunctionType(ir.VoidType(), [_I64]), ("noinline",))
    if made.blocks:
        return made
    made.linkage = "internal"
    builder = ir.IRBuilder(made.append_basic_block())
    if not jumps:
        builder.ret_void()
        return made
    error = builder.load(builder.inttoptr(made.args[0], _I64.as_pointer()))
    longjmp = _function(module, "longjmp", ir.FunctionType(ir.VoidType(), [_BYTES, _I32]), ("noreturn",))
    builder.call(longjmp, [builder.inttoptr(builder.add(error, _I64(JUMP - ERROR)), _BYTES), _I32(1)])
    builder.unreachable()
    return made


@intrinsic
def _attempt(_context: Any, _target: Any, _one: Any, _two: Any, _three: Any, _buffer: Any) -> Any:
    """Call the C function at `_target` with three arguments; return its result, or -1 when it failed."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.call(_guarded(builder.module), list(arguments))

    return types.int64(types.int64, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _handlers(_context: Any, _error: Any) -> Any:
    """Put our functions for errors and for messages into the error manager at `_error`."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        for offset, name, jumps in ((0, "penstock_error_exit", True), (16, "penstock_output_message", False)):
            place = builder.inttoptr(builder.add(arguments[0], _I64(offset)), _I64.as_pointer())
            builder.store(builder.ptrtoint(_handler(builder.module, name, jumps=jumps), _I64), place)
        return _I64(0)

    return types.int64(types.int64), generate


_call: Any = _attempt  # numba hands an intrinsic its context, which a checker of types does not know
_install: Any = _handlers


@numba.njit
def _created(library: Any, words: Any, base: Any) -> Any:
    """Prepare the memory at address `base`, whose 32-bit words `words` are; return 0, or -1 when the library has another interface."""
    buffer = base + JUMP
    _call(library[STD_ERROR], base + ERROR, 0, 0, buffer)
    _install(base + ERROR)
    words[CINFO // 4] = np.int32((base + ERROR) & 0xFFFFFFFF)
    words[CINFO // 4 + 1] = np.int32((base + ERROR) >> 32)
    return min(_call(library[CREATE], base + CINFO, VERSION, CINFO_BYTES, buffer), 0)


@numba.njit
def decode_part(library: Any, words: Any, told: Any, base: Any, data: Any, size: Any, factor: Any, part: Any, out: Any, room: Any, scans: Any) -> Any:
    """Decode a part of a colour JPEG into RGB rows at address `out`.

    The decoder is made and destroyed with each image: one that is used again keeps the tables of the image before, and would decode with them a JPEG
    that lacks its own.

    Args:
        library: addresses of libjpeg's functions.
        words: the 32-bit words of the decoder's memory.
        told: filled with the first column decoded, how many columns (a row is three times as many bytes), and the reduced image's height and width.
        base: its address.
        data: address of the encoded bytes.
        size: how many there are.
        factor: 1, 2, 4 or 8.
        part: top, left, height, width, in pixels of the reduced image.
        out: address of the rows.
        room: bytes there.
        scans: whether there may be several.

    Returns:
        0, or what went wrong: -1 an error or a warning of libjpeg's, -2 no such JPEG or part, -3 too little room, `SCANS` several scans.
    """
    cinfo, buffer, rows = base + CINFO, base + JUMP, base + ROWS
    outcome = _created(library, words, base)
    if outcome == 0:
        outcome = _started(library, words, cinfo, buffer, data, size, factor, part, scans)
    if outcome == 0:
        told[2], told[3] = words[OUTPUT_HEIGHT // 4], words[OUTPUT_WIDTH // 4]
        words[CROP // 4] = np.int32(max(part[1] - MARGIN, 0))
        right = min(part[1] + part[3] + MARGIN, np.int64(words[OUTPUT_WIDTH // 4]))
        words[CROP // 4 + 1] = np.int32(right - np.int64(words[CROP // 4]))
        outcome = _call(library[CROP_SCANLINE], cinfo, base + CROP, base + CROP + 4, buffer)
        told[0], told[1] = words[CROP // 4], words[CROP // 4 + 1]
        if outcome >= 0 and told[1] * 3 * part[2] > room:
            outcome = -3
        elif outcome >= 0:
            outcome = _rows(library, words, cinfo, buffer, part, out, told[1] * 3, rows)
    if outcome >= 0 and words[WARNINGS // 4] != 0:
        outcome = -1
    _call(library[DESTROY], cinfo, 0, 0, buffer)
    return outcome


@numba.njit
def _started(library: Any, words: Any, cinfo: Any, buffer: Any, data: Any, size: Any, factor: Any, part: Any, scans: Any) -> Any:
    if _call(library[MEM_SRC], cinfo, data, size, buffer) < 0 or _call(library[READ_HEADER], cinfo, 1, 0, buffer) != 1:
        return -1
    if words[COMPONENTS // 4] != 3 or (words[COLOURS // 4] != YCC and words[COLOURS // 4] != RGB):
        return -2
    if not scans and _call(library[MANY_SCANS], cinfo, 0, 0, buffer) != 0:
        return SCANS
    words[OUT_COLOURS // 4] = RGB
    words[SCALE // 4] = 1
    words[SCALE // 4 + 1] = np.int32(factor)
    if _call(library[START], cinfo, 0, 0, buffer) != 1:
        return -1
    if part[0] + part[2] > words[OUTPUT_HEIGHT // 4] or part[1] + part[3] > words[OUTPUT_WIDTH // 4] or min(part[0], part[1]) < 0:
        return -2
    return 0


@numba.njit
def _rows(library: Any, words: Any, cinfo: Any, buffer: Any, part: Any, out: Any, pitch: Any, rows: Any) -> Any:
    if part[0] > 0 and _call(library[SKIP_SCANLINES], cinfo, part[0], 0, buffer) != part[0]:
        return -1
    done = np.int64(0)
    while done < part[2]:
        for ahead in range(min(part[2] - done, AHEAD)):
            place = out + (done + ahead) * pitch
            words[ROWS // 4 + 2 * ahead] = np.int32(place & 0xFFFFFFFF)
            words[ROWS // 4 + 2 * ahead + 1] = np.int32(place >> 32)
        came = _call(library[READ_SCANLINES], cinfo, rows, min(part[2] - done, AHEAD), buffer)
        if came <= 0:
            return -1
        done += came
    return 0
