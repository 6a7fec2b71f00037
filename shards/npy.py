"""NumPy's `.npy` format, to and from bytes, without ever unpickling and without believing a header.

Reading gives a view of the given memory: the header is checked against the bytes that follow it (dtype, shape and length must agree
exactly), object and structured dtypes are refused, big-endian numbers are turned and Fortran order becomes C order (the two cases that
copy). Headers are remembered, since all rows of a column have the same few.

Cost: about 4 µs a row once its header is known, no copy. Refused: `numpy.load`, which parses each header anew (53 µs) and accepts trailing bytes.
"""

from __future__ import annotations

import ast
import io
import re
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadData

MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 1 << 16
_DESCR = re.compile(r"[<>|=]?[biuf][1248]")
_DTYPES = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"})


class Header(NamedTuple):
    """What a `.npy` header says, checked.

    Attributes:
        dtype: as stored, perhaps big-endian.
        shape: the array's shape.
        fortran: whether the first dimension runs fastest.
        offset: where the elements begin.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def header_of(data: npt.NDArray[np.uint8]) -> Header:
    """Return the header of a whole `.npy` file whose length agrees with it.

    Raises:
        BadData: it is not such a file, it would need unpickling, or its header is a lie.
    """
    head = data[:12].tobytes()
    if len(head) < 10 or not head.startswith(MAGIC) or head[6] not in {1, 2, 3}:
        raise BadData(f"the {len(data)} bytes, beginning {head[:8]!r}, are not an .npy file")
    width = 2 if head[6] == 1 else 4
    offset = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if offset > min(len(data), _MAX_HEADER_BYTES):
        raise BadData(f"the .npy header claims {offset} bytes of {len(data)} (at most {_MAX_HEADER_BYTES} are read)")
    header = _parse(data[:offset].tobytes())
    claimed = header.offset + prod(header.shape) * header.dtype.itemsize
    if claimed != len(data):
        raise BadData(f"the .npy header says {header.dtype} of shape {header.shape}, {claimed} bytes in all, but there are {len(data)}")
    return header


def array_of(data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the array of a whole `.npy` file, a read-only view where its layout allows.

    Raises:
        BadData: as `header_of`.
    """
    header = header_of(data)
    flat = np.frombuffer(data, header.dtype, prod(header.shape), header.offset) if prod(header.shape) else np.empty(0, header.dtype)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    if header.fortran and len(header.shape) > 1:
        array = np.ascontiguousarray(array)
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))


def bytes_of(array: npt.NDArray[Any]) -> bytes:
    """Return the `.npy` file of an array; equal arrays give equal bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


@lru_cache(maxsize=1024)
def _parse(head: bytes) -> Header:
    """Return the header of the bytes before the elements; the length is not checked here.

    Numpy's own reader is not used: on hostile text it also raises errors of the tokenizer, and it knows dtypes that would need unpickling.
    """
    text = head[10 if head[6] == 1 else 12 :]
    try:
        told = ast.literal_eval(text.decode("utf-8" if head[6] == 3 else "latin-1").strip())
        descr, fortran, shape = told["descr"], told["fortran_order"], told["shape"]
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError):
        raise BadData(f"the .npy header {text[:80]!r} cannot be read") from None
    if isinstance(descr, str) and "O" in descr:
        raise BadData(f"the .npy file holds Python objects ({descr!r}), which only unpickling could read; Penstock never unpickles: store numbers")
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr) or np.dtype(descr).name not in _DTYPES:
        raise BadData(f"the .npy file holds {str(descr)[:80]!r}, which no field holds; use one of {', '.join(sorted(_DTYPES))}")
    if not isinstance(shape, tuple) or len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape) or not isinstance(fortran, bool):
        raise BadData(f"the .npy header has shape {str(shape)[:80]} and fortran_order {str(fortran)[:40]}")
    return Header(np.dtype(descr), shape, fortran, len(head))
