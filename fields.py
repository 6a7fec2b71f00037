"""What a column holds: its name in a dataset's schema, and the shape a batch of it has.

A field is a frozen value. A column is either *fixed* (every row has the same shape and dtype) or *ragged* (a row is a 1-D run of `dtype`, of
any length). How a field is stored in Arrow is the business of `shards.arrow_types`; nothing here brings pyarrow.

Nothing here pickles: an object that has no field is refused with the list of those that exist.
"""

from __future__ import annotations

import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from .errors import BadData, BadRequest

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
_MAX_ELEMENTS = 2**31 - 1
_MAX_DIMENSIONS = 32
_MAGIC: dict[str, tuple[bytes, ...]] = {
    "jpeg": (b"\xff\xd8\xff",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "webp": (b"RIFF",),
    "flac": (b"fLaC",),
    "wav": (b"RIFF",),
    "mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
}


def _numeric(dtype: object, what: str) -> str:
    try:
        name = np.dtype(dtype).name if isinstance(dtype, (str, type, np.dtype)) else ""
    except (TypeError, ValueError, SyntaxError):  # numpy parses text such as "(2,)i4", and fails in all three ways
        name = ""
    if name not in DTYPES:
        raise BadRequest(f"{what}: dtype {dtype!r} cannot be stored; use one of {', '.join(DTYPES)}")
    return str(name)


class Field(ABC):
    """One column's type.

    Attributes:
        kind: its name in a schema.
        dtype: numpy dtype of one element.
        shape: a row's shape for a fixed field, `()` for one number and for a ragged one.
        ragged: whether rows differ in length.
    """

    kind: ClassVar[str]
    ragged: ClassVar[bool]
    shape: tuple[int, ...] = ()
    dtype: str
    _arguments: ClassVar[tuple[str, ...]] = ()

    def _keep(self, **arguments: Any) -> None:
        """Set what the constructor was given; nothing is set afterwards."""
        self.__dict__.update(arguments)

    def _values(self) -> list[Any]:
        return [getattr(self, name) for name in self._arguments]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse to change."""
        raise AttributeError(f"{self} is a value; make another instead of setting {name!r} to {value!r}")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse to change."""
        raise AttributeError(f"{self} is a value; {name!r} cannot be taken from it")

    def __eq__(self, other: object) -> bool:
        """Whether it is the same field of the same arguments."""
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        """Return a hash that equal fields share."""
        return hash((type(self), *self._values()))

    def __repr__(self) -> str:
        """Return how it is made."""
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._arguments)})"

    @abstractmethod
    def encode(self, value: object) -> Any:
        """Return `value` as `pyarrow.array` takes it, or raise `BadData` saying what was expected."""

    def decode(self, value: npt.NDArray[Any]) -> Any:
        """Return a row for a person: `value` has `shape` and `dtype` when fixed, and is 1-D when ragged. A copy, which holds no shard open."""
        return value.copy()

    def to_json(self) -> dict[str, Any]:
        """Return the description that `field_from_json` reads."""
        own = {name: getattr(self, name) for name in self._arguments}
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}}


class Scalar(Field):
    """One number or truth value a row. Batches are `[B]` of `dtype`."""

    kind: ClassVar[str] = "scalar"
    ragged: ClassVar[bool] = False
    _arguments = ("dtype",)

    def __init__(self, dtype: npt.DTypeLike = "int64") -> None:
        """Accept every spelling numpy accepts and keep the canonical one."""
        self._keep(dtype=_numeric(dtype, "Scalar"))

    def encode(self, value: object) -> Any:
        """Return a numpy scalar; a value that would change (overflow, a fraction) is refused."""
        array = _array_of(value, self.dtype, "Scalar")
        if array.shape != ():
            raise BadData(f"a Scalar({self.dtype!r}) holds one number, not an array of shape {array.shape}; declare the column as Array")
        return array[()]

    def decode(self, value: npt.NDArray[Any]) -> Any:
        """Return a Python number or bool."""
        return value.item()


class Array(Field):
    """An array of one shape. Batches are `[B, *shape]` of `dtype`."""

    kind: ClassVar[str] = "array"
    ragged: ClassVar[bool] = False
    _arguments = ("shape", "dtype")

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike = "float32") -> None:
        """Check the shape: at least one dimension, all of them positive, and an element count Arrow can hold."""
        name = _numeric(dtype, "Array")
        try:
            sizes = tuple(map(operator.index, shape))
        except TypeError:
            raise BadRequest(f"Array: shape {str(shape)[:80]} is not a tuple of integers") from None
        if not 1 <= len(sizes) <= _MAX_DIMENSIONS or min(sizes) < 1 or prod(sizes) > _MAX_ELEMENTS:
            raise BadRequest(f"Array: shape {str(sizes)[:80]} needs 1 to {_MAX_DIMENSIONS} dimensions of 1 or more, {_MAX_ELEMENTS} elements at most")
        self._keep(shape=sizes, dtype=name)

    def encode(self, value: object) -> Any:
        """Return a C-contiguous array of exactly `shape`."""
        array = _array_of(value, self.dtype, "Array")
        if array.shape != self.shape:
            raise BadData(
                f"expected an array of shape {self.shape}, got {array.shape}; all rows of an Array have one shape (Tokens may differ in length)"
            )
        return np.ascontiguousarray(array)


