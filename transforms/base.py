"""The contract of a transform: an op declares the shape and dtype it yields before anything runs.

What flows between ops is described by one of three frozen values: `Encoded` (the bytes of an image), `Spec` (an array whose dimensions are
known, or known once the sample is seen), `Ragged` (a run of any length). `Op.declare` maps one to the next or refuses; `Op.apply` is the
slow, obvious reference on one sample. Fast paths live in `chain` and must equal `apply` bit for bit.

An op is a frozen value without arrays, handles or compiled code in it, so that it can be compared, shown and sent to a worker.
"""

# ruff: noqa: ARG002 - every op has the contract's signature, whether it needs the size, the spec and the draws or not

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest
from ..jit import Kernel
from .geometry import Step
from .random import Random
from .resample import carry_out

Layout = Literal["HWC", "CHW"]
"""Where an image's channels stand: last, as decoders and Pillow have them, or first, as torch does."""

Array = npt.NDArray[Any]
"""An array of any dtype."""

Words = npt.NDArray[np.uint64]
"""Keys or samples, of many samples."""


@dataclass(frozen=True)
class Encoded:
    """The bytes of an encoded image.

    Attributes:
        encoding: `"jpeg"`, `"png"`, `"webp"` or `"any"`.
    """

    encoding: str = "any"

    def __str__(self) -> str:
        return "encoded image bytes" if self.encoding == "any" else f"encoded {self.encoding} bytes"


@dataclass(frozen=True)
class Spec:
    """An array.

    Attributes:
        shape: one entry a dimension; None where it is not known before the sample is seen.
        dtype: numpy's name of the dtype.
        layout: where the channels stand when the array is an image, else None.
    """

    shape: tuple[int | None, ...]
    dtype: str
    layout: Layout | None = None

    def __str__(self) -> str:
        shape = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.dtype} [{shape}]{f' {self.layout}' if self.layout else ''}"

    @property
    def known(self) -> bool:
        """Return whether every dimension is known."""
        return None not in self.shape

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """Return the shape of a spec whose dimensions are all known."""
        return tuple(int(n) for n in self.shape if n is not None)


@dataclass(frozen=True)
class Ragged:
    """A one-dimensional run of any length.

    Attributes:
        dtype: numpy's name of the dtype.
    """

    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} [any length]"


Given = Encoded | Spec | Ragged
"""What an op can be handed."""


class Op(ABC):
    """One transform of one column."""

    rowwise: ClassVar[bool] = False
    """Whether `apply` takes any number of leading dimensions and needs no randomness, so that a batch of rows is one call."""

    on_device: ClassVar[bool] = False
    """Of an image op: whether `transforms.device` does it to whole batches; it leaves height and width as they are."""

    @abstractmethod
    def declare(self, given: Given) -> Spec | Ragged:
        """Return what `apply` yields for `given`.

        Raises:
            BadRequest: the op cannot take it; names the op, what it got and the remedy.
        """

    @abstractmethod
    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Return the transformed value of one sample: the reference that every fast path must equal bit for bit.

        Args:
            value: the value, of which `declare(given)` was accepted.
            given: what `value` is; it tells where the channels stand.
            rng: the op's own draws on this sample.
        """


class Geometric(Op):
    """An op that moves pixels: it turns a size and its draws into steps, which `geometry.View` folds into one pass."""

    @abstractmethod
    def steps(self, height: int, width: int, rng: Random) -> tuple[Step, ...]:
        """Return what to do to an image of this size."""

    def crops(self, height: int, width: int, keys: Words, samples: Words, number: int) -> tuple[Array, tuple[int, int]] | None:
        """Return what `steps` keeps of each of many images of this size, and the size that it is resized to; None if that is not all it does.

        The boxes are int64 `[N, 4]` (top, left, height, width) and lie inside the image.
        """
        return None

    def flips(self, keys: Words, samples: Words, number: int) -> Array | None:
        """Return which of many images `steps` mirrors, bool `[N]`; None if that is not all it does."""
        return None

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Carry the steps out one by one."""
        for step in self.steps(value.shape[0], value.shape[1], rng):
            value = carry_out(step, value)
        return value


class PixelOp(Op):
    """An op that computes new pixels from whole decoded ones; the chain carries out what stands before it first."""

    @abstractmethod
    def fast(self, value: Array, given: Given, rng: Random) -> Array:
        """Return what `apply` returns, bit for bit, as a fresh array."""

    @abstractmethod
    def kernels(self) -> tuple[Kernel, ...]:
        """Return the compiled functions that `fast` calls."""


class SlotOp(Op):
    """An op that changes some of the finished values where they were written; it stands behind all others."""

    @abstractmethod
    def touch(self, out: Array, given: Given, rng: Random) -> None:
        """Change a finished value in place."""

    def apply(self, value: Array, given: Given, rng: Random) -> Array:
        """Change a copy."""
        out = np.array(value, order="C")
        self.touch(out, given, rng)
        return out


def image_spec(op: Op, given: Given) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels) if `given` is an image of bytes with its channels last, which is what image ops work on.

    Raises:
        BadRequest: it is something else.
    """
    if isinstance(given, Spec) and given.layout is not None and (given.dtype != "uint8" or given.layout != "HWC"):
        remedy = "put it before Normalize, ToDtype and ToLayout"
        raise BadRequest(f"{op} works on uint8 images laid out HWC, not on {given}: {remedy}")
    if not isinstance(given, Spec) or given.layout is None or given.shape[2] is None:
        remedy = "Decode() comes first" if isinstance(given, Encoded) else "use it on a column of Image, or of Array((height, width, 3), 'uint8')"
        raise BadRequest(f"{op} works on images, not on {given}: {remedy}")
    return given.shape[0], given.shape[1], given.shape[2]


def dtype_name(op: str, dtype: object) -> str:
    """Return numpy's name of a numeric dtype given as a name, a numpy dtype or a torch dtype.

    Raises:
        BadRequest: it is none.
    """
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else np.dtype(dtype).name
    try:
        kind = np.dtype(name)
    except TypeError:
        raise BadRequest(f"{op}: dtype {dtype!r} is not known to numpy; use a name such as 'float32'") from None
    if kind.kind not in "biuf":
        raise BadRequest(f"{op}: dtype {dtype!r} is not numeric; use a name such as 'float32' or 'uint8'")
    return str(kind.name)
