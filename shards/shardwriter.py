"""The contract of a shard format's writer, and the one place that finds the writer of a format.

A writer takes rows whose values went through `Field.encode`, or Arrow tables, and makes one file. Equal rows give equal bytes, whichever
way they came. It never publishes: whoever opened it moves the closed file and commits it.

Cost: what has gathered for one block is held in memory (about `block_bytes`, or one row where a row is larger).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import BadRequest
from ..fields import Schema
from .arrow_columns import canonical, encoded_rows

BLOCK_BYTES = 4 * 2**20
"""A block is as many rows as it takes to hold this many bytes of values: large enough to read well, small enough to check what was read."""

BLOCK_ROWS = 65_536
"""A block never has more rows."""

_MODULES = {"arrow": ".arrow_write", "tar": ".tar_write"}


@dataclass(frozen=True, kw_only=True)
class ShardStats:
    """What a closed shard turned out to be.

    Attributes:
        rows: how many rows it has.
        bytes: the file's size.
        xxh3: of the file, 16 hex digits.
        block_rows: rows of each block but the last.
    """

    rows: int
    bytes: int
    xxh3: str
    block_rows: int


class ShardWriter(ABC):
    """One shard, being written.

    Attributes:
        schema: the columns.
        rows: how many rows it has taken.
        size_bytes: bytes taken so far, which is what decides when a shard is large enough: of values (`row_bytes`) in an Arrow file, of the
            file in a tar, whose headers may be most of it. It is a function of the rows alone, so equal rows are cut into equal shards.
    """

    schema: Schema
    rows: int
    size_bytes: int

    @property
    def full(self) -> bool:
        """Whether the format can take no more rows into this shard; close it and open another."""
        return False

    @abstractmethod
    def write_row(self, row: Mapping[str, Any]) -> None:
        """Take one row of encoded values; every column must be there. The values may be reused by the caller afterwards."""

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Take rows that `canonical` has already brought into the schema's own Arrow types."""
        for row in encoded_rows(batch, self.schema):
            self.write_row(row)

    def write_table(self, table: pa.Table | pa.RecordBatch) -> None:
        """Take the rows of an Arrow table; columns are matched by name.

        Raises:
            BadData: a column is missing, unlike its field, or has a null.
        """
        for batch in canonical(table, self.schema):
            self.write_batch(batch)

    @abstractmethod
    def close(self) -> ShardStats:
        """Write what has gathered, put the file on disk, and return what it is."""

    @abstractmethod
    def abort(self) -> None:
        """Close and remove the file. Fine after `close` and after itself."""


def open_shard_writer(path: Path, schema: Schema, format: str = "arrow", *, block_bytes: int = BLOCK_BYTES) -> ShardWriter:  # noqa: A002 (Writer's own argument name)
    """Return the writer of one new file in the given format.

    The format's module is imported here and only now: writing a tar brings webdataset, which brings torch, and nobody else may pay for it.

    Raises:
        BadRequest: there is no such format, or it cannot be written.
    """
    if format not in _MODULES:
        raise BadRequest(f"format: {format!r} cannot be written; use one of {', '.join(map(repr, _MODULES))}")
    if not schema:
        raise BadRequest(f"fields: {schema!r} has no columns; a shard needs at least one")
    opener: Callable[..., ShardWriter] = importlib.import_module(_MODULES[format], __package__).open_writer
    return opener(path, schema, block_bytes=block_bytes)
