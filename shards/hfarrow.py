"""Reads any Arrow shard, also those in which datasets has wrapped its images, sounds and arrays; see `hf`.

It is the reader of `arrow` with one step in front of each block, for shards that have such columns; the others are left to `arrow` itself. Of
shards of plain columns (`plain`) only what needs Arrow comes here: verifying them, and blocks that are not as they should be.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ..errors import BadData
from ..fields import Schema
from .arrow import ArrowFile, ArrowReader, open_file
from .columns import Column
from .hf import is_nested, is_wrapped, schema_of, unwrap
from .manifest import Shard


class ForeignArrowReader(ArrowReader):
    """One Arrow shard, open, with structs of bytes and path read as the bytes, and lists in lists as arrays."""

    def _check_schema(self) -> None:
        found = self._file.schema
        kinds = {name: found.field(name).type for name in self.schema if found.get_field_index(name) >= 0}
        self._wrapped = [name for name, kind in kinds.items() if is_wrapped(kind) or is_nested(kind)]
        if not self._wrapped:
            super()._check_schema()
            return
        stored = schema_of(found, list(self.schema))
        for name, field in self.schema.items():
            if stored.get(name) != field:
                raise BadData(f"the file holds {stored.get(name, 'no such column')} where the dataset says {field}", field=name)

    def _checked(self, number: int, batch: pa.RecordBatch, schema: Schema) -> dict[str, Column]:
        for name in self._wrapped:
            try:
                batch = batch.set_column(batch.schema.get_field_index(name), name, unwrap(batch.column(name), self.schema[name]))
            except BadData as error:
                row = int(self.block_starts[number]) + int(error.row or 0)
                raise BadData(error.reason, path=self._path, shard=self._shard.path, row=row, field=name) from None
        return super()._checked(number, batch, schema)


def open_shard(path: Path, shard: Shard, schema: Schema) -> ArrowReader:
    """Return the reader of any Arrow shard for the columns of `schema`."""
    file = open_file(path, shard, schema)
    return (ForeignArrowReader if _is_wrapping(file, schema) else ArrowReader)(file, path, shard, schema)


def _is_wrapping(file: ArrowFile, schema: Schema) -> bool:
    """Return whether a wanted column has a type that no field is stored as: a struct, lists in lists, or another library's extension type."""
    return any(
        pa.types.is_struct(column.type)
        or (pa.types.is_list(column.type) and pa.types.is_list(column.type.value_type))
        or (isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.FixedShapeTensorType))
        for column in file.schema
        if column.name in schema
    )
