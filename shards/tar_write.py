"""Writes one WebDataset tar and its index. The only file that imports webdataset, which brings torch: imported when a tar is written.

The bytes are a function of the rows alone: members are sorted by suffix, owner, mode and time are constants. Keys are the row's number in
nine digits, or the row's own `__key__` if the schema has that column as `Text`. The index is built from the finished file, the way it is
for a foreign tar, so that a shard which could not be read back is never published.

Must never: leave half a row in the file; what could fail is checked before a row's first member is written.
Cost: about 60 µs a member (tarfile), and one read of the finished file from the page cache to hash its samples.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import webdataset

from ..errors import BadData
from ..fields import Array, Audio, Field, Image, Scalar, Schema, Tokens
from .npy import bytes_of
from .shardwriter import ShardStats, ShardWriter
from .sink import HashingFile
from .storage import atomic_write, map_file
from .tarindex import build, to_bytes
from .tarkeep import index_path
from .tarnames import KEY, file_fields, sniff, suffix_of

_MAX_MEMBER_BYTES = 8**11 - 1
_MAX_NAME_BYTES = 100


class _Outlet:
    """What tarfile writes to. Shut, it swallows: tarfile also writes when it is thrown away, and an aborted shard must not come back."""

    def __init__(self, sink: HashingFile) -> None:
        self._sink: HashingFile | None = sink

    def write(self, data: Any) -> int:
        """Hand bytes on, or drop them once shut."""
        return len(data) if self._sink is None else self._sink.write(data)

    def shut(self) -> None:
        """Drop what comes from now on."""
        self._sink = None


class TarShardWriter(ShardWriter):
    """One tar, being written; see `ShardWriter`."""

    def __init__(self, path: Path, schema: Schema) -> None:
        """Make the file; refuses columns that cannot be a file's suffix."""
        self.schema = schema
        self.rows = 0
        self.size_bytes = 0
        self._fields = file_fields(schema)
        self._keys: set[str] = set()
        self._path = path
        self._stats: ShardStats | None = None
        self._sink = HashingFile(path)
        self._outlet = _Outlet(self._sink)
        self._tar = webdataset.TarWriter(self._outlet, encoder=False, mtime=0)

    def write_row(self, row: Mapping[str, Any]) -> None:
        """Take one row of encoded values; nothing is written when it is refused."""
        if missing := [name for name in self.schema if name not in row]:
            raise BadData(f"the row has no column {missing[0]!r}; it has {sorted(row)}", row=self.rows)
        key = self._key(row)
        sample: dict[str, Any] = {KEY: key}
        for name, field in self._fields.items():
            try:
                data = file_of(row[name], field)
                suffix = suffix_of(name, field, sniff(data[:12]) if isinstance(field, (Image, Audio)) else None)
                _check_member(f"{key}.{suffix}", len(data))
            except BadData as error:
                raise error.at(row=self.rows, field=name) from None
            sample[suffix] = data
        self._tar.write(sample)
        self._tar.tarstream.members = []  # tarfile remembers every member it wrote
        self._keys.add(key)
        self.rows += 1
        self.size_bytes = self._tar.tarstream.offset

    def _key(self, row: Mapping[str, Any]) -> str:
        if KEY not in self.schema or KEY in self._fields:
            return f"{self.rows:09d}"
        key = str(row[KEY])
        parts = key.split("/")
        if not parts[-1] or "." in parts[-1] or ".." in parts or "\0" in key or key.startswith("__"):
            raise BadData(f"key {key!r} cannot name files: no '.' in its last part, no '..', no '__' in front", row=self.rows, field=KEY)
        if key in self._keys:
            raise BadData(f"key {key!r} stands in this shard already; keys must differ", row=self.rows, field=KEY)
        return key

    def close(self) -> ShardStats:
        """Write the end marker and the index, and put both on disk."""
        if self._stats is None:
            self._tar.close()
            self._sink.close()
            if self.rows:
                atomic_write(index_path(self._path), to_bytes(build(map_file(self._path), hashed=True)))
            self._stats = ShardStats(rows=self.rows, bytes=self._sink.size_bytes, xxh3=self._sink.hexdigest(), block_rows=self.rows)
        return self._stats

    def abort(self) -> None:
        """Close and remove the file and its index."""
        self._outlet.shut()
        self._tar.close()
        self._sink.abort()
        index_path(self._path).unlink(missing_ok=True)


def file_of(value: Any, field: Field) -> bytes:
    """Return the file that holds an encoded value."""
    match field:
        case Scalar() if field.dtype == "bool":
            return b"true" if value else b"false"
        case Scalar():
            return json.dumps(value.item()).encode()
        case Array() | Tokens():
            return bytes_of(value)
        case _:
            return value.encode() if isinstance(value, str) else bytes(value)


def _check_member(name: str, size: int) -> None:
    if size > _MAX_MEMBER_BYTES:
        raise BadData(f"the value has {size} bytes; a file in a tar has at most {_MAX_MEMBER_BYTES}")
    if len(name.encode()) > _MAX_NAME_BYTES:
        try:
            tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
        except ValueError as error:
            raise BadData(f"member name {name!r} has {len(name.encode())} bytes: {error}; use shorter keys and column names") from None


def open_writer(path: Path, schema: Schema, *, block_bytes: int) -> ShardWriter:  # noqa: ARG001 (a tar is one block)
    """Return the writer of a new tar."""
    return TarShardWriter(path, schema)
