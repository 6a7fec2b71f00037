"""The checksums that each record batch message of ours carries, and the search that names the first bad row by them.

They stand in the message's custom metadata, which plain readers pass over:

- `penstock.xxh3`: the XXH3-64 of the block, 16 hex digits: of each column in order, the lengths of its runs (int64) if ragged, and its values.
- `penstock.columns_xxh3`: the same of each column by itself, joined by spaces. It tells the field.
- `penstock.rows_xxh3`: of each row the low 24 bits of an XXH3-64, little-endian, as base64: four characters a row. It tells the row. What is
  hashed of a row is, of each column in order, its value if fixed and the XXH3-64 of its run (8 bytes, little-endian) if ragged.

Reading a block compares nothing; verifying compares the first, and looks at the others only where that differs.

Cost: 4 bytes a row in the file. Writing takes three passes of XXH3 over ragged values (the block's, the column's, the rows') and a copy of the fixed
columns: 0.09 to 0.13 ms/MB, three to four times the block's checksum alone (a block of 40 images, 4 MB: 526 µs against 181); and about 0.2 µs a row
and another 0.2 µs for each ragged column. Mapping a block of 32,000 rows takes `ArrowReader` 25 µs more, in which Arrow copies the metadata;
`PlainReader` does not look at it.
Refused: raw bytes, 3 a row, since Arrow's messages are flatbuffers whose strings are UTF-8, and Arrow's own reader in Rust refuses others; 32
bits, which base64 takes 5.3 characters for: the rows are asked only where 64 bits have told a difference, and 24 fail to place it once in 17
million; a second hash beside the length of each run, which the hash of a run knows already.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ..errors import BadData
from ..fields import Schema
from .arrow_columns import column_of, columns_of
from .columns import Column, FixedColumn, ParsedColumn, RaggedColumn

BLOCK_KEY = "penstock.xxh3"
"""Where a message keeps its block's checksum."""

COLUMNS_KEY = "penstock.columns_xxh3"
"""Where it keeps those of the block's columns."""

ROWS_KEY = "penstock.rows_xxh3"
"""Where it keeps those of the block's rows."""

