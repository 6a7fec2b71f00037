"""The compiled half of `team`: threads that carry out parts of a job, none of which takes Python's lock. Imported only to be compiled.

The control block is a run of 64-bit words at an address; those that several threads write have a cache line each.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..kernel_memory import longs

OPEN = 0
"""Number of the job that may be entered; 0 between jobs."""

NEXT = 8
"""The next part that nobody has taken."""

INSIDE = 16
"""Threads, beside the one that finishes the job, that may be carrying out parts."""

SLEEPERS = 24
"""Threads that sleep, or are about to."""

JOB = 32
"""What to call, with what: address of an entry, address of its first arguments, bytes of the arguments of a part, address of the results, parts."""

SEMAPHORE = 40
"""A `sem_t`, on which threads sleep."""

WORDS = 64
"""Of a control block."""


@intrinsic
def _loaded(_context: Any, _address: Any) -> Any:
    """Read a word that other threads write."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), "seq_cst", 8)

    return types.int64(types.uint64), generate


_load: Any = _loaded


@intrinsic
def _stored(_context: Any, _address: Any, _value: Any) -> Any:
    """Write a word that other threads read."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, value = arguments
        builder.store_atomic(value, builder.inttoptr(address, ir.IntType(64).as_pointer()), "seq_cst", 8)
        return ir.Constant(ir.IntType(8), 0)

    return types.uint8(types.uint64, types.int64), generate


_store: Any = _stored


@intrinsic
def _added(_context: Any, _address: Any, _value: Any) -> Any:
    """Add to a word that other threads add to; return what it was."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        address, value = arguments
        return builder.atomic_rmw("add", builder.inttoptr(address, ir.IntType(64).as_pointer()), value, "seq_cst")

    return types.int64(types.uint64, types.int64), generate


_add: Any = _added


@intrinsic
def _called(_context: Any, _function: Any, _first: Any, _second: Any) -> Any:
    """Call the function at an address with two words; it takes as many of them as it knows of."""

    def generate(_: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [word, word])
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return types.int32(types.uint64, types.uint64, types.uint64), generate


_call: Any = _called


@numba.njit
def serve(control: Any, wait: Any, relax: Any, patience: Any) -> Any:
    """Carry out parts of one job after another, for ever. `wait` and `relax` are the addresses of `sem_wait` and `sched_yield`.

    Between jobs it looks for the next one `patience` times and then sleeps, until `begin` wakes it.
    """
    last = np.int64(0)
    while True:
        looks, seen = np.int64(0), _load(control)
        while seen in (0, last):
            if looks < patience:
                looks += 1
                _call(relax, 0, 0)
            else:
                _add(control + np.uint64(8 * SLEEPERS), 1)
                if _load(control) in (0, last):  # else it opened before we were counted, and nobody will wake us
                    _call(wait, control + np.uint64(8 * SEMAPHORE), 0)
                _add(control + np.uint64(8 * SLEEPERS), -1)
                looks = np.int64(0)
            seen = _load(control)
        last = seen
        _add(control + np.uint64(8 * INSIDE), 1)
        if _load(control) == seen:  # else the job was closed before it was entered, and what is told may be the next one's
            _carry_out(control)
        _add(control + np.uint64(8 * INSIDE), -1)


@numba.njit
def begin(control: Any, wake: Any, number: Any) -> Any:
    """Open job `number`, which is told in the control block; `wake` is the address of `sem_post`."""
    _store(control + np.uint64(8 * NEXT), 0)
    _store(control, number)
    for _ in range(_load(control + np.uint64(8 * SLEEPERS))):
        _call(wake, control + np.uint64(8 * SEMAPHORE), 0)
    return 0


@numba.njit
def finish(control: Any, relax: Any) -> Any:
    """Carry out the parts of the open job that nobody has taken, close it, and return when all are done."""
    _carry_out(control)
    _store(control, 0)
    while _load(control + np.uint64(8 * INSIDE)) != 0:
        _call(relax, 0, 0)
    return 0


@numba.njit
def _carry_out(control: Any) -> None:
    """Take parts and carry them out until none is left."""
    words = longs(control)
    entry, arguments, size, results, parts = words[JOB], words[JOB + 1], words[JOB + 2], words[JOB + 3], words[JOB + 4]
    while True:
        part = _add(control + np.uint64(8 * NEXT), 1)
        if part >= parts:
            return
        _call(np.uint64(entry), np.uint64(arguments + part * size), np.uint64(results + part * 8))
