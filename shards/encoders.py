"""`Field.encode` for the values that come a million times: already right, only looked at.

`encoder_of(field)(value)` equals `field.encode(value)` for every value, refusals included; the property test says so. It differs in cost: an
array of the right dtype and shape, or a plain Python number that fits, takes 0.1 to 0.2 µs instead of 1.5 to 4. Whatever is not plainly right
goes to `Field.encode`, which stays the reference.

Must never: accept what `Field.encode` refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..fields import Array, Field, Scalar, Tokens

Encoder = Callable[[object], Any]
"""Turns a user's value into the one that a shard writer takes, or raises `BadData`."""


def encoder_of(field: Field) -> Encoder:
    """Return the fastest function that equals `field.encode`."""
    if type(field) is Array:
        return _array(field.encode, np.dtype(field.dtype), field.shape)
    if type(field) is Tokens:
        return _run(field.encode, np.dtype(field.dtype))
    if type(field) is Scalar and np.dtype(field.dtype).kind in "iu":
        return _whole(field.encode, np.dtype(field.dtype))
    if type(field) is Scalar and field.dtype == "float64":
        return _real(field.encode)
    return field.encode


def _array(slow: Encoder, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Encoder:
    def encode(value: object) -> Any:
        if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape and value.flags.c_contiguous:
            return value
        return slow(value)

    return encode


def _run(slow: Encoder, dtype: np.dtype[Any]) -> Encoder:
    def encode(value: object) -> Any:
        if type(value) is np.ndarray and value.dtype == dtype and value.ndim == 1 and value.flags.c_contiguous:
            return value
        return slow(value)

    return encode


def _whole(slow: Encoder, dtype: np.dtype[Any]) -> Encoder:
    least, most, kind = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max), dtype.type

    def encode(value: object) -> Any:
        if type(value) is int and least <= value <= most:
            return kind(value)
        return slow(value)

    return encode


def _real(slow: Encoder) -> Encoder:
    def encode(value: object) -> Any:
        return np.float64(value) if type(value) is float else slow(value)

    return encode
