"""One sample under way through its chain: the pixels, once decoded, and the view of them that is still to be carried out.

Decoding waits until the view is known, so that no more is decoded, and at no larger scale, than the view needs. Cost: one decode, one pass for each
view that has to be carried out, which is one for all geometry that folds.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import final

import numpy as np

from .base import Array
from .geometry import Step, View
from .image import Decode
from .jpeg import Header, decode, read_header
from .region import decode_region
from .resample import pixel_buffer, resample, resampled


def header_of(decoder: Decode, value: Array) -> Header:
    """Return what the head of an encoded image says, as its decoder is to take it.

    Raises:
        BadData: it is damaged, or claims too many pixels.
    """
    return read_header(value, orientation=decoder.apply_exif_orientation, max_pixels=decoder.max_pixels)


def allowed(header: Header, factor: int) -> int:
    """Return the scale to decode at: a turned image whose sides are no multiples would have the decoder's padded edge on the wrong side."""
    return factor if header.orientation == 1 or (header.height % factor == 0 and header.width % factor == 0) else 1


@final
class Sample:
    """The pixels, once decoded, and the view of them that is still to be carried out.

    Attributes:
        view: what is still to be done to the pixels.
        decode_ns: nanoseconds spent on decoding.
    """

    def __init__(self, decoder: Decode | None, value: Array) -> None:
        """Take encoded bytes, uint8 `[bytes]`, with what decodes them, or an image, uint8 `[height, width, channels]`, without.

        Raises:
            BadData: the head of the bytes is damaged, or claims too many pixels.
        """
        begin = perf_counter_ns()
        self._decoder = decoder
        self._value = value
        self._image: Array | None = None if decoder is not None else value
        self._header = None if decoder is None else header_of(decoder, value)
        self.view = View.whole(*(value.shape[:2] if self._header is None else self._header.upright))
        self.decode_ns = perf_counter_ns() - begin

    def extend(self, step: Step) -> None:
        """Fold a step into the view; when it does not fold, carry out the view first."""
        longer = self.view.then(step)
        if longer is None:
            self.replace(self.carried_out())
            longer = self.view.then(step)
        assert longer is not None, "a view of a whole image takes any step"
        self.view = longer

    def replace(self, image: Array) -> None:
        """Go on from these pixels."""
        self._image = image
        self.view = View.whole(*image.shape[:2])

    def carried_out(self) -> Array:
        """Return the pixels that the view shows."""
        image, factor, view = self._pixels()
        return image if view == View.whole(*image.shape[:2]) else resampled(image, view, factor)

    def finish(self, table: Array, out: Array, *, channels_first: bool) -> None:
        """Carry out the view into the slot, through the table."""
        image, factor, view = self._pixels()
        if table.dtype in (np.uint8, np.float32):
            resample(image, view, factor, table, out, channels_first=channels_first)
            return
        plain = resampled(image, view, factor)
        for channel in range(plain.shape[2]):
            place = (channel,) if channels_first else (..., channel)
            out[place] = table[channel, plain[:, :, channel]]

    def _pixels(self) -> tuple[Array, int, View]:
        """Return pixels, the scale they were decoded at, and the view as it looks from where they begin."""
        if self._image is not None:
            return self._image, 1, self.view
        assert self._decoder is not None
        assert self._header is not None
        begin = perf_counter_ns()
        factor = allowed(self._header, self.view.factor() if self._decoder.scaled and self._header.turbo else 1)
        found = self._part(self._header, factor)
        if found is None:
            room = (self._header.height // factor + 1) * (self._header.width // factor + 1) * self._decoder.channels
            found = decode(self._value, self._header, self._decoder.mode, factor, pixel_buffer(room)), self.view
        self.decode_ns += perf_counter_ns() - begin
        return found[0], factor, found[1]

    def _part(self, header: Header, factor: int) -> tuple[Array, View] | None:
        """Return what the view looks at and the view of that, when it is a part of an image that can be decoded by itself."""
        top, left, height, width = self.view.source
        whole = (height, width) == (header.height, header.width)
        if whole or not header.turbo or header.orientation != 1 or self._decoder is None or self._decoder.mode != "RGB":
            return None
        first, column = top // factor, left // factor
        box = (first, column, (top + height - 1) // factor - first + 1, (left + width - 1) // factor - column + 1)
        size = (-(-header.height // factor), -(-header.width // factor))
        found = decode_region(self._value, factor, box, size, pixel_buffer(box[2] * size[1] * 3))
        if found is None:
            return None
        return found.pixels, self.view._replace(source=(top - first * factor, left - found.left * factor, height, width))
