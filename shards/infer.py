"""The field that a value shows, for a writer that was given no fields. Pure.

Must never: guess where a value does not say (an empty array), or take an object that only pickle could keep.
Cost: one chain of `isinstance` for each column of the first row.
Refused: looking at more rows than the first, which would have to be kept until the columns are known.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadData
from ..fields import KNOWN, Array, Bytes, Field, Json, Scalar, Text


def infer(value: object) -> Field:
    """Return the field that holds `value`.

    Raises:
        BadData: no field holds such an object; it is never pickled.
    """
    if isinstance(value, (bool, np.bool_)):
        return Scalar("bool")
    if isinstance(value, int):
        return Scalar("int64")
    if isinstance(value, (np.ndarray, np.number)) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        if value.size == 0:
            raise BadData(f"an array of shape {value.shape} does not say what the column holds; declare it, perhaps as Tokens({value.dtype.name!r})")
        return Array(value.shape, value.dtype.name) if value.shape else Scalar(value.dtype.name)
    if isinstance(value, float):
        return Scalar("float64")
    if isinstance(value, str):
        return Text()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Bytes()
    if isinstance(value, (dict, list)):
        Json().encode(value)
        return Json()
    raise BadData(f"a value of {type(value).__module__}.{type(value).__qualname__} has no field type; there are {KNOWN}")
