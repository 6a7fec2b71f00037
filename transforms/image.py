"""Image ops that decode and move pixels, with torchvision v2's names, arguments and meaning.

Each op only says what to do (`steps`); pixels are moved once, by the chain. Resizing is bilinear and antialiased, as torchvision does it by
default. Where torchvision takes a tensor or a PIL image, these take uint8 images with the channels last.

Draws are made in a fixed order and number per attempt, so a sample's crop never depends on what other ops drew.
"""

# ruff: noqa: ARG002 - every op has the contract's signature, whether it needs the size, the spec and the draws or not

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import BadData, BadRequest
from .base import Array, Encoded, Geometric, Given, Op, Spec, Words, image_spec
from .geometry import Crop, Flip, Scale, Step
from .jpeg import MAX_PIXELS, Mode, decode, read_header
from .random import Draws, Random

_ATTEMPTS = 10


def _positive(op: str, name: str, value: object) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise BadRequest(f"{op}: {name}={value!r} is not an integer of at least 1")
    return int(value)


def _pair(op: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a crop's size: one number is a square."""
    if isinstance(size, Sequence) and len(size) == 2:
        return _positive(op, "size", size[0]), _positive(op, "size", size[1])
    number = size[0] if isinstance(size, Sequence) and len(size) == 1 else size
    if isinstance(number, Sequence):
        raise BadRequest(f"{op}: size={size!r} is neither an integer nor (height, width)")
    return (_positive(op, "size", number),) * 2


def numbers_range(op: str, name: str, value: Sequence[float]) -> tuple[float, float]:
    """Return a pair of numbers above 0, the lower one first.

    Raises:
        BadRequest: it is none; names the op and its argument.
    """
    try:
        low, high = (float(n) for n in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low <= high < math.inf:
        raise BadRequest(f"{op}: {name}={value!r} is not a pair of positive numbers, the smaller first")
    return low, high


def _whole_numbers(value: Any) -> tuple[Any, ...]:
    """Return one number, or a sequence of numbers, as a tuple; what is in it is checked by the caller."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


@dataclass(frozen=True)
class Decode(Op):
    """Encoded bytes (JPEG, PNG, WebP) to a uint8 image `[height, width, channels]`. Stands first, and does so unasked on a column of Image.

    Attributes:
        mode: `"RGB"` (three channels) or `"GRAY"` (one).
        apply_exif_orientation: turn the picture as its EXIF block says; off by default, as in torchvision.
        scaled: let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size where the crop and resize behind it need no more pixels.
            On by default: it saves a fifth to a half of the decoding, and moves a pixel by 1 of 255 on average (2.6 in the worst picture measured).
        max_pixels: the size in the header above which an image is refused as a bomb.
    """

    mode: Mode = "RGB"
    apply_exif_orientation: bool = False
    scaled: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Check the mode and the cap."""
        if self.mode not in ("RGB", "GRAY"):
            raise BadRequest(f"Decode: mode={self.mode!r} is not one of 'RGB', 'GRAY'")
        _positive("Decode", "max_pixels", self.max_pixels)

    @property
    def channels(self) -> int:
        """Return how many channels come out."""
        return 3 if self.mode == "RGB" else 1

    def declare(self, given: Given) -> Spec:
        """Return an image whose size is not known before it is seen."""
        if not isinstance(given, Encoded):
            raise BadRequest(f"{self} takes encoded image bytes, not {given}: it comes first, on a column of Image")
        return Spec((None, None, self.channels), "uint8", "HWC")

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Decode at full size."""
        header = read_header(value, orientation=self.apply_exif_orientation, max_pixels=self.max_pixels)
        return decode(value, header, self.mode)


@dataclass(frozen=True)
class Resize(Geometric):
    """Resize to a size.

    Attributes:
        size: the shorter side (the longer keeps the proportions), or (height, width).
        max_size: what the longer side may be at most when `size` is one number.
    """

    size: int | tuple[int, ...]
    max_size: int | None = None

    def __post_init__(self) -> None:
        """Check the size and keep one spelling of it."""
        size: Any = self.size
        if isinstance(size, Sequence) and len(size) == 1:
            size = size[0]
        size = _pair("Resize", size) if isinstance(size, Sequence) else _positive("Resize", "size", size)
        object.__setattr__(self, "size", size)
        if self.max_size is not None and (not isinstance(size, int) or _positive("Resize", "max_size", self.max_size) < size):
            raise BadRequest(f"Resize: max_size={self.max_size} goes with one number as size, and is at least that; size={size}")

    def declare(self, given: Given) -> Spec:
        """Return the size if it is given whole or the image's is known."""
        height, width, channels = image_spec(self, given)
        if isinstance(self.size, tuple):
            return Spec((*self.size, channels), "uint8", "HWC")
        known = (None, None) if height is None or width is None else self._target(height, width)
        return Spec((*known, channels), "uint8", "HWC")

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size[0], self.size[1]
        short, long = min(height, width), max(height, width)
        new_short, new_long = self.size, int(self.size * long / short)
        if self.max_size is not None and new_long > self.max_size:
            new_short, new_long = int(self.max_size * new_short / new_long), self.max_size
        new_short = max(new_short, 1)
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Scale, once."""
        return (Scale(*self._target(height, width)),)


@dataclass(frozen=True)
class CenterCrop(Geometric):
    """Keep the middle; an image that is smaller is padded with zeros.

    Attributes:
        size: (height, width), or one number for a square.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        """Check the size."""
        object.__setattr__(self, "size", _pair("CenterCrop", self.size))

    def declare(self, given: Given) -> Spec:
        """Return the size."""
        return Spec((*_pair("CenterCrop", self.size), image_spec(self, given)[2]), "uint8", "HWC")

    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Crop, once."""
        tall, wide = _pair("CenterCrop", self.size)
        return (Crop((_middle(height, tall), _middle(width, wide), tall, wide)),)


def _middle(length: int, wanted: int) -> int:
    """Return where the middle begins, with torchvision's rounding, which differs between cutting and padding."""
    return round((length - wanted) / 2.0) if length >= wanted else -((wanted - length) // 2)


@dataclass(frozen=True)
class RandomCrop(Geometric):
    """Keep a part at a random place.

    Attributes:
        size: (height, width), or one number for a square.
        padding: added before cropping: one number, (left and right, top and bottom), or (left, top, right, bottom).
        pad_if_needed: pad an image that is smaller than `size` (as torchvision does: by the whole lack, on both sides).
        fill: what padding holds: one value or one a channel.
    """

    size: int | tuple[int, int]
    padding: int | tuple[int, ...] | None = None
    pad_if_needed: bool = False
    fill: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        """Check the arguments and keep one spelling of them."""
        object.__setattr__(self, "size", _pair("RandomCrop", self.size))
        asked: Any = self.padding
        padding = (0,) if asked is None else _whole_numbers(asked)
        if len(padding) not in (1, 2, 4) or any(not isinstance(n, int) or n < 0 for n in padding):
            raise BadRequest(f"RandomCrop: padding={self.padding!r} is not 1, 2 or 4 integers of at least 0")
        object.__setattr__(self, "padding", padding * (4 // len(padding)))
        wanted: Any = self.fill
        fill = _whole_numbers(wanted)
        if not fill or any(not isinstance(n, int) or not 0 <= n <= 255 for n in fill):
            raise BadRequest(f"RandomCrop: fill={self.fill!r} is not an integer from 0 to 255, or one a channel")
        object.__setattr__(self, "fill", fill)

    def declare(self, given: Given) -> Spec:
        """Return the size; an image known to be too small is refused."""
        height, width, channels = image_spec(self, given)
        fill: Any = self.fill
        if len(fill) not in (1, channels):
            raise BadRequest(f"RandomCrop: fill={fill} has {len(fill)} values for an image of {channels} channels")
        if height is not None and width is not None:
            try:
                self._padded(height, width)
            except BadData as error:
                raise BadRequest(error.reason) from None
        return Spec((*_pair("RandomCrop", self.size), channels), "uint8", "HWC")

    def _padded(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the padding at the top and left, and the room to move down and right."""
        padding: Any = self.padding
        left, top, right, bottom = padding
        tall, wide = _pair("RandomCrop", self.size)
        down, over = height + top + bottom - tall, width + left + right - wide
        if min(down, over) < 0 and not self.pad_if_needed:
            raise BadData(
                f"an image of {height} x {width} (height x width) with padding={padding} is smaller than RandomCrop(size={(tall, wide)}); "
                "use pad_if_needed=True, or put Resize before it"
            )
        return (top - min(down, 0), left - min(over, 0), abs(down), abs(over))

    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Crop, once."""
        top, left, down, over = self._padded(height, width)
        place = (rng.integer(0, down + 1) - top, rng.integer(0, over + 1) - left)
        fill: Any = self.fill
        return (Crop((*place, *_pair("RandomCrop", self.size)), fill),)


@dataclass(frozen=True)
class RandomResizedCrop(Geometric):
    """Keep a part of random area and proportions, resized to a size.

    Attributes:
        size: (height, width), or one number for a square.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)

    def __post_init__(self) -> None:
        """Check the arguments."""
        object.__setattr__(self, "size", _pair("RandomResizedCrop", self.size))
        object.__setattr__(self, "scale", numbers_range("RandomResizedCrop", "scale", self.scale))
        object.__setattr__(self, "ratio", numbers_range("RandomResizedCrop", "ratio", self.ratio))

    def declare(self, given: Given) -> Spec:
        """Return the size."""
        return Spec((*_pair("RandomResizedCrop", self.size), image_spec(self, given)[2]), "uint8", "HWC")

    def box(self, height: int, width: int, rng: Random) -> tuple[int, int, int, int]:
        """Return top, left, height, width of a part; after ten misses the largest middle part of allowed proportions."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                return rng.integer(0, height - tall + 1), rng.integer(0, width - wide + 1), tall, wide
        tall, wide = height, width
        if width < height * self.ratio[0]:
            tall = max(min(round(width / self.ratio[0]), height), 1)
        elif width > height * self.ratio[1]:
            wide = max(min(round(height * self.ratio[1]), width), 1)
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def crops(self, height: int, width: int, keys: Words, samples: Words, number: int) -> tuple[Array, tuple[int, int]]:
        """Return the boxes of many images: those whose first attempt is a miss one by one, the others at once, by the same arithmetic."""
        draws = Draws(keys, samples, number, 4)
        area = height * width * draws.uniform(0, *self.scale)
        ratio = np.array(
            [math.exp(each) for each in draws.uniform(1, math.log(self.ratio[0]), math.log(self.ratio[1])).tolist()]
        )  # numpy's may differ by a bit
        wide, tall = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
        hit = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
        wide, tall = np.where(hit, wide, 1), np.where(hit, tall, 1)
        boxes = np.stack([draws.integer(2, height - tall + 1), draws.integer(3, width - wide + 1), tall, wide], axis=1)
        for index in np.flatnonzero(~hit).tolist():
            boxes[index] = self.box(height, width, draws.one(index))
        return boxes, _pair("RandomResizedCrop", self.size)

    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Crop, then scale."""
        return Crop(self.box(height, width, rng)), Scale(*_pair("RandomResizedCrop", self.size))


@dataclass(frozen=True)
class RandomHorizontalFlip(Geometric):
    """Mirror left and right, sometimes.

    Attributes:
        p: the probability.
    """

    p: float = 0.5
    on_device: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the probability."""
        probability: Any = self.p
        if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
            raise BadRequest(f"RandomHorizontalFlip: p={self.p!r} is not a probability from 0 to 1")

    def declare(self, given: Given) -> Spec:
        """Return what was given."""
        return Spec(image_spec(self, given), "uint8", "HWC")

    def flips(self, keys: Words, samples: Words, number: int) -> Array:
        """Flip some of many."""
        return np.asarray(Draws(keys, samples, number, 1).uniform(0) < self.p)

    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Flip or do nothing."""
        return (Flip(),) if rng.uniform() < self.p else ()
