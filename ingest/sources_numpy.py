"""NumPy files as a source: the first dimension is the rows. `.npy` gives one column `data`, `.npz` one column an array.

`.npy` is mapped; the arrays of an `.npz` are read whole, once a worker and file, since they lie in a zip. Object arrays are refused: only unpickling
could read them. Several `.npy` files are rows of one column; several columns belong into an `.npz`, where their names are.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from math import prod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest, StorageError
from ..fields import Array, Field, Scalar, Schema
from ..shards.arrow_columns import array_of
from ..shards.columns import FixedColumn
from ..shards.storage import guard
from .assign import Spans
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Pieces, Source, choose, lost

PIECE_BYTES = 2**20
"""Rows are cut in runs of about so many bytes."""

_DAMAGE = (BadData, BadRequest, StorageError, OSError, ValueError, EOFError, zipfile.BadZipFile)


class NumpySource(Source):
    """`.npy` and `.npz` files."""

    kind: ClassVar[str] = "numpy"
    _held: tuple[int, dict[str, npt.NDArray[Any]]] | None = None

    def arrays(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a file; those of the file that was read last are kept.

        Raises:
            BadData: the file is damaged, holds objects, or its arrays differ in rows.
        """
        if self._held is None or self._held[0] != number:
            try:
                self._held = (number, self._load(number))
            except BadData as error:
                raise error.at(path=self.files.path(number)) from None
            except _DAMAGE as error:
                hint = (
                    "store numbers instead; Penstock never unpickles"
                    if "allow_pickle" in str(error) or "Python objects" in str(error)
                    else "it is damaged, cut short, or not NumPy's"
                )
                raise BadData(f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; {hint}", path=self.files.path(number)) from None
        return self._held[1]

    def _load(self, number: int) -> dict[str, npt.NDArray[Any]]:
        path = self.files.path(number)
        with guard(path, "read the NumPy file"), path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic.startswith(b"PK"):
                with np.load(file, allow_pickle=False) as archive:  # of our file: numpy never closes one that it opened and found damaged
                    found = {name: archive[name] for name in archive.files}
            elif magic == b"\x93NUMPY":
                found = {"data": np.load(path, mmap_mode="r", allow_pickle=False)}
            else:
                raise BadData(f"the {os.fstat(file.fileno()).st_size} bytes, beginning {magic!r}, are neither .npy nor .npz")
        for name, array in found.items():
            if array.ndim == 0:
                raise BadData("one number has no rows; the first dimension is the rows", field=name)
        if len({len(array) for array in found.values()}) != 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
            raise BadData(f"its arrays differ in rows ({shapes or 'there is none'}); the first dimension of each is the rows")
        return {name: array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")) for name, array in found.items()}

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the arrays of the first readable file."""
        damage: BadData | None = None
        for number in range(len(self.files)):
            try:
                arrays = self.arrays(number)
            except BadData as error:
                damage = damage or error
                continue
            choose(dict.fromkeys(arrays, Scalar()), columns)
            return Described(schema=_schema({name: a for name, a in arrays.items() if columns is None or name in columns}, self.files.shown(number)))
        raise damage or BadData("the source has no file")

    def pieces(self, described: Described) -> Pieces:
        """Return runs of rows; a file with other columns, shapes or dtypes than the first is set aside whole."""
        table: list[tuple[int, int, int, int]] = []
        sizes: list[int] = []
        bad: list[Bad] = []
        for number in range(len(self.files)):
            try:
                rows, row_bytes = self._check(number, described.schema)
            except BadData as error:
                bad.append(lost(self.files, number, error, rows=self._count(number)))
                continue
            step = max(PIECE_BYTES // max(row_bytes, 1), 1)
            starts = range(0, rows, step)
            table.extend((number, start, min(start + step, rows), 0) for start in starts)
            sizes.extend(row_bytes * (min(start + step, rows) - start) for start in starts)
        return Pieces(spans=Spans.from_json(table), sizes=np.array(sizes, np.int64), bad=tuple(bad))

    def _count(self, number: int) -> int | None:
        """Return how many rows a refused file has, also one that was cut behind its header; None when it does not say."""
        try:
            return len(next(iter(self.arrays(number).values())))
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
        arrays = self.arrays(number)
        for name, field in schema.items():
            if name not in arrays:
                raise BadData(f"lacks the array {name!r} of the first file; it has {', '.join(arrays)}", field=name)
            if arrays[name].dtype.name != field.dtype or arrays[name].shape[1:] != field.shape:
                found = f"{arrays[name].dtype.name} rows of shape {arrays[name].shape[1:]}"
                raise BadData(f"holds {found}; those of the first file are {field}. Columns that belong together go into one .npz", field=name)
        kept = [arrays[name] for name in schema]
        return len(kept[0]), sum(a.dtype.itemsize * prod(a.shape[1:]) for a in kept)

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the rows of the runs."""
        for number, start, stop, _ in spans.to_json():
            try:
                _, row_bytes = self._check(number, described.schema)
                arrays = self.arrays(number)
            except BadData as error:
                yield lost(self.files, number, error, rows=stop - start)
                continue
            step = max(min(CHUNK_BYTES // max(row_bytes, 1), CHUNK_ROWS), 1)
            for low in range(start, stop, step):
                high = min(low + step, stop)
                columns = {name: _rows(arrays[name][low:high], field) for name, field in described.schema.items()}
                rows = np.arange(low, high, dtype=np.int64)
                yield Chunk(columns=columns, source=self.files.shown(number), rows=rows, keys=None, size_bytes=row_bytes * (high - low))


def _rows(values: npt.NDArray[Any], field: Field) -> Any:
    return array_of(FixedColumn(values=np.ascontiguousarray(values)), field)


def _schema(arrays: dict[str, npt.NDArray[Any]], source: str) -> Schema:
    schema: Schema = {}
    unsupported: list[str] = []
    for name, array in arrays.items():
        try:
            schema[name] = Array(array.shape[1:], array.dtype.name) if array.ndim > 1 else Scalar(array.dtype.name)
        except BadRequest:
            unsupported.append(f"{name!r} ({array.dtype} {array.shape})")
    if unsupported:
        remedy = f"keep the others with --columns {','.join(schema)}" if schema else "store numbers or truth values"
        raise BadData(f"no field type holds the arrays {', '.join(unsupported)}; {remedy}", path=source)
    return schema
