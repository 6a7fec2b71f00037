"""The compiled half of the colour ops, pixel by pixel; see `color`, whose numpy references it equals bit for bit. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

RED, GREEN, BLUE = 19595, 38470, 7471
_ZERO, _HALF, _ONE, _TWO, _FOUR, _SIX, _TOP = (np.float32(n) for n in (0, 0.5, 1, 2, 4, 6, 255))


@numba.njit
def gray_of(image: Any, out: Any) -> int:
    """Fill `out` with the luma; return its sum."""
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if image.shape[2] == 1:
                gray = np.int64(image[y, x, 0])
            else:
                red, green, blue = np.int64(image[y, x, 0]), np.int64(image[y, x, 1]), np.int64(image[y, x, 2])
                gray = (red * RED + green * GREEN + blue * BLUE + 0x8000) >> 16
            out[y, x] = gray
            total += gray
    return total


@numba.njit
def through_table(image: Any, table: Any) -> None:
    """Replace each byte by the entry it numbers."""
    for place in range(image.size):
        image[place] = table[image[place]]


@numba.njit
def saturate(image: Any, gray: Any, factor: np.float32) -> None:
    """Move each pixel away from its luma."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            low = np.float32(gray[y, x])
            for channel in range(image.shape[2]):
                value = low + factor * (np.float32(image[y, x, channel]) - low)
                image[y, x, channel] = np.uint8(min(max(value, _ZERO), _TOP))


@numba.njit
def turn_hue(image: Any, turn: np.float32) -> None:
    """Turn each pixel's hue by a part of the circle."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = np.float32(image[y, x, 0]) / _TOP, np.float32(image[y, x, 1]) / _TOP, np.float32(image[y, x, 2]) / _TOP
            top, bottom = max(red, green, blue), min(red, green, blue)
            spread = top - bottom
            divisor = _ONE if spread == _ZERO else spread
            saturation = spread / (_ONE if top == _ZERO else top)
            r, g, b = (top - red) / divisor, (top - green) / divisor, (top - blue) / divisor
            angle = b - g if red == top else (_TWO + r - b if green == top else _FOUR + g - r)
            hue = angle / _SIX + turn
            hue = (hue - np.floor(hue)) * _SIX
            sector = np.floor(hue)
            rest = hue - sector
            p, q, t = top * (_ONE - saturation), top * (_ONE - saturation * rest), top * (_ONE - saturation * (_ONE - rest))
            kind = np.int64(sector) % 6
            if kind == 0:
                one, two, three = top, t, p
            elif kind == 1:
                one, two, three = q, top, p
            elif kind == 2:
                one, two, three = p, top, t
            elif kind == 3:
                one, two, three = p, q, top
            elif kind == 4:
                one, two, three = t, p, top
            else:
                one, two, three = top, p, q
            image[y, x, 0], image[y, x, 1], image[y, x, 2] = (
                np.uint8(one * _TOP + _HALF),
                np.uint8(two * _TOP + _HALF),
                np.uint8(three * _TOP + _HALF),
            )