_ROW_BYTES = 3
_ROW_CHARACTERS = 4
_ROW_MASK = (1 << 8 * _ROW_BYTES) - 1
_RESTORE = "the file has changed; restore it"


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a message says of its block.

    Attributes:
        block: the XXH3-64 of the block, 16 hex digits.
        columns: that of each column, or None when the message has none.
        rows: 24 bits of each row's as base64, or None when the message has none.
    """

    block: str
    columns: tuple[str, ...] | None
    rows: bytes | None


def _memory(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def checksum(*columns: Column) -> str:
    """Return the XXH3-64 of columns as 16 hex digits: of each in order, the lengths of its runs (int64) if ragged, and its values."""
    hasher = xxhash.xxh3_64()
    for column in columns:
        assert not isinstance(column, ParsedColumn)
        if isinstance(column, FixedColumn):
            hasher.update(_memory(column.values))
        else:
            hasher.update(_memory((column.ends - column.starts).astype("<i8")))
            if len(column.starts):
                hasher.update(_memory(column.values[int(column.starts[0]) : int(column.ends[-1])]))
    return str(hasher.hexdigest())


def row_checksums(columns: Mapping[str, Column]) -> npt.NDArray[np.uint32]:
    """Return 24 bits of the XXH3-64 of each row of a block."""
    parts = []
    for column in columns.values():
        assert not isinstance(column, ParsedColumn)
        if isinstance(column, FixedColumn):
            rows, *shape = column.values.shape
            parts.append(np.ascontiguousarray(column.values).reshape(rows, prod(shape)).view(np.uint8))
        else:
            parts.append(_run_checksums(column).reshape(-1, 1).view(np.uint8))
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    kept: npt.NDArray[np.uint64] = _digests(joined, len(joined)) & np.uint64(_ROW_MASK)
    return kept.astype(np.uint32)


def _run_checksums(column: RaggedColumn) -> npt.NDArray[np.uint64]:
    """Return the XXH3-64 of each run as eight little-endian bytes."""
    values, size = _memory(column.values), column.values.dtype.itemsize
    starts, ends = ((bounds.astype(np.int64) * size).tolist() for bounds in (column.starts, column.ends))
    return _digests((values[start:end] for start, end in zip(starts, ends, strict=True)), len(starts)).astype("<u8")


def _digests(pieces: Iterable[Any], count: int) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, pieces), np.uint64, count)


def to_metadata(columns: Mapping[str, Column]) -> dict[str, str | bytes]:
    """Return what the message of a block says of it."""
    rows = row_checksums(columns).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :_ROW_BYTES]
    return {
        BLOCK_KEY: checksum(*columns.values()),
        COLUMNS_KEY: " ".join(checksum(column) for column in columns.values()),
        ROWS_KEY: base64.b64encode(rows.tobytes()),
    }


def from_metadata(metadata: Mapping[bytes, bytes], *, columns: int, rows: int) -> Sums | None:
    """Return what a message says of its block of so many columns and rows, or None when it was not written by Penstock.

    Raises:
        BadData: it does not have one checksum for each column, or for each row.
    """
    block, by_column, by_row = (metadata.get(key.encode()) for key in (BLOCK_KEY, COLUMNS_KEY, ROWS_KEY))
    if block is None:
        return None
    of_columns = None if by_column is None else tuple(by_column.decode("ascii", "replace").split(" "))
    if of_columns is not None and len(of_columns) != columns:
        raise BadData(f"the metadata {COLUMNS_KEY} has {len(of_columns)} checksums for {columns} columns: {_RESTORE}")
    if by_row is not None and len(by_row) != rows * _ROW_CHARACTERS:
        raise BadData(f"the metadata {ROWS_KEY} has {len(by_row)} characters where {rows} rows have {rows * _ROW_CHARACTERS}: {_RESTORE}")
    return Sums(block=block.decode("ascii", "replace"), columns=of_columns, rows=by_row)


def _unpacked(text: bytes) -> npt.NDArray[np.uint32]:
    """Return the checksums of rows; they are text until one is needed, since reading a strict base64 takes ten times as long as XXH3."""
    try:
        raw = np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(-1, _ROW_BYTES)
    except ValueError as error:  # characters that are not of base64, or padding where no row ends
        raise BadData(f"the metadata {ROWS_KEY} is not base64 ({error}): {_RESTORE}") from None
    if len(raw) * _ROW_CHARACTERS != len(text):
        raise BadData(f"the metadata {ROWS_KEY} is padded to {len(text)} characters for {len(raw)} rows: {_RESTORE}")
    sums = np.zeros((len(raw), 4), np.uint8)
    sums[:, :_ROW_BYTES] = raw
    return sums.reshape(-1).view("<u4").astype(np.uint32)


def compare(batch: pa.RecordBatch, schema: Schema, sums: Sums, first: int) -> None:
    """Compare a block, whose first row has number `first`, with what its message says.

    Raises:
        BadData: it differs. Names the first bad row, and the column if that is certain; the first row of the block where rows have no
            checksums; and no row where each is as it was written, so that the message itself has changed.
    """
    try:
        columns = columns_of(batch, schema)
        found = checksum(*columns.values())
    except BadData as error:
        if sums.rows is None:
            raise BadData(error.reason, row=first + int(error.row or 0), field=error.field) from None
        found = "none"
    if found == sums.block:
        return
    span = f"rows {first} to {first + batch.num_rows - 1}"
    differs = f"{span} have checksum {found} where {sums.block} was written"
    if sums.rows is None:
        raise BadData(f"{differs}: {_RESTORE}", row=first)
    written = _unpacked(sums.rows)
    wrong, fault = _bad_rows(batch, schema, written)
    names = None if sums.columns is None else _bad_columns(batch, schema, sums.columns)
    if not wrong or names == []:
        which = "column" if wrong else "row"
        raise BadData(f"{differs}, but each {which} has its own: the header of their record batch has changed and not the values; restore the file")
    unread = fault is not None and len(wrong) == 1  # otherwise the fault is of a later row
    reason = f"its checksum is not the {written[wrong[0]]:06x} that was written" if fault is None or not unread else fault.reason
    count = f"{len(wrong)} of {span} differ" if fault is None else f"others of {span} cannot be told"
    certain = names is not None and (len(names) == 1 or (len(wrong) == 1 and fault is None))
    field = names[0] if names and certain else None
    raise BadData(f"{reason} ({count}{', in ' + ', '.join(names) if names else ''}): {_RESTORE}", row=first + wrong[0], field=field)


def _bad_rows(batch: pa.RecordBatch, schema: Schema, written: npt.NDArray[np.uint32]) -> tuple[list[int], BadData | None]:
    """Return the rows that differ, up to the first that cannot be read, and why that one cannot.

    A row whose offsets leave its column cannot be read. Those before it can, and an offset that is wrong without leaving the column makes two
    rows differ, so the first bad row may be before the one that cannot be read.
    """
    readable, fault = batch.num_rows, None
    while readable:
        try:
            columns = columns_of(batch.slice(0, readable), schema)
        except BadData as error:
            readable, fault = int(error.row or 0), error
            continue
        wrong: list[int] = np.flatnonzero(row_checksums(columns) != written[:readable]).tolist()
        return (wrong if fault is None else [*wrong, readable]), fault
    return [0], fault


def _bad_columns(batch: pa.RecordBatch, schema: Schema, written: tuple[str, ...]) -> list[str]:
    """Return the columns that differ or cannot be read."""
    bad = []
    for (name, field), expected in zip(schema.items(), written, strict=True):
        try:
            found = checksum(column_of(batch.column(name), field))
        except BadData:
            found = None
        if found != expected:
            bad.append(name)
    return bad