class Tokens(Field):
    """A run of numbers of any length. Batches are values and offsets."""

    kind: ClassVar[str] = "tokens"
    ragged: ClassVar[bool] = True
    _arguments = ("dtype",)

    def __init__(self, dtype: npt.DTypeLike = "int32") -> None:
        """Check the dtype; Arrow packs truth values in bits, so they are refused here."""
        self._keep(dtype=_numeric(dtype, "Tokens"))
        if self.dtype == "bool":
            raise BadRequest(f"Tokens: dtype {self.dtype!r} has no runs; use uint8")

    def encode(self, value: object) -> Any:
        """Return a 1-D array."""
        array = _array_of(value, self.dtype, "Tokens")
        if array.ndim != 1:
            raise BadData(f"Tokens({self.dtype!r}) holds a run of numbers (1-D), not an array of shape {array.shape}")
        return np.ascontiguousarray(array)


class _Blob(Field):
    """Shared by the fields whose row is a run of bytes."""

    ragged: ClassVar[bool] = True
    dtype: str = "uint8"

    def encode(self, value: object) -> Any:
        """Return the bytes."""
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise BadData(f"a column of {self.kind} takes bytes, not {type(value).__name__}")
        return bytes(value)

    def decode(self, value: npt.NDArray[Any]) -> Any:
        """Return the bytes."""
        return value.tobytes()


class Bytes(_Blob):
    """Any bytes. Batches are values (`uint8`) and offsets."""

    kind: ClassVar[str] = "bytes"


class _Encoded(_Blob):
    """Shared by images and sounds: bytes that begin as one of the encodings does."""

    encodings: ClassVar[tuple[str, ...]]
    encoding: str
    _arguments = ("encoding",)

    def __init__(self, encoding: str = "any") -> None:
        """Refuse an encoding that is not known."""
        if encoding not in (*self.encodings, "any"):
            known = ", ".join(map(repr, (*self.encodings, "any")))
            raise BadRequest(f"{type(self).__name__}: encoding {encoding!r} is not one of {known}")
        self._keep(encoding=encoding)

    def encode(self, value: object) -> Any:
        """Return the bytes if they begin as the encoding does."""
        data = super().encode(value)
        _check_magic(data, self.encodings if self.encoding == "any" else (self.encoding,), self.kind)
        return data


class Image(_Encoded):
    """An encoded image. Batches are the encoded bytes until a transform decodes them.

    Attributes:
        encoding: `"jpeg"`, `"png"`, `"webp"`, or `"any"` when rows differ.
    """

    kind: ClassVar[str] = "image"
    encodings: ClassVar[tuple[str, ...]] = ("jpeg", "png", "webp")


class Audio(_Encoded):
    """Encoded sound. Batches are the encoded bytes.

    Attributes:
        encoding: `"flac"`, `"wav"`, `"mp3"`, or `"any"` when rows differ.
    """

    kind: ClassVar[str] = "audio"
    encodings: ClassVar[tuple[str, ...]] = ("flac", "wav", "mp3")


class Text(_Blob):
    """A string. Batches are UTF-8 values (`uint8`) and offsets."""

    kind: ClassVar[str] = "text"

    def encode(self, value: object) -> Any:
        """Return the string; a lone surrogate cannot be UTF-8 and is refused."""
        if not isinstance(value, str):
            raise BadData(f"a column of text takes str, not {type(value).__name__}")
        return _utf8(value)

    def decode(self, value: npt.NDArray[Any]) -> Any:
        """Return the string."""
        try:
            return value.tobytes().decode()
        except UnicodeDecodeError as error:
            raise BadData(f"the text is not UTF-8: {error.reason} at byte {error.start}") from None


class Json(_Blob):
    """Anything JSON can say. Batches are UTF-8 values (`uint8`) and offsets."""

    kind: ClassVar[str] = "json"

    def encode(self, value: object) -> Any:
        """Return the compact JSON text with sorted keys; what JSON cannot say (NaN, keys that are not text) is refused."""
        try:
            _check_document(value)
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            infinite = "it holds NaN or an infinity, which are no numbers in JSON; use None" if str(error).startswith("Out of range") else error
            raise BadData(f"a value of {type(value).__name__} cannot be written as JSON: {infinite}") from None
        return _utf8(text)

    def decode(self, value: npt.NDArray[Any]) -> Any:
        """Return the parsed document."""
        try:
            return json.loads(value.tobytes())
        except (ValueError, RecursionError) as error:
            raise BadData(f"the row is not JSON: {error}") from None


