"""Which module reads which shard format; the only file that knows them all.

Arrow files of plain columns, which are what Penstock writes, are read here and now; for everything else the module is imported when the first
such shard is opened (`later`).

Must never: open a file outside the dataset. Cost: a few `lstat` calls a shard, to see where its path leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import BadRequest
from ..fields import Schema
from .ipc import NotPlain
from .later import load_later
from .manifest import Manifest, Shard
from .plain import PlainReader
from .reader import ShardReader
from .storage import guard, inside, map_file


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
        with guard(path, "open the shard"):
            size = path.stat().st_size
        if size == shard.bytes:  # of another size is for Arrow's reader to refuse
            try:
                return PlainReader(map_file(path), path, shard, wanted)
            except NotPlain:
                pass
    opened: ShardReader = load_later(shard.format).open_shard(path, shard, wanted)
    return opened


def open_foreign(source: str, columns: Sequence[str] | None = None) -> Manifest:
    """Return files written by others, which are no dataset of ours, as one; see `adopt.adopt`, which does it.

    Args:
        source: a file, a folder or a brace pattern of tar, Arrow or Parquet files.
        columns: what will be read, or None for all.
    """
    manifest: Manifest = load_later("adopt").adopt(source, hash=False, publish=False, columns=columns)
    return manifest
