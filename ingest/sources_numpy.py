"""NumPy files as a source: the first dimension is the rows. `.npy` gives one column `data`, `.npz` one column an array.

`.npy` is mapped. Planning reads the headers of an `.npz`, and no array; the arrays that are wanted are read whole, once a worker and file, since they
lie in a zip. Object arrays are refused: only unpickling
could read them. Several `.npy` files are rows of one column; several columns belong into an `.npz`, where their names are.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest, StorageError
from ..fields import Array, Field, Scalar, Schema
from ..shards.arrow_columns import array_of
from ..shards.columns import FixedColumn
from ..shards.storage import guard
from .assign import Spans
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Pieces, Source, choose, explained, gather, lost

PIECE_BYTES = 2**20
"""Rows are cut in runs of about so many bytes."""

_OBJECTS = "store numbers instead; Penstock never unpickles"
_DAMAGE = (BadData, BadRequest, StorageError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


class Head(NamedTuple):
    """What an array's header says, its bytes in this machine's order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NumpySource(Source):
    """`.npy` and `.npz` files."""

    kind: ClassVar[str] = "numpy"
    _heads: tuple[int, dict[str, Head]] | None = None
    _held: tuple[int, tuple[str, ...], dict[str, npt.NDArray[Any]] | BadData] | None = None

    def heads(self, number: int) -> dict[str, Head]:
        """Return the shapes and dtypes of a file's arrays; those of the file that was asked for last are kept.

        Raises:
            BadData: the file is damaged, or its arrays differ in rows.
        """
        if self._heads is None or self._heads[0] != number:
            with self._explained(number):
                self._heads = (number, _checked(_heads(self.files.path(number))))
        return self._heads[1]

    def arrays(self, number: int, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
        """Return some arrays of a file; those that were read last are kept, or why they could not be.

        Raises:
            BadData: the file is damaged, or the arrays hold objects.
        """
        if self._held is None or self._held[:2] != (number, names):
            self._held = None  # so that two files are never in memory
            try:
                with self._explained(number):
                    self._held = (number, names, _load(self.files.path(number), names))
            except BadData as error:
                self._held = (number, names, error)
        found = self._held[2]
        if isinstance(found, BadData):
            raise found
        return found

    @contextlib.contextmanager
    def _explained(self, number: int) -> Iterator[None]:
        """Give what a library says of a file as our error, with the path."""
        path = self.files.path(number)
        try:
            yield
        except _DAMAGE as error:
            hint = _OBJECTS if "allow_pickle" in str(error) or "Python objects" in str(error) else "it is damaged, cut short, or not NumPy's"
            raise explained(error, path, hint) from None

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the arrays of the first readable file."""
        damage: BadData | None = None
        for number in range(len(self.files)):
            try:
                heads = self.heads(number)
            except BadData as error:
                damage = damage or error
                continue
            choose(dict.fromkeys(heads, Scalar()), columns)
            return Described(schema=_schema({name: of for name, of in heads.items() if columns is None or name in columns}, self.files.shown(number)))
        raise damage or BadData("the source has no file")

    def pieces(self, described: Described) -> Pieces:
        """Return runs of rows; a file with other columns, shapes or dtypes than the first is set aside whole."""
        return gather(self._runs(number, described.schema) for number in range(len(self.files)))

    def _runs(self, number: int, schema: Schema) -> list[tuple[int, int, int, int]] | Bad:
        try:
            rows, row_bytes = self._check(number, schema)
        except BadData as error:
            return lost(self.files, number, error, rows=self._count(number))
        step = max(PIECE_BYTES // max(row_bytes, 1), 1)
        return [(start, min(start + step, rows), 0, row_bytes * (min(start + step, rows) - start)) for start in range(0, rows, step)]

    def _count(self, number: int) -> int | None:
        """Return how many rows a refused file has, also one that was cut behind its header; None when it does not say."""
        try:
            return next(iter(self.heads(number).values())).shape[0]
        except BadData:
            pass
        try:
            with self.files.path(number).open("rb") as file:
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[np.lib.format.read_magic(file)[0]]
                shape, _, dtype = read(file)
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return None if not shape or dtype.hasobject else max(int(shape[0]), 1)

    def _check(self, number: int, schema: Schema) -> tuple[int, int]:
        """Return rows and bytes a row of a file that has the columns."""
        heads = self.heads(number)
        for name, field in schema.items():
            if name not in heads:
                raise BadData(f"lacks the array {name!r} of the first file; it has {', '.join(heads)}", field=name)
            if heads[name].dtype.name != field.dtype or heads[name].shape[1:] != field.shape:
                found = f"{heads[name].dtype.name} rows of shape {heads[name].shape[1:]}"
                raise BadData(f"holds {found}; those of the first file are {field}. Columns that belong together go into one .npz", field=name)
        kept = [heads[name] for name in schema]
        return kept[0].shape[0], sum(a.dtype.itemsize * prod(a.shape[1:]) for a in kept)

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the rows of the runs."""
        for number, start, stop, _ in spans.to_json():
            try:
                _, row_bytes = self._check(number, described.schema)
                arrays = self.arrays(number, tuple(described.schema))
            except BadData as error:
                yield lost(self.files, number, error, rows=stop - start)
                continue
            step = max(min(CHUNK_BYTES // max(row_bytes, 1), CHUNK_ROWS), 1)
            for low in range(start, stop, step):
                high = min(low + step, stop)
                columns = {name: _rows(arrays[name][low:high], field) for name, field in described.schema.items()}
                rows = np.arange(low, high, dtype=np.int64)
                yield Chunk(columns=columns, source=self.files.shown(number), rows=rows, keys=None, size_bytes=row_bytes * (high - low))


def _heads(path: Path) -> dict[str, Head]:
    """Return what the headers of a file say; of an `.npz` nothing but the headers is read."""
    with guard(path, "read the NumPy file"), path.open("rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return {"data": Head(mapped.shape, mapped.dtype.newbyteorder("="))}
    if not magic.startswith(b"PK"):
        raise BadData(f"the {path.stat().st_size} bytes, beginning {magic!r}, are neither .npy nor .npz")
    with zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): _head(archive, info) for info in archive.infolist()}


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Head:
    """Return what the header of one array of an `.npz` says, if its length agrees."""
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        claimed = file.tell() + prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed != info.file_size:
        raise BadData(f"its header says {dtype} of shape {shape}, {claimed} bytes in all, but there are {info.file_size}", field=name)
    return Head(shape, dtype.newbyteorder("="))


def _checked(heads: dict[str, Head]) -> dict[str, Head]:
    for name, head in heads.items():
        if not head.shape:
            raise BadData("one number has no rows; the first dimension is the rows", field=name)
    if len({head.shape[0] for head in heads.values()}) != 1:
        shapes = ", ".join(f"{name} {head.shape}" for name, head in heads.items())
        raise BadData(f"its arrays differ in rows ({shapes or 'there is none'}); the first dimension of each is the rows")
    return heads


def _load(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of these names, mapped from an `.npy` and read whole from an `.npz`."""
    with guard(path, "read the NumPy file"):
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        found = {"data": loaded}
    else:
        with loaded as archive:
            found = {name: archive[name] for name in names}
    return {name: array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")) for name, array in found.items()}


def _rows(values: npt.NDArray[Any], field: Field) -> Any:
    return array_of(FixedColumn(values=np.ascontiguousarray(values)), field)


def _schema(heads: dict[str, Head], source: str) -> Schema:
    schema: Schema = {}
    unsupported: list[str] = []
    for name, head in heads.items():
        try:
            schema[name] = Array(head.shape[1:], head.dtype.name) if len(head.shape) > 1 else Scalar(head.dtype.name)
        except BadRequest:
            unsupported.append(f"{name!r} ({head.dtype} {head.shape})")
    if unsupported:
        remedy = f"keep the others with --columns {','.join(schema)}" if schema else "store numbers or truth values"
        if any(head.dtype.hasobject for head in heads.values()):
            remedy += f"; they hold Python objects: {_OBJECTS}"
        raise BadData(f"no field type holds the arrays {', '.join(unsupported)}; {remedy}", path=source)
    return schema
