"""Ops on arrays and on the values of images: change the dtype, normalise, reorder, pad.

All of these are plain numpy, and all but `Pad` work on any number of leading dimensions, so the loader can run them on a whole batch of fixed
rows at once. Behind image ops they cost nothing: the chain turns them into one table of 256 entries a channel.

Values that a conversion cannot hold are the caller's business where torchvision leaves it so (`ToDtype`, `Cast`), and refused where data would be
lost silently (`Pad` never cuts unless told to).
"""

# ruff: noqa: ARG002 - every op has the contract's signature, whether it needs the size, the spec and the draws or not

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from ..errors import BadData, BadRequest
from .base import Array, Encoded, Given, Layout, Op, Ragged, Spec, dtype_name
from .random import Random


def _decoded(op: Op, given: Given) -> Spec | Ragged:
    if isinstance(given, Encoded):
        raise BadRequest(f"{op} works on arrays, not on {given}: Decode() comes first")
    return given


@dataclass(frozen=True)
class Cast(Op):
    """Change the dtype as numpy's `astype` does.

    Attributes:
        dtype: the new dtype, by name or as numpy or torch has it.
    """

    dtype: str
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Keep numpy's name of the dtype."""
        object.__setattr__(self, "dtype", dtype_name("Cast", self.dtype))

    def declare(self, given: Given) -> Spec | Ragged:
        """Return the same shape in the new dtype."""
        given = _decoded(self, given)
        return Ragged(self.dtype) if isinstance(given, Ragged) else Spec(given.shape, self.dtype, given.layout)

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Convert."""
        return value.astype(self.dtype)


@dataclass(frozen=True)
class ToDtype(Op):
    """Change the dtype, and with `scale=True` the range with it, as torchvision does.

    Attributes:
        dtype: the new dtype, by name or as numpy or torch has it.
        scale: map the full range of an integer dtype to [0, 1] of a float dtype, and back.
    """

    dtype: str
    scale: bool = False
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Keep numpy's name of the dtype."""
        object.__setattr__(self, "dtype", dtype_name("ToDtype", self.dtype))
        if self.dtype == "bool" and self.scale:
            raise BadRequest(f"ToDtype: dtype={self.dtype!r} has no range to scale to; use scale=False")

    def declare(self, given: Given) -> Spec | Ragged:
        """Return the same shape in the new dtype."""
        given = _decoded(self, given)
        if self.scale and given.dtype == "bool":
            raise BadRequest(f"{self} has no range to scale from in {given}; use scale=False")
        if self.scale and np.dtype(given.dtype).kind == "f" and self.dtype in ("int64", "uint64"):
            raise BadRequest(f"{self} cannot scale {given} without losing bits: no float counts that far; use scale=False, or 32 bits")
        return Ragged(self.dtype) if isinstance(given, Ragged) else Spec(given.shape, self.dtype, given.layout)

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Convert."""
        old, new = value.dtype, np.dtype(self.dtype)
        if not self.scale or old == new or (old.kind == "f" and new.kind == "f"):
            return value.astype(new)
        if new.kind == "f":
            wide = np.dtype("float64") if new.itemsize == 2 and old.itemsize > 1 else new  # float16 ends at 65504
            return np.asarray(value.astype(wide) * wide.type(1.0 / np.iinfo(old).max)).astype(new, copy=False)
        if old.kind == "f":
            most = np.iinfo(new).max + 1.0
            with np.errstate(over="ignore"):
                wide = old if old.type(most - 1e-3) < most else np.dtype("float64")  # where it rounds up to `most`, white would wrap to black
            return np.asarray(value.astype(wide, copy=False) * wide.type(most - 1e-3)).astype(new)
        shift = _bits(new) - _bits(old)
        return np.asarray(value.astype(new) << shift if shift >= 0 else (value >> -shift).astype(new))


def _bits(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max).bit_length()


@dataclass(frozen=True)
class Normalize(Op):
    """Subtract the mean and divide by the standard deviation. A uint8 image is scaled to [0, 1] as float32 first.

    Attributes:
        mean: one number, or one a channel of an image, or one an element of an array's last dimension.
        std: the same.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers and keep them as tuples."""
        for name in ("mean", "std"):
            given: Any = getattr(self, name)
            try:
                values = tuple(float(n) for n in (given if isinstance(given, (Sequence, np.ndarray)) else (given,)))
            except (TypeError, ValueError):
                raise BadRequest(f"Normalize: {name}={given!r} is not a number or a sequence of numbers") from None
            if not values or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise BadRequest(f"Normalize: {name}={given!r} needs finite numbers{', above 0' if name == 'std' else ''}")
            object.__setattr__(self, name, values)

    def declare(self, given: Given) -> Spec | Ragged:
        """Return the same shape, as float32 when an image of bytes was given."""
        given = _decoded(self, given)
        if isinstance(given, Ragged):
            raise BadRequest(f"{self} works on arrays of one shape, not on {given}: put Pad(length) and Cast('float32') before it")
        if given.dtype == "uint8" and given.layout is not None:
            given = Spec(given.shape, "float32", given.layout)
        if np.dtype(given.dtype).kind != "f":
            raise BadRequest(f"{self} works on floats, not on {given}: put Cast('float32') before it")
        own = self._lengths()
        length = 1 if not given.shape else given.shape[-3 if given.layout == "CHW" else -1]
        if own - {1, length}:
            raise BadRequest(f"{self} has {max(own)} values for {length} channels of {given}: give one number, or one a channel")
        return given

    def _lengths(self) -> set[int]:
        values: Any = (self.mean, self.std)
        return {len(v) for v in values}

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Compute in the value's own precision."""
        layout = given.layout if isinstance(given, Spec) else None
        if value.dtype == np.uint8 and layout is not None:
            value = ToDtype("float32", scale=True).apply(value, given, rng)
        mean, std = (np.array(v, value.dtype) for v in (self.mean, self.std))
        if layout == "CHW":
            mean, std = mean[:, None, None], std[:, None, None]
        elif not (isinstance(given, Spec) and given.shape):
            mean, std = mean[0], std[0]
        return np.asarray((value - mean) / std)


