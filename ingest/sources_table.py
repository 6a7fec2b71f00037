"""Arrow files and streams, Parquet, and folders of Hugging Face datasets: columns come as Arrow arrays and stay so.

Arrow files are mapped and cut by rows, Parquet by row groups. Types that no field holds are named all at once, with the way to leave them
out. A column of encoded images (`struct<bytes, path>` as HF writes it, or binary whose first values are images) becomes `Image`. Class names
of HF's `ClassLabel` become the dataset's. Refused: casting timestamps, decimals or nested types to something else unasked.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BadData, StorageError
from ..fields import Audio, Bytes, Field, Image, Schema
from ..shards.arrow_types import METADATA_KEY
from ..shards.hf import class_names, features, is_wrapped, schema_of
from ..shards.storage import guard
from ..shards.tarnames import sniff
from .assign import Spans
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Pieces, Source, choose, explained, gather, lost

PIECE_BYTES = 2**20
"""Arrow rows are cut in runs of about so many bytes."""

_DAMAGE = (pa.ArrowException, OSError, BadData, StorageError)
_LOOK = 16
_MOST_BATCH_ROWS = 2**32  # two numbers in one note


class TableSource(Source):
    """Shared by the sources that give Arrow tables."""

    @abstractmethod
    def schema_of(self, number: int) -> pa.Schema:
        """Return the Arrow schema of a file."""

    @abstractmethod
    def batches(self, number: int, start: int, stop: int, columns: list[str], note: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row in the file, rows) of a run of one file; `note` is the run's from `_cuts`."""

    @abstractmethod
    def _cuts(self, number: int) -> list[tuple[int, int, int, int]]:
        """Return (start, stop, note, bytes) of each run of one file; the note is what reading needs to begin there."""

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the columns of the first readable file; the others must agree when they are read."""
        error: Exception | None = None
        for number in range(len(self.files)):
            try:
                arrow = self.schema_of(number)
                look = self._look(number, arrow)
                break
            except _DAMAGE as damage:
                error = error or damage
        else:
            raise _damaged(self, 0, error or BadData("the source has no file"))
        if columns is not None:
            choose(dict.fromkeys(arrow.names, Bytes()), columns)  # all names that exist, supported or not
        schema = _fields(arrow, columns, look, self.files.shown(number))
        names = {name: of for name, of in class_names(arrow).items() if name in schema and of}
        metadata = {"class_names": names} if names else {}
        return Described(schema=schema, metadata=metadata)

    def _look(self, number: int, arrow: pa.Schema) -> dict[str, list[Any]]:
        """Return the first values of columns that may hold images."""
        names = [f.name for f in arrow if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type) or is_wrapped(f.type)]
        cuts = self._cuts(number)
        if not names or not cuts:
            return {}
        start, stop, note, _ = cuts[0]
        for _, batch in islice(self.batches(number, start, stop, names, note), 1):
            head = batch.slice(0, _LOOK)
            return {name: _contents(head.column(name)).to_pylist() for name in names}
        return {}

    def pieces(self, described: Described) -> Pieces:
        """Return the runs of all files; a damaged file, or one with other columns, is set aside whole."""
        return gather(self._runs(number, described.schema) for number in range(len(self.files)))

    def _runs(self, number: int, schema: Schema) -> list[tuple[int, int, int, int]] | Bad:
        try:
            self._check(number, schema)
            return self._cuts(number)
        except _DAMAGE as error:
            return lost(self.files, number, _damaged(self, number, error), rows=self._count(number))

    @abstractmethod
    def _total(self, number: int) -> int:
        """Return how many rows a file has."""

    def _count(self, number: int) -> int | None:
        """Return how many rows a refused file has, or None when it does not say."""
        try:
            return self._total(number)
        except _DAMAGE:
            return None

    def _check(self, number: int, schema: Schema) -> None:
        arrow = self.schema_of(number)
        if missing := [name for name in schema if name not in arrow.names]:
            raise BadData(f"lacks the columns {', '.join(map(repr, missing))} that the first file has; it has {', '.join(map(repr, arrow.names))}")
        for name, field in schema.items():
            found = schema_of(arrow, [name])[name]
            alike = isinstance(field, (Image, Audio)) or (isinstance(field, Bytes) and is_wrapped(arrow.field(name).type))
            if found != field and not (alike and isinstance(found, (Bytes, Image, Audio))):
                raise BadData(f"column {name!r} is {found}, and {field} in the first file; convert such files apart", field=name)

    def _atoms(self, number: int, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Return (start, stop, first row, rows) of the runs that are lost together when one of their bytes is damaged."""
        del number
        return [(start, stop, start, stop - start)]

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the runs' rows as chunks; what is damaged is set aside with its number of rows."""
        for number, start, stop, note in spans.to_json():
            try:
                atoms = self._atoms(number, start, stop)
            except _DAMAGE as error:
                yield lost(self.files, number, _damaged(self, number, error))
                continue
            for low, high, row, rows in atoms:
                done = 0
                try:
                    for at, batch in self.batches(number, low, high, list(described.schema), note):
                        yield from _chunks(batch, at, self.files.shown(number))
                        done += batch.num_rows
                except _DAMAGE as error:
                    yield lost(self.files, number, _damaged(self, number, error), row=row + done, rows=max(rows - done, 1))


