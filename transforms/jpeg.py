"""Encoded images to arrays: libjpeg-turbo for JPEG, Pillow for the rest.

Damage is an error, always: libjpeg's warnings about broken entropy data (a picture with a grey lower half) count as damage here, and so does
a size in the header above the cap, before any memory is asked for. JPEG is decoded without the GIL, at 1/2, 1/4 or 1/8 of its size when the
caller needs no more, into the caller's buffer (a fresh 0.5 MB buffer costs as much in page faults as a tenth of the decoding).

Refused: Pillow for all (no reuse of buffers), OpenCV (100 MB for one function), PyTurboJPEG (needs a system library).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from ..errors import BadData

Mode = Literal["RGB", "GRAY"]
"""The channels of a decoded image: three or one."""

MAX_PIXELS = 178_956_970
"""The default cap on an image's pixels (Pillow's own limit for an error): 512 MB decoded to RGB; a progressive JPEG takes up to twice that on the way."""

MOST_SCANS = 500
"""Passes over its pixels that a JPEG may have; encoders make some ten. The limit is that of libjpeg-turbo's own tests with hostile files."""

_HEAD_BYTES = 1 << 17
"""Of a JPEG, in which its notes and tables are looked for."""

_SEQUENTIAL = (0xC0, 0xC1, 0xC3, 0xC9, 0xCB)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
"""Markers of frames whose pixels come in one pass, or several."""

_ORIENTATION = 0x0112
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error)
_TURBO_COLOURS = ("YCbCr", "Gray", "RGB")


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image say.

    Attributes:
        height: rows as stored, before any orientation is applied.
        width: columns as stored.
        orientation: the EXIF orientation, 1 to 8; 1 when there is none or it was not asked for.
        turbo: whether it is a JPEG that libjpeg-turbo turns into RGB or grey by itself.
    """

    height: int
    width: int
    orientation: int
    turbo: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Return height and width once the orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def _open(data: npt.NDArray[np.uint8]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data.tobytes()), formats=("JPEG", "PNG", "WEBP"))
    except Image.DecompressionBombError as error:
        raise BadData(f"{_first_line(error)}; if that is real, raise PIL.Image.MAX_IMAGE_PIXELS and Decode(max_pixels=...)") from None
    except _DAMAGE as error:
        raise BadData(_not_an_image(data, error)) from None


def _not_an_image(data: npt.NDArray[np.uint8], error: Exception) -> str:
    return f"the {data.size} bytes, beginning {data[:8].tobytes()!r}, are not a readable JPEG, PNG or WebP image: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip(" .")


def exif_orientation(data: npt.NDArray[np.uint8]) -> int:
    """Return the orientation in a JPEG's EXIF block, 1 when there is none or it makes no sense."""
    head = data[:_HEAD_BYTES].tobytes()
    place = 2
    while place + 10 <= len(head) and head[place] == 0xFF and head[place + 1] not in (0xD9, 0xDA):
        length = int.from_bytes(head[place + 2 : place + 4], "big")
        if head[place + 1] == 0xE1 and head[place + 4 : place + 10] == b"Exif\0\0":
            return _orientation_in_tiff(head[place + 10 : place + 2 + length])
        place += 2 + length
    return 1


