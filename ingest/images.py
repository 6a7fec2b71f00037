"""Judges an image, and scales it or writes it anew when asked. Pure: bytes in, bytes out.

An image is readable if it really decodes. A JPEG is decoded strictly at an eighth of its size for that: all its entropy-coded data are read,
and only the inverse transform is cut short. Bytes that need no change stay as they are. Scaling is antialiased and never enlarges.
A changed image keeps its EXIF orientation (and nothing else of its EXIF), so that a reader sees the same picture the same way up.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image as Pillow

from ..errors import BadData, BadRequest
from ..shards.tarnames import sniff
from ..transforms.jpeg import decode as decode_pixels
from ..transforms.jpeg import exif_orientation, read_header
from .settings import ImageRule

_ORIENTATION = 0x0112
_KINDS = ("jpeg", "png", "webp")
_FOREIGN = {b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff", b"P6": "ppm", b"P5": "pgm"}
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Pillow.DecompressionBombError)


def apply(data: bytes, rule: ImageRule) -> bytes:
    """Return the image as it should be stored.

    Raises:
        BadData: it is not a readable image, or of a kind that is only stored with `reencode`.
    """
    if not data:
        raise BadData("the file is empty (0 bytes)")
    kind = sniff(data[:16])
    if kind not in _KINDS:
        foreign = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)
        if foreign is None:
            raise BadData(f"the {len(data)} bytes, beginning {data[:8]!r}, are not an image")
        if rule.encoding is None:
            raise BadData(f"{foreign} images are not stored as they are; write them anew with --reencode (reencode='jpeg:90' or 'png')")
        return _rewrite(_pillow(data), rule, rule.encoding)
    memory = np.frombuffer(data, np.uint8)
    header = read_header(memory, orientation=False)
    size = target_size(header.width, header.height, rule)
    if size == (header.width, header.height) and rule.encoding in (None, kind):
        check(data, kind, turbo=header.turbo, rule=rule)
        return data
    if kind == "jpeg" and header.turbo:
        return _rewrite(Pillow.fromarray(_pixels(memory)), rule, rule.encoding or kind, exif_orientation(memory))
    return _rewrite(_pillow(data), rule, rule.encoding or kind)


def check(data: bytes, kind: str, *, turbo: bool, rule: ImageRule) -> None:
    """Refuse an image that does not decode; with `check="header"` its header has been enough.

    Raises:
        BadData: the data are damaged.
    """
    if rule.check == "header":
        return
    if kind == "jpeg" and turbo:
        try:
            simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as error:
            raise BadData(f"the JPEG of {len(data)} bytes is damaged: {str(error).strip()}") from None
    else:
        _pillow(data)


def target_size(width: int, height: int, rule: ImageRule) -> tuple[int, int]:
    """Return width and height after scaling; never larger, never below one pixel."""
    wide, high = width, height
    if rule.resize_short is not None and min(width, height) > rule.resize_short:
        scale = rule.resize_short / min(width, height)
        wide, high = max(round(width * scale), 1), max(round(height * scale), 1)
    if rule.max_pixels is not None and wide * high > rule.max_pixels:
        scale = (rule.max_pixels / (width * height)) ** 0.5
        wide, high = max(int(width * scale), 1), max(int(height * scale), 1)  # rounding up could pass the bound again
        if 1 in (wide, high):  # that side could not shrink as far as the other
            wide, high = min(wide, rule.max_pixels), min(high, rule.max_pixels)
    return wide, high


def _pixels(memory: Any) -> Any:
    header = read_header(memory, orientation=False)
    grey = simplejpeg.decode_jpeg_header(memory)[2] == "Gray"
    pixels = decode_pixels(memory, header, "GRAY" if grey else "RGB")
    return pixels[:, :, 0] if grey else pixels


def _pillow(data: bytes) -> Pillow.Image:
    """Return the decoded image; whatever is damaged, or a bomb, is refused."""
    try:
        image = Pillow.open(io.BytesIO(data))
        image.load()
    except _DAMAGE as error:
        raise BadData(
            f"the image of {len(data)} bytes does not decode: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    return image


def _rewrite(image: Pillow.Image, rule: ImageRule, encoding: str, turned: int | None = None) -> bytes:
    """Return the image scaled and encoded; `turned` is its EXIF orientation where Pillow has not read it."""
    if turned is None:
        turned = image.getexif().get(_ORIENTATION, 1)
    if image.mode not in ("L", "RGB") and not (image.mode in ("RGBA", "LA") and encoding != "jpeg"):
        if image.mode.startswith(("I", "F")):
            raise BadData(f"an image of mode {image.mode} (more than 8 bits a channel) would be cut to 8 bits; convert it yourself first")
        image = image.convert("RGBA" if encoding != "jpeg" and "transparency" in image.info else "RGB")
    size = target_size(image.width, image.height, rule)
    if size != image.size:
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=None)
    exif = Pillow.Exif()
    if turned != 1:
        exif[_ORIENTATION] = turned
    out = io.BytesIO()
    options: dict[str, Any] = {} if encoding == "png" else {"quality": rule.quality}
    try:
        image.save(out, encoding.upper(), exif=exif, **options)
    except (OSError, ValueError) as error:
        raise BadRequest(f"reencode: Pillow cannot write {encoding!r} here: {error}") from None
    return out.getvalue()
