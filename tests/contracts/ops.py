"""The contract that every transform keeps, in one checker."""

from __future__ import annotations

import dataclasses
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from penstock.transforms.base import Encoded, Given, Op, PixelOp, Ragged, Spec
from penstock.transforms.random import Random


def fits(value: npt.NDArray[Any], declared: Spec | Ragged) -> bool:
    """Return whether a value is what was declared."""
    if value.dtype.name != declared.dtype:
        return False
    if isinstance(declared, Ragged):
        return value.ndim == 1
    return value.ndim == len(declared.shape) and all(want in (None, got) for want, got in zip(declared.shape, value.shape, strict=True))


def check_op(op: Op, given: Given, value: npt.NDArray[Any]) -> None:
    """An op yields what it declared, changes nothing it was given, repeats itself, and is a value.

    Checked: declared shape and dtype equal what `apply` returns for several samples; the input is left alone; equal draws give equal results;
    the op is frozen, comparable, hashable and crosses to a worker; the fast path of a pixel op equals its reference bit for bit; a rowwise op
    gives on a batch what it gives on the rows.
    """
    assert isinstance(given, Encoded) or fits(value, given), "the test's own value does not fit its description"
    declared = op.declare(given)
    before = value.copy()
    for sample in range(6):
        result = op.apply(value, given, Random(11, sample, 3))
        assert fits(result, declared), f"{op} declared {declared} and returned {result.dtype} {result.shape}"
        assert np.array_equal(result, op.apply(value, given, Random(11, sample, 3)), equal_nan=result.dtype.kind == "f"), f"{op} does not repeat"
        if isinstance(op, PixelOp):
            fast = op.fast(value, given, Random(11, sample, 3))
            assert fast.dtype == result.dtype
            assert np.array_equal(fast, result), f"{op}: fast and reference differ on sample {sample}"
    assert np.array_equal(value, before), f"{op} wrote into what it was given"
    if op.rowwise and isinstance(given, Spec):
        rows = np.stack([value, value[::-1] if value.ndim else value, value])
        expected = np.stack([op.apply(row, given, Random(0, 0)) for row in rows])
        assert np.array_equal(op.apply(rows, given, Random(0, 0)), expected), f"{op} differs between a batch and its rows"
    check_value(op)


def check_value(op: Op) -> None:
    """An op is a frozen value that compares, hashes, shows its arguments and crosses to a worker unchanged."""
    arguments = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}  # type: ignore[arg-type]
    again = type(op)(**arguments)
    assert again == op
    assert hash(again) == hash(op)
    assert repr(cloudpickle.loads(cloudpickle.dumps(op))) == repr(op)
    for name, argument in arguments.items():
        assert f"{name}={argument!r}" in repr(op)
        try:
            setattr(op, name, argument)
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(f"{op}.{name} can be set")