def _orientation_in_tiff(tiff: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == _ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def read_header(data: npt.NDArray[np.uint8], *, orientation: bool, max_pixels: int = MAX_PIXELS) -> Header:
    """Return an image's size and orientation without decoding it.

    Raises:
        BadData: it is not an image, or larger than `max_pixels`.
    """
    header = _jpeg_header(data, orientation) if data[:2].tobytes() == b"\xff\xd8" else None
    if header is None:
        with _open(data) as image:
            _check_cap(image.height, image.width, max_pixels)  # before Pillow looks for EXIF: in a PNG it may stand behind the pixels
            return Header(image.height, image.width, _orientation_with_pillow(image) if orientation else 1, turbo=False)
    _check_cap(header.height, header.width, max_pixels)
    return header


def _check_cap(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadData(
            f"the image says it is {width} x {height} = {width * height} pixels, above the cap of {max_pixels}; "
            "if that is real, raise it with Decode(max_pixels=...)"
        )


def _orientation_with_pillow(image: Image.Image) -> int:
    """Return the orientation Pillow finds; damage means none here, and that of the pixels is met again when they are decoded."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return int(turned) if turned in range(1, 9) else 1


def _jpeg_header(data: npt.NDArray[np.uint8], orientation: bool) -> Header | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadData(f"the JPEG of {data.size} bytes has a damaged header: {_first_line(error)}") from None
    if colours not in _TURBO_COLOURS:
        return None
    return Header(height, width, exif_orientation(data) if orientation else 1, turbo=True)


def decode(data: npt.NDArray[np.uint8], header: Header, mode: Mode, factor: int = 1, buffer: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[Any]:
    """Return the upright image, uint8 `[height, width, 3 or 1]`, reduced by `factor` when it is a JPEG.

    Args:
        data: the encoded bytes.
        header: what `read_header` said of them.
        mode: `"RGB"` or `"GRAY"`.
        factor: 1, 2, 4 or 8; each side is divided by it and rounded up.
        buffer: where a JPEG is decoded to, when given and large enough; the result may be a view of it.

    Raises:
        BadData: the data are damaged.
    """
    height, width = -(-header.height // factor), -(-header.width // factor)
    _check_scans(data)
    image = _decode_jpeg(data, header, mode, (height, width), buffer) if header.turbo else _decode_with_pillow(data, mode)
    if image.shape[:2] != (height, width):
        raise BadData(f"the image's header says {width} x {height} pixels and {image.shape[1]} x {image.shape[0]} came out; it contradicts itself")
    return turn(image, header.orientation)


def scans_of(data: npt.NDArray[np.uint8]) -> int:
    """Return how often a JPEG goes over its pixels, or more: the marker cannot appear in what it codes, but in notes and previews it can."""
    return data.tobytes().count(b"\xff\xda")


def _several_scans(data: npt.NDArray[np.uint8]) -> bool:
    """Return whether a JPEG's head (ITU-T T.81, B.2) announces several scans, or does not tell: decoders refuse a second one where the first has all components."""
    head, place, components = data[:_HEAD_BYTES].tobytes(), 2, 0
    while place + 10 <= len(head) and head[place] == 0xFF:
        marker = head[place + 1]
        if marker == 0xDA:
            return head[place + 4] != components
        if marker in _PROGRESSIVE:
            return True
        if marker in _SEQUENTIAL:
            components = head[place + 9]
        place += 1 if marker == 0xFF else 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return True


def _check_scans(data: npt.NDArray[np.uint8]) -> None:
    """Refuse a JPEG that goes over its pixels again and again: a small one could keep a core busy for hours. Counting costs a tenth of decoding, so the head is asked first."""
    if data[:2].tobytes() == b"\xff\xd8" and _several_scans(data) and (scans := scans_of(data)) > MOST_SCANS:
        raise BadData(f"the JPEG of {data.size} bytes has {scans} scans, and no encoder makes more than {MOST_SCANS}")


def _decode_jpeg(
    data: npt.NDArray[np.uint8], header: Header, mode: Mode, size: tuple[int, int], buffer: npt.NDArray[np.uint8] | None
) -> npt.NDArray[Any]:
    if buffer is not None and buffer.size < size[0] * size[1] * (3 if mode == "RGB" else 1):
        buffer = None
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, mode, min_height=size[0], min_width=size[1], buffer=buffer, strict=True))
    except ValueError as error:
        raise BadData(f"the JPEG of {data.size} bytes, {header.width} x {header.height} pixels, is damaged: {_first_line(error)}") from None


def _decode_with_pillow(data: npt.NDArray[np.uint8], mode: Mode) -> npt.NDArray[Any]:
    try:
        with _open(data) as image:
            image.load()
            flat = _to_eight_bits(image).convert("L" if mode == "GRAY" else "RGB")
            pixels = np.array(flat)
    except _DAMAGE as error:
        raise BadData(_not_an_image(data, error)) from None
    return pixels.reshape(pixels.shape[0], pixels.shape[1], -1)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image by its high bytes; Pillow would cut every value above 255 down to white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image


def turn(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return the image as an EXIF orientation says it should be looked at, as `PIL.ImageOps.exif_transpose` does."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    image = np.flip(image, flips) if flips else image
    return np.ascontiguousarray(image)
