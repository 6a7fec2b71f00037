"""What the names in a tar mean: member to (key, field), suffix to `Field`, field to suffix. Pure.

The law is WebDataset's. A member's key is its path up to the first dot of its base name, what follows is its suffix, and neighbours with
one key are one sample. `<key>.<field>.<ext>` is field `<field>`; `<key>.<ext>` is a field whose name is the extension itself. When the
stripped name would not be unique (`seg.png` beside `seg.json`), the whole suffix is the field's name.

| extension | field |
|---|---|
| jpg jpeg png webp | Image, of the encoding that its bytes show |
| cls cls2 class count index inx id | Scalar("int64") |
| txt text transcript | Text |
| json jsn | Json |
| npy | Array when all samples agree in shape and dtype, Tokens when they are 1-D runs of one dtype, else Bytes |
| flac wav mp3 | Audio |
| anything else, also pth, pyd, pickle | Bytes, never unpickled |

Must never: unpickle, or let the name of a field depend on anything but the names in the tar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest
from ..fields import Array, Audio, Bytes, Field, Image, Json, Scalar, Schema, Text, Tokens
from .npy import header_of

KEY = "__key__"
"""The column whose text names a row's files in a tar."""

_GROUPS = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "scalar": ("cls", "cls2", "class", "count", "index", "inx", "id"),
    "text": ("txt", "text", "transcript"),
    "json": ("json", "jsn"),
    "npy": ("npy",),
    "audio": ("flac", "wav", "mp3"),
    "bytes": ("bin",),
}
_GROUP = {extension: group for group, extensions in _GROUPS.items() for extension in extensions}
_ENCODING = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "flac": "flac", "wav": "wav", "mp3": "mp3"}
_EXTENSION = {"jpeg": "jpg"}
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


def split(name: str) -> tuple[str, str] | None:
    """Return a member's key and suffix, or None when it belongs to no sample (no dot, a hidden file, WebDataset's `__meta__`)."""
    found = _MEMBER.fullmatch(name)
    if found is None or not found[2] or _META.match(name):
        return None
    head, dot, extension = found[2].rpartition(".")
    return found[1], f"{head}{dot}{extension.lower()}"


@lru_cache(maxsize=1024)
def group_of(suffix: str) -> str:
    """Return what kind of file a suffix says: a key of the table above, `"bytes"` for anything else."""
    return _GROUP.get(suffix.rpartition(".")[2], "bytes")


