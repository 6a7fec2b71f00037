"""Reads any Arrow shard, also those in which datasets has wrapped its images, sounds and arrays; see `hf`.

It is the reader of `arrow` with one step in front of each block. `formats` brings it in for shards that have such columns, and only then:
a shard of ours never does.
"""

from __future__ import annotations

import pyarrow as pa

from ..errors import BadData
from ..fields import Schema
from .arrow import ArrowReader
from .columns import Column
from .hf import is_nested, is_wrapped, schema_of, unwrap


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
