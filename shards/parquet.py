"""Reads a Parquet file; a block is a row group, decoded when one of its rows is first asked for.

The last few decoded row groups are kept, up to a number of bytes, so that neighbours in a shuffle window share the work. Damage of the footer
or a page, and counts that the pages do not bear out, are `BadData`.

Must never: write, or keep more than `CACHE_BYTES` and one row group. Cost: decoding a whole row group for its first row, which makes
random access slow; convert to Arrow for training that shuffles globally. Refused: a writer, since Arrow shards are what is trained from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BadData, BadRequest
from ..fields import Schema
from .arrow_columns import column_of
from .columns import Column
from .hf import schema_of, unwrap
from .manifest import Shard
from .reader import ShardReader
from .storage import guard, map_file

CACHE_BYTES = 256 << 20
"""Decoded bytes that a reader keeps besides the row group in use."""

_DAMAGE = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)


class ParquetFile:
    """One mapped Parquet file, its footer checked.

    Attributes:
        schema: the file's columns as Arrow names them.
        rows_of_groups: the rows of each row group.
    """

    def __init__(self, path: Path) -> None:
        """Map the file and read its footer.

        Raises:
            BadData: it is no Parquet file, it was cut, or its counts contradict each other.
            StorageError: it cannot be opened.
        """
        with guard(path, "open the shard"):
            if path.stat().st_size < 12:
                raise BadData(f"the file has {path.stat().st_size} bytes: it was cut, or never written", path=path)
            self._source = pa.BufferReader(pa.py_buffer(map_file(path)))
        try:
            self.reader = pq.ParquetFile(self._source, page_checksum_verification=True)
            self.schema: pa.Schema = self.reader.schema_arrow
            told = self.reader.metadata
            self.rows_of_groups = [int(told.row_group(i).num_rows) for i in range(told.num_row_groups)]
            total = int(told.num_rows)
        except _DAMAGE as error:
            self._source.close()
            raise BadData(f"the file is not a Parquet file, or it was cut or damaged: {str(error)[:300]}", path=path) from None
        if min(self.rows_of_groups, default=0) < 0 or sum(self.rows_of_groups) != total:
            self._source.close()
            raise BadData(f"the footer counts {total} rows and its row groups {self.rows_of_groups[:20]}", path=path)

    def close(self) -> None:
        """Let go of the file; closing twice is fine."""
        self._source.close()


class ParquetReader(ShardReader):
    """One Parquet file, open; see `ShardReader`."""

    mapped = False

    def __init__(self, path: Path, shard: Shard, schema: Schema) -> None:
        """Compare the footer with what the manifest says."""
        self.schema = schema
        self.rows = shard.rows
        self._path = path
        self._shard = shard
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, tuple[int, dict[str, Column]]] = OrderedDict()
        with guard(path, "open the shard"):
            size = path.stat().st_size
        if size != shard.bytes:
            raise BadData(f"the file has {size} bytes where the manifest says {shard.bytes}: it was cut or replaced", path=path, shard=shard.path)
        try:
            file = ParquetFile(path)
        except BadData as error:
            raise error.at(shard=shard.path) from None
        self._file: ParquetFile | None = file
        filled = [(number, rows) for number, rows in enumerate(file.rows_of_groups) if rows]
        self._groups = [number for number, _ in filled]
        self.block_starts = np.zeros(len(filled) + 1, np.int64)
        np.cumsum([rows for _, rows in filled], dtype=np.int64, out=self.block_starts[1:])
        try:
            self._check(file)
        except BadData as error:
            self.close()
            raise error.at(path=path, shard=shard.path) from None

    def _check(self, file: ParquetFile) -> None:
        if self.block_starts[-1] != self.rows:
            raise BadData(f"the footer counts {self.block_starts[-1]} rows where the manifest says {self.rows}; it was replaced: index it again")
        stored = schema_of(file.schema, list(self.schema))
        for name, field in self.schema.items():
            if stored.get(name) != field:
                raise BadData(f"the file holds {stored.get(name, 'no such column')} where the dataset says {field}", field=name)

    def block(self, number: int) -> dict[str, Column]:
        """Return the columns of row group `number` (empty ones are not counted), decoded and checked."""
        with self._lock:
            if number in self._blocks:
                self._blocks.move_to_end(number)
                return self._blocks[number][1]
            size, columns = self._decode(number, full=False)
            self._blocks[number] = (size, columns)
            held = sum(size for size, _ in self._blocks.values())
            while len(self._blocks) > 1 and held > CACHE_BYTES:
                held -= self._blocks.popitem(last=False)[1][0]
            self.held_bytes = held
            return columns

    def check(self, number: int) -> None:
        """Decode row group `number` and look at every value's structure, that text is UTF-8 included.

        Raises:
            BadData: it is damaged; the row is the first of the row group unless it is known better.
        """
        with self._lock:
            self._decode(number, full=True)

    def _decode(self, number: int, *, full: bool) -> tuple[int, dict[str, Column]]:
        if self._file is None:
            raise BadRequest(f"shard {self._shard.path} is closed; open it again to read block {number}")
        first, last = int(self.block_starts[number]), int(self.block_starts[number + 1])
        try:
            table = self._file.reader.read_row_group(self._groups[number], columns=list(self.schema), use_threads=False)
            if full:
                table.validate(full=True)
        except _DAMAGE as error:
            reason = f"row group {self._groups[number]} is damaged: {str(error)[:300]}"
            raise BadData(reason, path=self._path, shard=self._shard.path, row=first) from None
        columns: dict[str, Column] = {}
        for name, field in self.schema.items():
            try:
                array = _whole(table.column(name))
                if len(array) != last - first:
                    raise BadData(f"the column has {len(array)} rows where the footer says {last - first}")  # noqa: TRY301 (one place adds where)
                columns[name] = column_of(unwrap(array, field), field)
            except BadData as error:
                row = first + int(error.row or 0)
                raise BadData(error.reason, path=self._path, shard=self._shard.path, row=row, field=name) from None
        return int(table.nbytes), columns

    def close(self) -> None:
        """Let go of the file and the decoded row groups; views handed out stay valid."""
        self._blocks.clear()
        if self._file is not None:
            self._file.close()
        self._file = None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; more than 2 GiB of bytes need wider offsets."""
    if column.num_chunks == 1:
        return column.chunk(0)
    try:
        return column.combine_chunks()
    except pa.ArrowInvalid:
        wide = pa.large_string() if pa.types.is_string(column.type) else pa.large_binary()
        return column.cast(wide).combine_chunks()


def open_shard(path: Path, shard: Shard, schema: Schema) -> ShardReader:
    """Return the reader of a Parquet shard for the columns of `schema`."""
    return ParquetReader(path, shard, schema)
