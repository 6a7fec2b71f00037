"""Raw rows to rows of the dataset, or to the quarantine with the reason.

What a row must be is decided by `shards.arrow_columns.canonical`, which is what every writer believes. A chunk goes through it whole; only when
something is wrong is it taken apart, in halves, until each row at fault stands alone. So a good chunk costs
one pass, and a bad row carries the writer's own reason. Images are judged and rewritten one by one before that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import BadData
from ..fields import Image, Schema
from ..shards.arrow_columns import canonical
from ..shards.hf import is_nested, unwrap
from . import images
from .assign import Ints
from .report import Bad
from .settings import ImageRule
from .source import Chunk


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Rows that can be written.

    Attributes:
        batch: the rows, of the types that are written.
        chunk: where they came from.
        kept: for each row, its index in the chunk.
    """

    batch: pa.RecordBatch
    chunk: Chunk
    kept: Ints

    @property
    def keys(self) -> list[str]:
        """Return the key of each row."""
        return [self.chunk.key(index) for index in self.kept.tolist()]

    def key(self, row: int) -> str:
        """Return the key of one row."""
        return self.chunk.key(int(self.kept[row]))

    def bad(self, row: int, reason: str) -> Bad:
        """Return the report of a row that cannot be kept after all."""
        return self.chunk.bad(int(self.kept[row]), reason)


def normalize(chunk: Chunk, schema: Schema, rule: ImageRule, known: Mapping[int, str] = MappingProxyType({})) -> Iterator[Clean | Bad]:
    """Yield a chunk's rows, in order, and what had to be set aside; why some rows are is `known` already."""
    columns, refused = _judged(chunk, schema, rule, known)
    rows = len(chunk.rows)
    keep = np.delete(np.arange(rows, dtype=np.int64), list(refused))
    for index, reason in sorted(refused.items()):
        yield chunk.bad(index, reason)
    arrays = [_array(columns[name], keep, rows) for name in schema]
    yield from _taken(pa.RecordBatch.from_arrays(arrays, names=list(schema)), keep, chunk, schema)


def _judged(chunk: Chunk, schema: Schema, rule: ImageRule, known: Mapping[int, str]) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the columns with images as they should be stored, and why rows are refused."""
    columns = dict(chunk.columns)
    refused = dict(known)
    for name, field in schema.items():
        values = columns[name]
        if not isinstance(values, list) and values.null_count:
            for index in np.flatnonzero(values.is_null()).tolist():
                refused.setdefault(index, f"{name}: the value is null; every row needs one")
        if not isinstance(field, Image):
            continue
        made: list[bytes | None] = [None] * len(values)
        changed = isinstance(values, list)
        for index, value in enumerate(values):
            data = value if isinstance(value, bytes) else value.as_py()
            if data is None:
                continue  # it was refused above
            try:
                made[index] = images.apply(data, rule)
            except BadData as error:
                refused.setdefault(index, f"{name}: {error.reason}")
                continue
            changed = changed or made[index] is not data
        if changed:
            columns[name] = made
    return columns, refused


def _array(values: Any, keep: Ints, rows: int) -> pa.Array:
    if isinstance(values, list):
        kept = [values[index] for index in keep.tolist()]
        return pa.array(kept, pa.binary()) if any(isinstance(v, bytes) for v in kept) else pa.array(kept)
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return array if len(keep) == rows else array.take(pa.array(keep))


def _taken(batch: pa.RecordBatch, kept: Ints, chunk: Chunk, schema: Schema) -> Iterator[Clean | Bad]:
    """Yield what of a batch can be written, in order; `kept` are the rows' indices in the chunk.

    Each row at fault costs one try of each run it lies in, as halves make them: O(rows log rows) when all are bad.
    """
    runs = [(0, batch.num_rows)]
    while runs:
        low, high = runs.pop()
        try:
            made = list(canonical(_flat(batch.slice(low, high - low), schema), schema))
        except BadData as error:
            if high - low == 1:
                place = f"{error.field}: " if error.field else ""
                yield chunk.bad(int(kept[low]), f"{place}{error.reason}")
            else:
                middle = (low + high) // 2
                runs += [(middle, high), (low, middle)]
            continue
        at = low
        for part in made:
            yield Clean(batch=part, chunk=chunk, kept=kept[at : at + part.num_rows])
            at += part.num_rows


def _flat(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return the rows with lists in lists (an `Array2D` of datasets) as one list a row.

    Raises:
        BadData: a row has not its field's shape.
    """
    if not any(is_nested(kind) for kind in batch.schema.types):
        return batch
    arrays = []
    for name, field in schema.items():
        try:
            arrays.append(unwrap(batch[name], field))
        except BadData as error:
            raise error.at(field=name) from None
    return pa.RecordBatch.from_arrays(arrays, names=list(schema))
