"""Which module reads which shard format; the only file that knows them all.

Must never: open a file outside the dataset. Cost: a few `lstat` calls a shard, to see where its path leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import BadRequest
from ..fields import Schema
from . import hfarrow, parquet, tar
from .manifest import Shard
from .reader import ShardReader
from .storage import inside

_READERS: dict[str, Callable[[Path, Shard, Schema], ShardReader]] = {
    "arrow": hfarrow.open_shard,
    "tar": tar.open_shard,
    "parquet": parquet.open_shard,
}


def choose_columns(schema: Schema, columns: Sequence[str] | None) -> Schema:
    """Return the named columns in the order of the schema, or all of them.

    Raises:
        BadRequest: a name is unknown, stands twice, or there is none.
    """
    if columns is None:
        return schema
    if isinstance(columns, str) or not columns or len(set(columns)) != len(columns):
        given = columns if isinstance(columns, str) else list(columns)
        raise BadRequest(f"columns: {given!r} is not a list of one or more columns, each once; there are {', '.join(schema)}")
    if unknown := [name for name in columns if name not in schema]:
        raise BadRequest(f"columns: there is no {', '.join(map(repr, unknown))}; there are {', '.join(schema)}")
    return {name: field for name, field in schema.items() if name in columns}


def open_reader(root: str | Path, shard: Shard, schema: Schema, columns: Sequence[str] | None = None, *, follow_links: bool = False) -> ShardReader:
    """Return a reader of one shard of a dataset.

    Args:
        root: the dataset's folder.
        shard: which shard, from the manifest.
        schema: the dataset's columns.
        columns: the names to read, or None for all.
        follow_links: accept symbolic links that lead out of the folder; right only for files the user named (`inside`).
    """
    path = inside(Path(root), shard.path, follow_links=follow_links)
    return _READERS[shard.format](path, shard, choose_columns(schema, columns))
