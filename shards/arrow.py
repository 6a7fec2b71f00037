"""Reads one Arrow IPC file (ours, foreign, or the stream format that HF datasets keeps) as blocks of numpy views.

The file is mapped; a block is a record batch whose columns are views of the map, so reading costs page faults and nothing else. What the
manifest promised (size, rows, rows per block, columns) is compared with the file, and each block's offsets once, when it is first asked for.

Must never: trust a count or an offset of the file, or copy a column of a type that Penstock writes.
Cost: opening reads the footer; a foreign file whose batches differ in rows, and any stream, is walked once (O(blocks)).
Checksums are compared by `check`, not by `block`: hashing a block to read one row of it would read the whole block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import BadData, BadRequest
from ..fields import Schema, field_from_arrow, schema_from_arrow
from .arrow_columns import CHECKSUM_KEY, checksum, columns_of
from .columns import Column
from .manifest import Shard
from .reader import ShardReader
from .storage import guard

_KEPT_BLOCKS = 512
"""Opened blocks a reader remembers; each is a few hundred bytes of views, not its data."""

_MAGIC = b"ARROW1"


class ArrowFile:
    """One mapped Arrow file or stream as numbered record batches, each a view of the map.

    Attributes:
        schema: the file's Arrow schema.
        names: its columns.
        count: how many record batches it has.
        is_stream: whether it is in the stream format, which has no footer.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        """Map the file, keeping only the named columns of it (all of them without names).

        Raises:
            BadData: it is no Arrow file, or was cut.
        """
        self._path = path
        with guard(path, "open the shard"):
            if path.stat().st_size == 0:
                raise BadData("the file is empty: it was cut, or never written", path=path)
            self._source = pa.memory_map(str(path))
        try:
            self.is_stream = self._source.read(len(_MAGIC)) != _MAGIC
            self._file = self._open([])
            self.schema: pa.Schema = self._file.schema
            self.names: list[str] = self.schema.names
            if columns is not None and 0 < len(columns) < len(self.names):
                self._file = self._open(sorted({i for name in columns for i in self.schema.get_all_field_indices(name)}))
            self._batches: list[pa.RecordBatch] = list(self._file) if self.is_stream else []
            self.count: int = len(self._batches) if self.is_stream else self._file.num_record_batches
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self.close()
            raise BadData(f"the file is not an Arrow file, or it was cut or damaged: {error}", path=path) from None

    def _open(self, fields: list[int]) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
        options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields)
        self._source.seek(0)
        return (pa.ipc.open_stream if self.is_stream else pa.ipc.open_file)(self._source, options=options)

    def batch(self, number: int) -> pa.RecordBatch:
        """Return record batch `number`."""
        return self.batch_and_checksum(number)[0]

    def batch_and_checksum(self, number: int) -> tuple[pa.RecordBatch, str | None]:
        """Return record batch `number` and the checksum its message carries, or None when it was not written by Penstock."""
        if self._source.closed:
            raise BadRequest(f"{self._path} is closed; open it again to read batch {number}")
        if self.is_stream:
            return self._batches[number], None
        try:
            found = self._file.get_batch_with_custom_metadata(number)
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"record batch {number} is damaged: {error}", path=self._path) from None
        text = (found.custom_metadata or {}).get(CHECKSUM_KEY.encode())
        return found.batch, None if text is None else text.decode("ascii", "replace")

    def rows_of_batches(self) -> list[int]:
        """Return the rows of each record batch; walks the file's metadata once."""
        return [self.batch(number).num_rows for number in range(self.count)]

    def close(self) -> None:
        """Let go of the file; views stay valid."""
        self._source.close()
        self._batches = []


