"""Image ops that compute colours: `ColorJitter` and `Grayscale`, with torchvision's arguments and Pillow's arithmetic.

Brightness, contrast and saturation are `PIL.ImageEnhance` byte for byte (torchvision on PIL images calls it). Hue turns the colour circle in float32
as torchvision does it for tensors; Pillow's own way through 8-bit HSV loses up to several grey levels and is refused.

Every formula stands twice: in numpy on whole images (`apply`, the reference) and compiled on single pixels (`fast`), equal bit for bit because
both do the same float32 operations in the same order.
"""

# ruff: noqa: ARG002 - every op has the contract's signature, whether it needs the size, the spec and the draws or not

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from ..errors import BadRequest
from ..jit import Kernel
from .base import Array, Given, PixelOp, Spec, image_spec
from .random import Random

_RED, _GREEN, _BLUE = 19595, 38470, 7471
_ZERO, _HALF, _ONE, _TWO, _FOUR, _SIX, _TOP = (np.float32(n) for n in (0, 0.5, 1, 2, 4, 6, 255))

_gray_of = Kernel("transforms.color_kernels", "gray_of", "i8(u1[:,:,:] u1[:,:])")
_through_table = Kernel("transforms.color_kernels", "through_table", "void(u1[:] u1[:])")
_saturate = Kernel("transforms.color_kernels", "saturate", "void(u1[:,:,:] u1[:,:] f4)")
_turn_hue = Kernel("transforms.color_kernels", "turn_hue", "void(u1[:,:,:] f4)")


def gray_reference(image: Array) -> Array:
    """Return the luma of a uint8 image, `[height, width]`, as Pillow's convert("L") rounds it."""
    if image.shape[2] == 1:
        return np.asarray(image[:, :, 0])
    red, green, blue = (image[:, :, channel].astype(np.int32) for channel in range(3))
    return np.asarray((red * _RED + green * _GREEN + blue * _BLUE + 0x8000) >> 16, np.uint8)


def blend_reference(dull: Any, image: Array, factor: float) -> Array:
    """Return the image moved away from `dull` by `factor`, as `PIL.Image.blend` rounds it."""
    low = np.asarray(dull, np.float32)
    return np.asarray(np.clip(low + np.float32(factor) * (image.astype(np.float32) - low), 0, 255).astype(np.uint8))


def _mean_gray(total: int, pixels: int) -> int:
    return int(total / pixels + 0.5)


def brightness_reference(image: Array, factor: float) -> Array:
    """Return the image blended with black."""
    return blend_reference(0, image, factor)


def contrast_reference(image: Array, factor: float) -> Array:
    """Return the image blended with its mean grey."""
    gray = gray_reference(image)
    return blend_reference(_mean_gray(int(gray.sum(dtype=np.int64)), gray.size), image, factor)


def saturation_reference(image: Array, factor: float) -> Array:
    """Return the image blended with its luma."""
    return blend_reference(gray_reference(image)[:, :, None], image, factor)


def hue_reference(image: Array, turn: float) -> Array:
    """Return the image with its colours turned by `turn` of the circle."""
    if image.shape[2] == 1:
        return np.array(image)
    red, green, blue = (image[:, :, channel].astype(np.float32) / _TOP for channel in range(3))
    top, bottom = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    spread = top - bottom
    divisor, saturation = np.where(spread == 0, _ONE, spread), spread / np.where(top == 0, _ONE, top)
    r, g, b = ((top - colour) / divisor for colour in (red, green, blue))
    hue = np.where(red == top, b - g, np.where(green == top, _TWO + r - b, _FOUR + g - r)) / _SIX + np.float32(turn)
    hue = (hue - np.floor(hue)) * _SIX
    sector = np.floor(hue)
    rest = hue - sector
    p, q, t = top * (_ONE - saturation), top * (_ONE - saturation * rest), top * (_ONE - saturation * (_ONE - rest))
    kind = sector.astype(np.int64) % 6
    table = ((top, t, p), (q, top, p), (p, top, t), (p, q, top), (t, p, top), (top, p, q))
    colours = [np.choose(kind, [row[channel] for row in table]) for channel in range(3)]
    return np.asarray((np.stack(colours, axis=2) * _TOP + _HALF).astype(np.uint8))


