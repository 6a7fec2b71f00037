"""A dataset of ours as a source: to write it in another format, other sizes, shuffled, or split.

Rows come through the shard readers, so every shard format is read and what is damaged is named. The version is the newest when the plan is
made, and noted in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import BadData, PenstockError
from ..fields import Audio, Field, Image, Schema
from ..shards import commits
from ..shards.arrow_columns import array_of
from ..shards.columns import Column, FixedColumn, ParsedColumn, RaggedColumn
from ..shards.formats import open_reader
from ..shards.manifest import Manifest
from ..shards.reader import ShardReader
from .assign import Spans
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Pieces, Source, choose

PIECE_BYTES = 2**20
"""Rows are cut in runs of about so many bytes."""


class PenstockSource(Source):
    """A dataset folder of ours."""

    kind: ClassVar[str] = "penstock"

    def _manifest(self, version: int | None = None) -> Manifest:
        return commits.load(Path(self.files.root), version)

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the dataset's own columns and metadata."""
        manifest = self._manifest()
        schema: Schema = {name: type(of)() if isinstance(of, (Image, Audio)) else of for name, of in manifest.schema.items()}
        chosen = choose(schema, columns)
        metadata = dict(manifest.metadata)
        if "class_names" in metadata:
            metadata["class_names"] = {name: of for name, of in metadata["class_names"].items() if name in chosen}
        return Described(schema=chosen, metadata=metadata, details={"version": manifest.version})

    def pieces(self, described: Described) -> Pieces:
        """Return runs of rows of each shard."""
        table: list[tuple[int, int, int, int]] = []
        sizes: list[int] = []
        for number, shard in enumerate(self._manifest(described.details["version"]).shards):
            step = max(shard.rows * PIECE_BYTES // max(shard.bytes, 1), 1)
            for start in range(0, shard.rows, step):
                stop = min(start + step, shard.rows)
                table.append((number, start, stop, 0))
                sizes.append(shard.bytes * (stop - start) // max(shard.rows, 1))
        return Pieces(spans=Spans.from_json(table), sizes=np.array(sizes, np.int64))

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the rows of the runs, block by block; a damaged block is set aside whole."""
        manifest = self._manifest(described.details["version"])
        for number, start, stop, _ in spans.to_json():
            shard = manifest.shards[number]
            try:
                reader = open_reader(manifest.root, shard, manifest.schema, list(described.schema))
            except PenstockError as error:
                yield Bad(source=shard.path, key=f"{shard.path}#{start}", row=start, reason=str(error), structure=True, rows=stop - start)
                continue
            try:
                yield from _rows(reader, shard.path, start, stop, described.schema)
            finally:
                reader.close()


def _rows(reader: ShardReader, source: str, start: int, stop: int, schema: Schema) -> Iterator[Chunk | Bad]:
    step = max(min(CHUNK_ROWS, (stop - start) * CHUNK_BYTES // PIECE_BYTES), 1)
    for block, (low, high) in enumerate(zip(reader.block_starts[:-1].tolist(), reader.block_starts[1:].tolist(), strict=True)):
        for at in range(max(start, low), min(stop, high), step):
            end = min(at + step, stop, high)
            rows = np.arange(at, end, dtype=np.int64)
            try:
                columns = reader.block(block)
                arrays = {name: _array(columns[name], schema[name], at - low, end - low) for name in schema}
            except BadData as error:
                yield Bad(source=source, key=f"{source}#{at}", row=at, reason=error.reason, structure=True, rows=end - at)
                continue
            size = sum(array.nbytes for array in arrays.values())
            yield Chunk(columns=arrays, source=source, rows=rows, keys=None, size_bytes=size)


def _array(column: Column, field: Field, start: int, stop: int) -> Any:
    if isinstance(column, FixedColumn):
        return array_of(FixedColumn(values=column.values[start:stop]), field)
    rows = [column.row(index) for index in range(start, stop)]
    if isinstance(column, ParsedColumn) and not field.ragged:
        return array_of(FixedColumn(values=np.stack(rows)), field)
    ends = np.cumsum([len(row) for row in rows])
    return array_of(RaggedColumn(starts=np.concatenate([[0], ends[:-1]]), ends=ends, values=np.concatenate(rows)), field)