def _chunks(batch: pa.RecordBatch, first: int, source: str) -> Iterator[Chunk]:
    """Yield the rows of a batch in chunks of a few MB."""
    step = max(min(CHUNK_ROWS, batch.num_rows * CHUNK_BYTES // max(batch.nbytes, 1)), 1)
    for at in range(0, batch.num_rows, step):
        part = batch.slice(at, step)
        columns = {name: _contents(column) for name, column in zip(part.schema.names, part.columns, strict=True)}
        rows = np.arange(first + at, first + at + part.num_rows, dtype=np.int64)
        yield Chunk(columns=columns, source=source, rows=rows, keys=None, size_bytes=part.nbytes)


def _damaged(source: Source, number: int, error: Exception) -> BadData:
    """Return what a library said of a damaged file as our error, with the file's path."""
    return explained(error, source.files.path(number), f"the file is damaged, cut short, or not {source.kind}")


def _contents(column: pa.Array) -> pa.Array:
    """Return the bytes of HF's encoded files, and any other column as it is."""
    if not is_wrapped(column.type):
        return column
    inside = column.flatten()
    return inside[[column.type.field(i).name for i in range(column.type.num_fields)].index("bytes")]


def _fields(arrow: pa.Schema, columns: tuple[str, ...] | None, look: dict[str, list[Any]], source: str) -> Schema:
    """Return the field of each column that is kept.

    Raises:
        BadData: some have none; all of them are named. Or two columns share a name.
    """
    schema: Schema = {}
    unsupported: list[str] = []
    if len(set(arrow.names)) != len(arrow.names):
        raise BadData(f"two columns share a name: {arrow.names}", path=source)
    for column in arrow:
        if columns is not None and column.name not in columns:
            continue
        try:
            schema[column.name] = _field(arrow, column.name, look.get(column.name, []))
        except BadData:
            unsupported.append(f"{column.name!r} ({column.type})")
    if unsupported:
        remedy = f"keep the others with --columns {','.join(schema)}" if schema else "cast them to numbers, text or bytes first"
        raise BadData(f"no field type holds the columns {', '.join(unsupported)}; {remedy}", path=source)
    return schema


def _field(arrow: pa.Schema, name: str, values: list[Any]) -> Field:
    field = schema_of(arrow, [name])[name]
    if isinstance(field, (Image, Audio)):
        return type(field)()
    if not isinstance(field, Bytes) or METADATA_KEY in (arrow.field(name).metadata or {}):
        return field
    if (told := features(arrow).get(name, {}).get("_type")) in ("Image", "Audio"):
        return Image() if told == "Image" else Audio()
    kinds = {sniff(value[:16]) if value else None for value in values}
    if kinds and kinds <= {"jpeg", "png", "webp"}:
        return Image()
    return Audio() if kinds and kinds <= {"flac", "wav", "mp3"} else field


class ArrowSource(TableSource):
    """Arrow IPC files, and streams as HF datasets writes them."""

    kind: ClassVar[str] = "arrow"

    def _is_file(self, number: int) -> bool:
        path = self.files.path(number)
        with guard(path, "read the Arrow file"), path.open("rb") as file:
            head = file.read(6)
            file.seek(max(int(self.files.sizes[number]) - 8, 0))
            tail = file.read(8)
        if head == b"ARROW1":
            return True
        if head[:4] == b"FEA1":
            raise BadData("a Feather file of version 1, which pyarrow no longer reads in place; write it again as Feather 2 or Arrow IPC", path=path)
        if tail != b"\xff\xff\xff\xff\0\0\0\0":
            raise BadData("an Arrow stream without its end marker, or no Arrow data at all: it was cut short or is still being written", path=path)
        return False

    def _open(self, number: int) -> Any:
        memory = pa.memory_map(os.fsencode(self.files.path(number)))
        return pa.ipc.open_file(memory) if self._is_file(number) else pa.ipc.open_stream(memory)

    def schema_of(self, number: int) -> pa.Schema:
        """Return the schema from the footer or the stream's head."""
        return self._open(number).schema

    def _all(self, number: int, begin: int = 0, first: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row, batch) of a file from its batch `begin`, whose first row is given; of a stream, which has no footer, from its beginning.

        Mapped, so a batch that is not compressed costs nothing until it is looked at.
        """
        reader = self._open(number)
        if isinstance(reader, pa.RecordBatchFileReader):
            batches = (reader.get_batch(i) for i in range(begin, reader.num_record_batches))
        else:
            batches, first = reader, 0
        for batch in batches:
            yield first, batch
            first += batch.num_rows

    def batches(self, number: int, start: int, stop: int, columns: list[str], note: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows [start, stop), batch by batch; the note holds the batch of `start`, and the rows of it before `start`."""
        begin, before = divmod(note, _MOST_BATCH_ROWS)
        for first, batch in self._all(number, begin, start - before):
            if first >= stop:
                return
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            if low < high:
                yield first + low, batch.select(columns).slice(low, high - low)

    def _total(self, number: int) -> int:
        return sum(batch.num_rows for _, batch in self._all(number))

    def _cuts(self, number: int) -> list[tuple[int, int, int, int]]:
        cuts = []
        for place, (first, batch) in enumerate(self._all(number)):
            step = max(batch.num_rows * PIECE_BYTES // max(batch.nbytes, 1), 1)
            for at in range(0, batch.num_rows, step):
                rows = min(step, batch.num_rows - at)
                cuts.append((first + at, first + at + rows, place * _MOST_BATCH_ROWS + at, batch.nbytes * rows // batch.num_rows))
        return cuts


class HuggingFaceSource(ArrowSource):
    """A folder that `datasets.Dataset.save_to_disk` wrote."""

    kind: ClassVar[str] = "hf"


class ParquetSource(TableSource):
    """Parquet files, cut at their row groups."""

    kind: ClassVar[str] = "parquet"

    def _open(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(pa.memory_map(os.fsencode(self.files.path(number))))  # as bytes: a name need not be UTF-8

    def schema_of(self, number: int) -> pa.Schema:
        """Return the schema from the footer."""
        with self._open(number) as file:
            return file.schema_arrow

    def batches(self, number: int, start: int, stop: int, columns: list[str], note: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the row groups [start, stop), a few thousand rows at a time."""
        del note
        with self._open(number) as file:
            row = sum(file.metadata.row_group(group).num_rows for group in range(start))
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, row_groups=list(range(start, stop)), columns=columns, use_threads=False):
                yield row, batch
                row += batch.num_rows

    def _atoms(self, number: int, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        with self._open(number) as file:
            rows = [file.metadata.row_group(group).num_rows for group in range(stop)]
        return [(group, group + 1, sum(rows[:group]), rows[group]) for group in range(start, stop)]

    def _total(self, number: int) -> int:
        with self._open(number) as file:
            return int(file.metadata.num_rows)

    def _cuts(self, number: int) -> list[tuple[int, int, int, int]]:
        with self._open(number) as file:
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            rows = [0, *np.cumsum([group.num_rows for group in groups]).tolist()]
            return [(g, g + 1, rows[g], group.total_byte_size) for g, group in enumerate(groups)]