def _adjust(image: Array, kind: int, factor: float) -> None:
    """Change a fresh image in place: 0 brightness, 1 contrast, 2 saturation, 3 hue."""
    if kind == 3:
        if image.shape[2] == 3:
            _turn_hue(image, np.float32(factor))
        return
    if kind == 0:
        _through_table(image.reshape(-1), brightness_reference(np.arange(256, dtype=np.uint8), factor))
        return
    gray = np.empty(image.shape[:2], np.uint8)
    total = _gray_of(image, gray)
    if kind == 1:
        _through_table(image.reshape(-1), blend_reference(_mean_gray(total, gray.size), np.arange(256, dtype=np.uint8), factor))
    else:
        _saturate(image, gray, np.float32(factor))


_REFERENCES = (brightness_reference, contrast_reference, saturation_reference, hue_reference)


@dataclass(frozen=True)
class ColorJitter(PixelOp):
    """Change brightness, contrast, saturation and hue at random, in random order.

    Attributes:
        brightness: a factor from [max(0, 1 - b), 1 + b], or from a pair (lowest, highest).
        contrast: the same.
        saturation: the same.
        hue: a turn of the colour circle from [-h, h] with h at most 0.5, or from a pair.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    on_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the four ranges and keep them as pairs."""
        for name in ("brightness", "contrast", "saturation", "hue"):
            given: Any = getattr(self, name)
            center, least, most = (0.0, -0.5, 0.5) if name == "hue" else (1.0, 0.0, math.inf)
            if isinstance(given, Sequence) and len(given) == 2 and all(isinstance(n, Real) for n in given):
                low, high = (float(n) for n in given)
            elif isinstance(given, Real) and float(given) >= 0:
                given = float(given)
                low, high = max(center - given, center - 1.0), center + given
            else:
                raise BadRequest(f"ColorJitter: {name}={given!r} is neither a number of at least 0 nor a pair (lowest, highest)")
            if not least <= low <= high <= most or math.isinf(high):
                raise BadRequest(f"ColorJitter: {name}={given!r} leaves the range from {least:g} to {most:g}")
            object.__setattr__(self, name, (low, high))

    def declare(self, given: Given) -> Spec:
        """Return what was given."""
        return Spec(image_spec(self, given), "uint8", "HWC")

    def draw(self, rng: Random) -> list[tuple[int, float]]:
        """Return (what, factor) in the order of application; four factors are drawn whether used or not, so none moves the others."""
        ranges: Any = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = [rng.uniform(*ends) for ends in ranges]
        return [(kind, factors[kind]) for kind in rng.permutation(4) if ranges[kind] != ((0.0, 0.0) if kind == 3 else (1.0, 1.0))]

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Adjust one after the other."""
        for kind, factor in self.draw(rng):
            value = _REFERENCES[kind](value, factor)
        return value

    def fast(self, value: Array, given: Given, rng: Random) -> Array:
        """Adjust a copy in place."""
        image = np.array(value, order="C")
        for kind, factor in self.draw(rng):
            _adjust(image, kind, factor)
        return image

    def kernels(self) -> tuple[Kernel, ...]:
        """Return those of the parts that are switched on."""
        parts: Any = (((self.brightness, 1.0), (_through_table,)), ((self.contrast, 1.0), (_gray_of, _through_table)))
        parts += (((self.saturation, 1.0), (_gray_of, _saturate)), ((self.hue, 0.0), (_turn_hue,)))
        return tuple(dict.fromkeys(kernel for (ends, idle), own in parts if ends != (idle, idle) for kernel in own))


@dataclass(frozen=True)
class Grayscale(PixelOp):
    """Replace colours by their luma.

    Attributes:
        num_output_channels: 1, or 3 equal ones.
    """

    num_output_channels: int = 1
    on_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the number of channels."""
        if self.num_output_channels not in (1, 3):
            raise BadRequest(f"Grayscale: num_output_channels={self.num_output_channels!r} is not 1 or 3")

    def declare(self, given: Given) -> Spec:
        """Return the new number of channels."""
        height, width, _ = image_spec(self, given)
        return Spec((height, width, self.num_output_channels), "uint8", "HWC")

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Compute the luma and repeat it."""
        return np.repeat(gray_reference(value)[:, :, None], self.num_output_channels, axis=2)

    def fast(self, value: Array, given: Given, rng: Random) -> Array:
        """Compute the luma in one compiled pass and repeat it."""
        gray = np.empty(value.shape[:2], np.uint8)
        _gray_of(np.array(value, order="C"), gray)
        return np.repeat(gray[:, :, None], self.num_output_channels, axis=2)

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the luma's."""
        return (_gray_of,)