class ArrowReader(ShardReader):
    """One Arrow shard, open."""

    def __init__(self, path: Path, shard: Shard, schema: Schema) -> None:
        """Map the file and compare it with what the manifest says."""
        self.schema = schema
        self.rows = shard.rows
        self._path = path
        self._shard = shard
        self._blocks: OrderedDict[int, dict[str, Column]] = OrderedDict()
        with guard(path, "open the shard"):
            size = path.stat().st_size
        if size != shard.bytes:
            reason = f"the file has {size} bytes where the manifest says {shard.bytes}: it was cut or replaced; restore it"
            raise BadData(reason, path=path, shard=shard.path)
        try:
            self._file = ArrowFile(path, list(schema))
            self._check_schema()
            self._find_starts()
        except BadData as error:
            self.close()
            raise error.at(path=path, shard=shard.path) from None

    def _check_schema(self) -> None:
        found = self._file.schema
        for name, field in self.schema.items():
            indices = found.get_all_field_indices(name)
            if len(indices) != 1:
                raise BadData(f"the file has {len(indices)} columns of this name; it has {self._file.names}", field=name)
            stored = field_from_arrow(found.field(indices[0]))
            if stored != field:
                raise BadData(f"the file holds {stored} where the dataset says {field}", field=name)

    def _find_starts(self) -> None:
        shard, count = self._shard, self._file.count
        if shard.block_rows:
            expected = -(-shard.rows // shard.block_rows)
            if count != expected:
                raise BadData(f"the file has {count} record batches where {shard.rows} rows in blocks of {shard.block_rows} make {expected}")
            self.block_starts = np.minimum(np.arange(count + 1, dtype=np.int64) * shard.block_rows, shard.rows)
            return
        self.block_starts = np.zeros(count + 1, np.int64)
        np.cumsum(self._file.rows_of_batches(), dtype=np.int64, out=self.block_starts[1:])
        if self.block_starts[-1] != shard.rows:
            raise BadData(f"the file has {self.block_starts[-1]} rows where the manifest says {shard.rows}; it was replaced: index it again")

    def block(self, number: int) -> dict[str, Column]:
        """Return the views of record batch `number`, checked when first asked for."""
        found = self._blocks.get(number)
        if found is None:
            found = self._checked(number, self._file.batch(number), self.schema)
            self._blocks[number] = found
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return found

    def _checked(self, number: int, batch: pa.RecordBatch, schema: Schema) -> dict[str, Column]:
        first, last = int(self.block_starts[number]), int(self.block_starts[number + 1])
        try:
            if batch.num_rows != last - first:
                raise BadData(f"record batch {number} has {batch.num_rows} rows where {last - first} were expected")  # noqa: TRY301 (one place adds where)
            return columns_of(batch, schema)
        except BadData as error:
            row = first + (0 if error.row is None else int(error.row))
            raise BadData(error.reason, path=self._path, shard=self._shard.path, row=row, field=error.field) from None

    def check(self, number: int) -> None:
        """Compare block `number`, all its columns, with the checksum that its message carries.

        A foreign file carries none; then its structure is checked, and that its text is UTF-8.

        Raises:
            BadData: a bit has changed since it was written; the row is the first of the block.
        """
        file = ArrowFile(self._path)
        try:
            batch, expected = file.batch_and_checksum(number)
            columns = self._checked(number, batch, self.schema if expected is None else schema_from_arrow(file.schema))
            found = None if expected is None else checksum(columns)
            batch.validate(full=True)
        except BadData as error:
            raise error.at(path=self._path, shard=self._shard.path, row=int(self.block_starts[number])) from None
        except (pa.ArrowException, OSError) as error:
            reason = f"record batch {number} is damaged: {error}"
            raise BadData(reason, path=self._path, shard=self._shard.path, row=int(self.block_starts[number])) from None
        finally:
            file.close()
        if found != expected:
            first, last = int(self.block_starts[number]), int(self.block_starts[number + 1])
            reason = f"rows {first} to {last - 1} have checksum {found} where {expected} was written: the file has changed; restore it"
            raise BadData(reason, path=self._path, shard=self._shard.path, row=first)

    def close(self) -> None:
        """Let go of the file; views handed out stay valid."""
        self._blocks.clear()
        if "_file" in self.__dict__:  # not there when opening failed
            self._file.close()


def open_shard(path: Path, shard: Shard, schema: Schema) -> ShardReader:
    """Return the reader of an Arrow shard for the columns of `schema`."""
    return ArrowReader(path, shard, schema)