@dataclass(frozen=True)
class ToLayout(Op):
    """Put an image's channels first (`"CHW"`, what torch wants and what chains on a column of Image end with) or last (`"HWC"`).

    Attributes:
        layout: which.
    """

    layout: Layout
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the name."""
        if self.layout not in ("CHW", "HWC"):
            raise BadRequest(f"ToLayout: layout={self.layout!r} is not one of 'CHW', 'HWC'")

    def declare(self, given: Given) -> Spec:
        """Return the shape reordered."""
        if not isinstance(given, Spec) or given.layout is None:
            remedy = "Decode() comes first" if isinstance(given, Encoded) else "use it on a column of Image, or of Array((height, width, 3))"
            raise BadRequest(f"{self} works on images, not on {given}: {remedy}")
        if given.layout == self.layout:
            return given
        one, two, three = given.shape
        return Spec((three, one, two) if self.layout == "CHW" else (two, three, one), given.dtype, self.layout)

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Move the axis; a view."""
        if isinstance(given, Spec) and given.layout == self.layout:
            return value
        return np.moveaxis(value, -1, -3) if self.layout == "CHW" else np.moveaxis(value, -3, -1)


@dataclass(frozen=True)
class Pad(Op):
    """Give runs of any length (tokens, text, bytes) one shape.

    Attributes:
        length: how many elements come out.
        value: what stands behind the run's end.
        truncate: cut a run that is longer; without it such a run is an error.
    """

    length: int
    value: float = 0
    truncate: bool = False

    def __post_init__(self) -> None:
        """Check the length."""
        length: Any = self.length
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise BadRequest(f"Pad: length={self.length!r} is not an integer of at least 1")
        value: Any = self.value
        if not isinstance(value, Real):
            raise BadRequest(f"Pad: value={self.value!r} is not a number")

    def declare(self, given: Given) -> Spec:
        """Return the length; a value the dtype cannot hold is refused, and so are arrays that have a shape already."""
        if isinstance(given, Spec) and len(given.shape) == 1 and given.known:
            if given.fixed_shape[0] > self.length and not self.truncate:
                raise BadRequest(f"{self} would cut {given}: raise length, or truncate=True")
        elif not isinstance(given, Ragged):
            raise BadRequest(f"{self} works on runs of any length (Tokens, Text, Bytes, Json), not on {given}: remove it")
        with np.errstate(all="ignore"):
            held = np.array(self.value).astype(given.dtype)
        if held != self.value and not (math.isnan(self.value) and np.dtype(given.dtype).kind == "f"):
            raise BadRequest(f"{self}: value={self.value!r} does not fit into {given.dtype}; put Cast before it")
        return Spec((self.length,), given.dtype)

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Copy the run and fill the rest."""
        if value.shape[0] > self.length and not self.truncate:
            raise BadData(f"a run of {value.shape[0]} elements does not fit into Pad(length={self.length}); raise length, or truncate=True")
        out = np.full(self.length, self.value, value.dtype)
        kept = value[: self.length]
        out[: kept.shape[0]] = kept
        return out