def field_names(samples: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Return the field's name for every suffix of the given samples.

    Args:
        samples: the suffixes of each sample (each distinct set once is enough).
    """
    distinct = list(samples)
    stems = {suffix: _stem(suffix) for suffixes in distinct for suffix in suffixes}
    groups: dict[str, set[str]] = {}
    for suffix, stem in stems.items():
        groups.setdefault(stem, set()).add(group_of(suffix))
    shared = {stem for stem, found in groups.items() if len(found) > 1}
    for suffixes in distinct:
        seen: set[str] = set()
        shared.update(stem for stem in (stems[suffix] for suffix in suffixes) if stem in seen or seen.add(stem))  # type: ignore[func-returns-value]
    return {suffix: suffix if stem in shared else stem for suffix, stem in stems.items()}


def _stem(suffix: str) -> str:
    stem, dot, extension = suffix.rpartition(".")
    return stem if dot and stem and extension in _GROUP else suffix


def suffix_of(name: str, field: Field, encoding: str | None = None) -> str:
    """Return the suffix under which a field is written.

    Args:
        name: the field's name.
        field: the field.
        encoding: what an Image or Audio row's bytes are, when the field holds any.

    Raises:
        BadRequest: the name cannot stand in a tar.
    """
    if not name or name.startswith(("_", ".")) or name.endswith(".") or "/" in name or "\0" in name:
        raise BadRequest(
            f"column {name!r} cannot be a file's suffix in a tar: no '/', no '_' in front, no '.' at an end; rename it or use format='arrow'"
        )
    extensions = _extensions(field, encoding)
    if name.lower() in extensions:
        return name
    return f"{name}.{_EXTENSION.get(extensions[0], extensions[0])}"


def file_fields(schema: Schema) -> Schema:
    """Return the columns that are written as files in a tar: all but a `__key__` of text.

    Raises:
        BadRequest: a name cannot stand in a tar, or two would be one file.
    """
    fields = {name: field for name, field in schema.items() if not (name == KEY and isinstance(field, Text))}
    suffixes = [suffix_of(name, field).lower() for name, field in fields.items()]
    if len(set(suffixes)) != len(suffixes) or not suffixes:
        raise BadRequest(f"columns {list(schema)} cannot be told apart as files in a tar (case does not count there); rename one")
    return fields


def _extensions(field: Field, encoding: str | None) -> tuple[str, ...]:
    match field:
        case Image() | Audio():
            kind = encoding or field.encoding
            return tuple(extension for extension, of in _ENCODING.items() if of == kind) or (kind,)
        case Scalar():
            return _GROUPS["scalar"] if field.dtype.startswith(("int", "uint")) else _GROUPS["json"]
        case Text():
            return _GROUPS["text"]
        case Json():
            return _GROUPS["json"]
        case Array() | Tokens():
            return _GROUPS["npy"]
        case _:
            return _GROUPS["bytes"]


def sniff(head: bytes) -> str | None:
    """Return the encoding that the first bytes of an image or a sound show, or None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "webp", b"WAVE": "wav"}.get(head[8:12])
    if head.startswith(b"fLaC"):
        return "flac"
    return "mp3" if head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")) else None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rows of one column show together; `merge` is associative, so facts of many tars become one.

    Attributes:
        group: what kind of file the suffix says.
        encodings: encodings seen in an image or audio column, sorted.
        arrays: (dtype, shape) seen in an npy column, sorted; more than two are cut to two that differ as much.
    """

    group: str
    encodings: tuple[str, ...] = ()
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def merge(self, other: Facts) -> Facts:
        """Return what both show.

        Raises:
            BadData: they are files of different kinds.
        """
        if self.group != other.group:
            raise BadData(f"a column of {self.group} files here and of {other.group} files elsewhere")
        return replace(
            self,
            encodings=tuple(sorted({*self.encodings, *other.encodings})),
            arrays=_fewest(sorted({*self.arrays, *other.arrays})),
        )

    def field(self) -> Field:
        """Return the field that holds such rows."""
        match self.group:
            case "image":
                return Image(self.encodings[0] if len(self.encodings) == 1 else "any")
            case "audio":
                return Audio(self.encodings[0] if len(self.encodings) == 1 else "any")
            case "scalar":
                return Scalar("int64")
            case "text":
                return Text()
            case "json":
                return Json()
            case "npy":
                return self._array_field()
            case _:
                return Bytes()

    def _array_field(self) -> Field:
        dtypes = {dtype for dtype, _ in self.arrays}
        shapes = {shape for _, shape in self.arrays}
        if len(dtypes) == 1 and len(shapes) == 1 and min(shape := next(iter(shapes)), default=0) > 0:
            return Array(shape, next(iter(dtypes)))
        if len(dtypes) == 1 and all(len(shape) == 1 for shape in shapes) and dtypes != {"bool"}:
            return Tokens(next(iter(dtypes)))
        return Scalar(next(iter(dtypes))) if len(dtypes) == 1 and shapes == {()} else Bytes()


def _fewest(arrays: list[tuple[str, tuple[int, ...]]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Keep two or three of many (dtype, shape) that lead to the same field: the first, another dtype, another shape, another rank."""
    if len(arrays) <= 2:
        return tuple(arrays)
    first = arrays[0]
    kept = {first, next((a for a in arrays if a[0] != first[0]), first), next((a for a in arrays if a[1] != first[1]), first)}
    kept.add(next((a for a in arrays if len(a[1]) != 1), first))
    return tuple(sorted(kept))


def facts_of(suffix: str, data: npt.NDArray[np.uint8]) -> Facts:
    """Return what one row, the bytes of one member, shows; looks at no more than its first bytes. Equal rows give the same object.

    Raises:
        BadData: an `.npy` file is damaged or would need unpickling.
    """
    group = group_of(suffix)
    if group in {"image", "audio"}:
        return _media_facts(suffix, sniff(data[:12].tobytes()))
    if group == "npy":
        header = header_of(data)
        return _array_facts(header.dtype.name, header.shape)
    return _plain_facts(group)


@lru_cache(maxsize=1024)
def _media_facts(suffix: str, found: str | None) -> Facts:
    group = group_of(suffix)
    fits = found is not None and _GROUP[_EXTENSION.get(found, found)] == group
    return Facts(group=group, encodings=(found if fits and found is not None else _ENCODING[suffix.rpartition(".")[2]],))


@lru_cache(maxsize=1024)
def _array_facts(dtype: str, shape: tuple[int, ...]) -> Facts:
    return Facts(group="npy", arrays=((dtype, shape),))


@lru_cache(maxsize=16)
def _plain_facts(group: str) -> Facts:
    return Facts(group=group)
