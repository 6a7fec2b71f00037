"""Which module reads which shard format; the only file that knows them all.

A training process opens a dataset of ours, whose shards are Arrow files, and needs none of the rest: the modules for tar, Parquet, what
other libraries wrap in Arrow, and files that are no dataset yet are imported here, by name, when the first such shard is opened. Together
they would bring tens of milliseconds to every process that says `penstock.Dataset`, and Parquet a good part of pyarrow.

Must never: open a file outside the dataset. Cost: a few `lstat` calls a shard, to see where its path leads.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import BadRequest
from ..fields import Schema
from .arrow import ArrowFile, ArrowReader, open_file
from .manifest import Manifest, Shard
from .reader import ShardReader
from .storage import inside


def _module(name: str) -> Any:
    """Return a module that a dataset of our own does not need, importing it now."""
    return importlib.import_module(f".{name}", __package__)


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
    path, wanted = inside(Path(root), shard.path, follow_links=follow_links), choose_columns(schema, columns)
    if shard.format == "arrow":
        file = open_file(path, shard, wanted)
        kind = _module("hfarrow").ForeignArrowReader if _is_wrapping(file, wanted) else ArrowReader
        return kind(file, path, shard, wanted)
    opened: ShardReader = _module(shard.format).open_shard(path, shard, wanted)
    return opened


def _is_wrapping(file: ArrowFile, schema: Schema) -> bool:
    """Return whether a wanted column has a type that no field is stored as: a struct, lists in lists, or another library's extension type."""
    return any(
        pa.types.is_struct(column.type)
        or (pa.types.is_list(column.type) and pa.types.is_list(column.type.value_type))
        or (isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.FixedShapeTensorType))
        for column in file.schema
        if column.name in schema
    )


def open_foreign(source: str, columns: Sequence[str] | None = None) -> Manifest:
    """Return files written by others, which are no dataset of ours, as one; see `adopt.adopt`, which does it.

    Args:
        source: a file, a folder or a brace pattern of tar, Arrow or Parquet files.
        columns: what will be read, or None for all.
    """
    manifest: Manifest = _module("adopt").adopt(source, hash=False, publish=False, columns=columns)
    return manifest
