"""Reads one Arrow IPC file (ours, foreign, or the stream format that HF datasets keeps) as blocks of numpy views.

The file is mapped; a block is a record batch whose columns are views of the map, so reading costs page faults and nothing else. What the
manifest promised (size, rows, rows per block, columns) is compared with the file, and each block's offsets once, when it is first asked for.

Must never: trust a count or an offset of the file, or copy a column of a type that Penstock writes.
Cost: opening reads the footer; a foreign file whose batches differ in rows, and any stream, is walked once (O(blocks)).
Checksums are compared by `check`, not by `block`: hashing a block to read one row of it would read the whole block.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import BadData, BadRequest
from ..fields import Schema
from .arrow_checksums import Sums, compare, from_metadata
from .arrow_columns import columns_of, first_no_text, is_viewed
from .arrow_types import field_from_arrow
from .columns import Column, RaggedColumn, unpacked_bytes
from .manifest import Shard
from .reader import CACHE_BYTES, ShardReader
from .storage import guard, map_file

_KEPT_BLOCKS = 512
"""Opened blocks a reader remembers; of a mapped file each is a few hundred bytes of views, not its data."""

_MAGIC = b"ARROW1"


class ArrowFile:
    """One mapped Arrow file or stream as numbered record batches, each a view of the map.

    Attributes:
        schema: the file's Arrow schema.
        names: its columns.
        count: how many record batches it has.
        is_stream: whether it is in the stream format, which has no footer.
        is_compressed: whether its buffers are, so that a batch is memory of its own and not a view.
        pages: the mapped file.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        """Map the file, if it is compressed keeping only the named columns of it (all of them without names).

        Arrow then decompresses those alone. Of a file that is not compressed all columns are kept, which costs no bytes; left out, Arrow
        would copy the others into memory as large as the whole batch.

        Raises:
            BadData: it is no Arrow file, or was cut.
        """
        self._path = path
        with guard(path, "open the shard"):
            if path.stat().st_size == 0:
                raise BadData("the file is empty: it was cut, or never written", path=path)
            pages = map_file(path)
            self._source = pa.BufferReader(pa.py_buffer(pages))
        self.pages: npt.NDArray[np.uint8] | None = pages
        try:
            self.is_stream = self._source.read(len(_MAGIC)) != _MAGIC
            self._file = self._open([])
            self.schema: pa.Schema = self._file.schema
            self.names: list[str] = self.schema.names
            self.is_compressed = self._compression()
            if self.is_compressed and columns is not None and 0 < len(columns) < len(self.names):
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
        return self.batch_and_metadata(number)[0]

    def batch_and_metadata(self, number: int) -> tuple[pa.RecordBatch, Mapping[bytes, bytes]]:
        """Return record batch `number` and the custom metadata of its message; that of a stream's is not looked at."""
        if self._source.closed:
            raise BadRequest(f"{self._path} is closed; open it again to read batch {number}")
        if self.is_stream:
            return self._batches[number], {}
        try:
            found = self._file.get_batch_with_custom_metadata(number)
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"record batch {number} is damaged, so none of its rows can be read: {error}", path=self._path) from None
        return found.batch, found.custom_metadata or {}

    def _compression(self) -> bool:
        """Return whether the buffers of the first record batch are compressed, and so those of all: a writer has one setting for a file.

        pyarrow does not say, so the message itself is asked. One that cannot be read counts as compressed; `batch` will say what is wrong.
        """
        resume = self._source.tell()  # a stream is read on from where its reader stands
        try:
            self._source.seek(0 if self.is_stream else 8)
            message = pa.ipc.read_message(self._source)
            while message is not None and message.type != "record batch":
                message = pa.ipc.read_message(self._source)
            return message is not None and _has_compression(message.metadata.to_pybytes())
        except EOFError:  # no record batch at all
            return False
        except (pa.ArrowException, OSError, struct.error):
            return True
        finally:
            self._source.seek(resume)

    def rows_of_batches(self) -> list[int]:
        """Return the rows of each record batch; walks the file's metadata once."""
        return [self.batch(number).num_rows for number in range(self.count)]

    def close(self) -> None:
        """Let go of the file; views stay valid."""
        self.pages = None
        self._source.close()
        self._batches = []


def _has_compression(message: bytes) -> bool:
    """Return whether a record batch message sets `compression`, the fourth field of the header, which is the third of the message.

    It is a flatbuffer: the root table's place comes first; a table begins with the way back to its vtable, which has from byte 4 the place of
    each field in the table, or 0 for a field that is not set, and leaves out the fields behind the last one that is.
    """

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        slot = 4 + 2 * number
        set_at = struct.unpack_from("<H", message, vtable + slot)[0] if slot < struct.unpack_from("<H", message, vtable)[0] else 0
        return int(table + set_at if set_at else 0)

    header = field(struct.unpack_from("<I", message)[0], 2)
    return field(header + struct.unpack_from("<I", message, header)[0], 3) != 0


