"""Decodes the part of a JPEG that a crop needs: rows below it are never read, rows above and columns beside it never transformed.

The library is the libjpeg-turbo that Pillow's wheels carry, called by a compiled kernel without the GIL; no Python package offers this. It is used
when it is there, has the interface that the kernel knows, and decodes a small picture to the same bytes as simplejpeg. Its pixels are simplejpeg's,
bit for bit. Whatever is out of the ordinary (grey or CMYK, a warning of libjpeg's, data that do not end as a JPEG does) is left to the decoder of
whole images, which also says what is wrong.

So what is broken outside the part that is read goes unnoticed; checksums (`penstock verify`) are what finds it.
Cost: for half the height and width of a 500 x 375 photograph 60 % of decoding it whole; for all of it, 5 % more. One decoder a thread, of some kilobytes.
"""

from __future__ import annotations

import ctypes
import functools
import io
import threading
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
from PIL import Image

from ..jit import Held, Kernel
from .jpeg import MOST_SCANS, scans_of
from .region_layout import FUNCTIONS, SCANS, WORK_BYTES

Bytes = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

_SOURCES = ("transforms.region_layout",)
decode_part = Kernel("transforms.region_kernel", "decode_part", "i8(i8[:] i4[:] i8[:] i8 i8 i8 i8 i8*4 i8 i8 b1)", sources=_SOURCES)


class Region(NamedTuple):
    """Decoded pixels of a part of an image, and of what lies beside it in the same rows.

    Attributes:
        pixels: uint8 `[height, width, 3]`, a view of the buffer that was given.
        left: the image's column at which they begin.
    """

    pixels: Bytes
    left: int


@final
class _Decoder:
    """One thread's memory for a decoder: libjpeg's struct and what lies around it; libjpeg holds nothing between two images."""

    def __init__(self, library: Held) -> None:
        """Allocate it."""
        memory = np.zeros(WORK_BYTES // 8, np.int64)
        self._told = np.zeros(4, np.int64)
        self._decode = decode_part.bind(library, Held(memory.view(np.int32)), Held(self._told), memory.ctypes.data)

    def part(self, data: Bytes, factor: int, box: Box, size: tuple[int, int], buffer: Bytes) -> Region | None:
        """Decode a part; see `decode_region`."""
        height = box[2]
        told = (data.ctypes.data, data.size, factor, *box, buffer.ctypes.data, buffer.size)
        outcome = self._decode(*told, False)
        if outcome == SCANS and scans_of(data) <= MOST_SCANS:
            outcome = self._decode(*told, True)
        left, width, *found = self._told.tolist()
        if outcome != 0 or tuple(found) != size:
            return None
        return Region(buffer[: height * width * 3].reshape(height, width, 3), left)


@functools.cache
def _library() -> Held | None:
    """Return the addresses of libjpeg's functions, or None when Pillow brings no libjpeg of its own."""
    for path in sorted((Path(PIL.__file__).parent.parent / "pillow.libs").glob("libjpeg-*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            places = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in FUNCTIONS]
        except (OSError, AttributeError):
            continue
        return Held(np.array(places, np.int64))
    return None


_OWN = threading.local()


def _decoder(library: Held) -> _Decoder:
    """Return this thread's decoder."""
    found: _Decoder | None = getattr(_OWN, "decoder", None)
    if found is None:
        found = _OWN.decoder = _Decoder(library)
    return found


@functools.cache
def available() -> bool:
    """Return whether parts can be decoded here, to the same bytes as whole images: tried once on a small picture."""
    ramp = np.add.outer(np.arange(48) * 5, np.arange(128) * 3)[:, :, None] % (251, 239, 197)
    file = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(file, "JPEG", quality=90)
    data = np.frombuffer(file.getvalue(), np.uint8)
    library = _library()
    found = _decoder(library).part(data, 1, (17, 40, 20, 30), (48, 128), np.empty(1 << 14, np.uint8)) if library else None
    if found is None:
        return False
    return bool(np.array_equal(found.pixels[:, 40 - found.left : 70 - found.left], simplejpeg.decode_jpeg(data)[17:37, 40:70]))


def decode_region(data: Bytes, factor: int, box: Box, size: tuple[int, int], buffer: Bytes) -> Region | None:
    """Return the pixels of a part of a colour JPEG as RGB, or None when the whole must be decoded.

    Args:
        data: the encoded bytes, C-contiguous.
        factor: 1, 2, 4 or 8: the reduction.
        box: top, left, height, width of the part, in pixels of the reduced image.
        size: height and width of the reduced image, as its header says.
        buffer: where the pixels go.
    """
    library = _library()
    if library is None or data[-2:].tobytes() != b"\xff\xd9" or not data.flags.c_contiguous or not available():
        return None
    return _decoder(library).part(data, factor, box, size, buffer)