KINDS: dict[str, type[Field]] = {cls.kind: cls for cls in (Scalar, Array, Image, Audio, Tokens, Text, Bytes, Json)}
"""Every field there is, by its name in a schema."""

KNOWN = "Scalar(dtype), Array(shape, dtype), Image(encoding), Audio(encoding), Tokens(dtype), Text(), Bytes(), Json()"
"""The list that a refusal shows."""


def _array_of(value: object, dtype: str, what: str) -> npt.NDArray[Any]:
    """Return `value` as an array of `dtype`, refusing anything that the conversion would change."""
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise BadData(f"{what}({dtype!r}) takes an array, not {type(value).__name__} of rows that differ: {error}") from None
    if given.dtype == np.dtype(dtype):
        return given
    if given.dtype.kind not in "biuf":
        raise BadData(f"{what}({dtype!r}) takes numbers, not {type(value).__name__} ({given.dtype})")
    with np.errstate(all="ignore"):
        turned = given.astype(dtype)
        if turned.dtype.kind != "f":
            kept = bool((turned == given).all()) and (given.dtype.kind != "f" or given.size == 0)
        elif given.dtype.kind != "f":
            kept = _holds_whole(turned, given)
        else:  # rounded to a narrower one, as everywhere, but not to an infinity
            kept = bool((np.isfinite(turned) | ~np.isfinite(given)).all())
    if not kept:
        raise BadData(
            f"{what}({dtype!r}) would change {given.dtype} value {np.array2string(given, threshold=4)}; declare a wider dtype or convert it first"
        )
    return turned


def _holds_whole(floats: npt.NDArray[Any], given: npt.NDArray[Any]) -> bool:
    """Whether floats equal the whole numbers they were made from; numpy would round those too before it compares, Python does not."""
    limit = 2 ** (int(np.finfo(floats.dtype).nmant) + 1)
    if given.size == 0 or (int(given.min()) >= -limit and int(given.max()) <= limit):
        return True
    return bool(floats.tolist() == given.tolist())


def _check_document(value: object) -> None:
    """Refuse keys that are not text, which JSON would silently turn into text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {str(key)[:80]!r} is {type(key).__name__}, and a key in JSON is text; turn it into str")
            _check_document(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_document(inner)


def _utf8(text: str) -> str:
    """Return text that can be written."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadData(f"the text cannot be written as UTF-8: {error.reason} at character {error.start}") from None
    return text


def _check_magic(data: bytes, encodings: Sequence[str], what: str) -> None:
    for encoding in encodings:
        if data.startswith(_MAGIC[encoding]) and (encoding not in ("webp", "wav") or data[8:12] == {"webp": b"WEBP", "wav": b"WAVE"}[encoding]):
            return
    raise BadData(f"the {len(data)} bytes, beginning {data[:8]!r}, are not {' or '.join(encodings)} {what} data")


def field_from_json(name: str, described: object) -> Field:
    """Return the field of a description made by `Field.to_json`; hostile input is refused, never trusted.

    Raises:
        BadData: the kind is unknown or its arguments do not fit.
    """
    kind = described.get("kind") if isinstance(described, Mapping) else described
    if not isinstance(described, Mapping) or not isinstance(kind, str) or kind not in KINDS:
        raise BadData(f"unknown field type {str(kind)[:80]!r}; there are {KNOWN}", field=name)
    arguments = {k: v for k, v in described.items() if k != "kind"}
    try:
        return KINDS[kind](**arguments)
    except (TypeError, BadRequest) as error:
        raise BadData(f"field type {kind!r} with {str(arguments)[:200]}: {error}", field=name) from None


Schema = dict[str, Field]
"""Columns by name, in order."""


def schema_to_json(schema: Mapping[str, Field]) -> list[dict[str, Any]]:
    """Return the columns as a commit holds them, in order."""
    return [{"name": name, **field.to_json()} for name, field in schema.items()]


def schema_from_json(described: object) -> Schema:
    """Return the columns of a commit; hostile input is refused."""
    if not isinstance(described, list) or not described:
        raise BadData(f"a schema is a list of fields, not {str(described)[:80]!r}")
    schema: Schema = {}
    for entry in described:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not name or name in schema:
            raise BadData(f"a schema's field needs a name of its own, not {name!r}")
        schema[name] = field_from_json(name, {k: v for k, v in entry.items() if k != "name"})
    return schema