def open_file(path: Path, shard: Shard, schema: Schema) -> ArrowFile:
    """Map the columns of `schema` of a shard that has the size that the manifest says.

    Raises:
        BadData: it has another size, or is no Arrow file.
        StorageError: it cannot be opened.
    """
    with guard(path, "open the shard"):
        size = path.stat().st_size
    if size != shard.bytes:
        reason = f"the file has {size} bytes where the manifest says {shard.bytes}: it was cut or replaced; restore it"
        raise BadData(reason, path=path, shard=shard.path)
    try:
        return ArrowFile(path, list(schema))
    except BadData as error:
        raise error.at(shard=shard.path) from None


class ArrowReader(ShardReader):
    """One Arrow shard, open."""

    def __init__(self, file: ArrowFile, path: Path, shard: Shard, schema: Schema) -> None:
        """Compare a mapped file, which is the reader's from now on, with what the manifest says."""
        self.schema = schema
        self.rows = shard.rows
        self._file = file
        self._path = path
        self._shard = shard
        self._blocks: OrderedDict[int, tuple[int, dict[str, Column]]] = OrderedDict()
        try:
            self._check_schema()
            self._find_starts()
        except BadData as error:
            self.close()
            raise error.at(path=path, shard=shard.path) from None
        self.mapped = all(is_viewed(column.type) for column in file.schema if column.name in schema) and not file.is_compressed
        self.pages = file.pages if self.mapped else None

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
            try:
                batch = self._file.batch(number)
            except BadData as error:
                raise error.at(shard=self._shard.path, row=int(self.block_starts[number])) from None
            columns = self._checked(number, batch, self.schema)
            found = self._blocks[number] = (0 if self.mapped else int(batch.nbytes) + unpacked_bytes(columns), columns)
            self._keep_few()
        return found[1]

    def _keep_few(self) -> None:
        self.held_bytes = sum(size for size, _ in list(self._blocks.values())) if not self.mapped else 0
        while len(self._blocks) > (_KEPT_BLOCKS if self.held_bytes <= CACHE_BYTES else 1):
            self.held_bytes -= self._blocks.popitem(last=False)[1][0]

    def _checked(self, number: int, batch: pa.RecordBatch, schema: Schema) -> dict[str, Column]:
        first = int(self.block_starts[number])
        self._check_rows(number, batch)
        try:
            return columns_of(batch, schema)
        except BadData as error:
            row = first + (0 if error.row is None else int(error.row))
            raise BadData(error.reason, path=self._path, shard=self._shard.path, row=row, field=error.field) from None

    def _check_rows(self, number: int, batch: pa.RecordBatch) -> None:
        first, last = int(self.block_starts[number]), int(self.block_starts[number + 1])
        if batch.num_rows != last - first:
            raise BadData(
                f"record batch {number} has {batch.num_rows} rows where {last - first} were expected",
                path=self._path,
                shard=self._shard.path,
                row=first,
            )

    def check(self, number: int) -> None:
        """Compare block `number`, all its columns, with the checksums that its message carries.

        A foreign file carries none; then its structure is checked, and that its text is UTF-8.

        Raises:
            BadData: a bit has changed since it was written. Names the first bad row, which is the block's first when the block cannot be read
                at all or its rows have no checksums, and none when all rows are as they were written and the block's header is not.
        """
        first = int(self.block_starts[number])
        batch: pa.RecordBatch | None = None
        sums: Sums | None = None
        file = ArrowFile(self._path)
        try:
            batch, metadata = file.batch_and_metadata(number)
            self._check_rows(number, batch)
            sums = from_metadata(metadata, columns=len(file.names), rows=batch.num_rows)
            if sums is None:
                self._checked(number, batch, self.schema)
            else:
                compare(batch, {column.name: field_from_arrow(column) for column in file.schema}, sums, first)
            batch.validate(full=True)
        except BadData as error:
            row = first if batch is None else None  # nothing of the block can be read, beginning with its first row
            raise error.at(path=self._path, shard=self._shard.path, row=row) from None
        except (pa.ArrowException, OSError) as error:
            place = (None, None) if batch is None or sums is not None else self._no_text(number, batch)  # our values are as they were written
            reason = f"record batch {number} is damaged: {error}"
            raise BadData(reason, path=self._path, shard=self._shard.path, row=place[0], field=place[1]) from None
        finally:
            file.close()

    def _no_text(self, number: int, batch: pa.RecordBatch) -> tuple[int, str | None]:
        """Return the first row that has text that is not UTF-8, and the column, or the first row of the block."""
        found: list[tuple[int, str | None]] = []
        for name, column in self._checked(number, batch, self.schema).items():
            if self.schema[name].kind in {"text", "json"} and isinstance(column, RaggedColumn) and (row := first_no_text(column)) is not None:
                found.append((int(self.block_starts[number]) + row, name))
        return min(found, key=itemgetter(0), default=(int(self.block_starts[number]), None))

    def close(self) -> None:
        """Let go of the file; views handed out stay valid."""
        self._blocks.clear()
        self.pages = None
        self._file.close()


def open_shard(path: Path, shard: Shard, schema: Schema) -> ArrowReader:
    """Return the reader of an Arrow shard for the columns of `schema`, none of which is wrapped by another library."""
    return ArrowReader(open_file(path, shard, schema), path, shard, schema)
