"""Rows into a dataset: encode, cut into shards, publish all of them as one version or nothing.

A row is checked whole before any of it is taken, so a refused row leaves the writer as it was. A shard ends with the row that makes its
values (of a tar: its file, headers included) reach `shard_size`; equal rows are therefore cut into equal shards, whether they came one by one or as tables.

Must never: show a reader half of what was written, or pickle a value that has no field.
Cost: one block of rows in memory (about 4 MiB), the shards on disk once. Rates are in docs/format.md.
Refused: background threads that hide which row failed.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import pyarrow as pa

from ..errors import AlreadyExists, BadData, BadRequest, StorageError
from ..fields import KNOWN, Field, Schema
from . import commits
from .arrow_columns import canonical, columns_of, row_bytes
from .arrow_types import schema_from_arrow
from .encoders import Encoder, encoder_of
from .infer import infer
from .manifest import Manifest, check_metadata, parse_size
from .shardwriter import ShardStats, ShardWriter, open_shard_writer
from .staging import Staging, place, unplace
from .storage import local_path

MODES = ("create", "append", "overwrite")
"""What `Writer(mode=...)` can be."""

_SLICE_BYTES = 2**28
"""A table is handed on in slices of at most this many bytes of values, so that a growing block is looked at in time."""


def check_fields(fields: object) -> Schema:
    """Return the fields as a schema.

    Raises:
        BadRequest: it is not a mapping of names to field values.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise BadRequest(f"fields: {str(fields)[:80]!r} is not a mapping of one or more names to fields; there are {KNOWN}")
    for name, field in fields.items():
        if not isinstance(name, str) or not name or "\0" in name:
            raise BadRequest(f"fields: a column's name is text, not {name!r}")
        if not isinstance(field, Field):
            raise BadRequest(f"fields: column {name!r} is {field!r}, which is not a field; there are {KNOWN}")
    return dict(fields)


@final
class Writer:
    """Writes a dataset; use it in a `with` block, whose end publishes and whose exception publishes nothing.

    Example:
        with Writer("out", {"image": Image("jpeg"), "label": Scalar("int64")}) as writer:
            writer.write({"image": data, "label": 3})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Mapping[str, Field] | None = None,
        *,
        format: str = "arrow",  # noqa: A002 (the design's name)
        shard_size: str | int = "128MB",
        metadata: Mapping[str, Any] | None = None,
        mode: str = "create",
    ) -> None:
        """Open a writer; nothing can be seen until `close`.

        Args:
            path: the dataset's folder.
            fields: the columns; without them they are inferred from the first row, or taken from the dataset appended to.
            format: `"arrow"` or `"tar"`.
            shard_size: bytes of values, or of a tar's file, after which a new shard begins, such as `"128MB"`. Larger shards open faster, smaller ones shuffle and
                move better; 128 MB is about 1,300 images of 100 KB.
            metadata: anything JSON can say, kept with the dataset. When appending, the names in `"class_names"` of a column begin with
                those that are there.
            mode: `"create"` (refused when a dataset is there), `"append"`, or `"overwrite"`.

        Raises:
            AlreadyExists: there is a dataset, and `mode` is `"create"`.
            BadRequest: an argument is wrong, or the columns or class names are not those of the dataset appended to.
        """
        self._closed = True  # until the last line: nothing is held yet
        self._root = local_path(path)
        self._format, self._mode = format, mode
        if mode not in MODES:
            raise BadRequest(f"mode: {mode!r} is not one of {', '.join(map(repr, MODES))}")
        if format not in {"arrow", "tar"}:
            raise BadRequest(f"format: {format!r} cannot be written; use 'arrow' or 'tar'")
        self._shard_size = parse_size(shard_size)
        self._metadata = check_metadata(metadata or {})
        self._schema = check_fields(fields) if fields is not None else None
        self._version = self._look_at_destination()
        self._encoders: list[tuple[str, Encoder]] = []
        if self._schema is not None:
            self._know(self._schema)
        self._shard: ShardWriter | None = None
        self._shard_path = Path()
        self._shards: list[tuple[Path, ShardStats]] = []
        self._rows = 0
        self._manifest: Manifest | None = None
        self._staging = Staging(self._root)
        self._closed = False

    def _look_at_destination(self) -> int:
        """Return the version that would come next, having refused what could not land."""
        if not commits.is_dataset(self._root):
            return 1
        current = commits.load(self._root)
        if self._mode == "create":
            message = f"{self._root} already holds version {current.version} with {current.rows} rows"
            raise AlreadyExists(f"{message}; use mode='append' or mode='overwrite', or choose another folder")
        if self._mode == "append":
            self._schema = current.schema if self._schema is None else self._schema
            commits.check_same_schema(self._root, current.schema, self._schema)
            commits.check_class_names(self._root, current.metadata, self._metadata)
        return current.version + 1

    @property
    def rows(self) -> int:
        """How many rows have been written."""
        return self._rows

    @property
    def manifest(self) -> Manifest | None:
        """The dataset as `close` published it, or None before."""
        return self._manifest

    def _know(self, schema: Schema) -> None:
        self._schema = schema
        self._encoders = [(name, encoder_of(field)) for name, field in schema.items()]

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row; its values may be reused afterwards.

        Raises:
            BadData: the row's columns or values are not what the fields say; the row is not taken and the writer goes on.
            StorageError: the disk is full or refuses; everything written so far is removed and the writer is closed.
        """
        if self._closed:
            raise BadRequest(f"the writer of {self._root} is closed; row {self._rows} cannot be written")
        if self._schema is None:
            self._infer(row)
        encoded = {}
        name = None
        try:
            for name, encode in self._encoders:
                encoded[name] = encode(row[name])
            if len(row) != len(encoded):
                self._take_key(row, encoded)
        except KeyError:
            raise self._unlike(row) from None
        except TypeError:
            self._check_mapping(row)
            raise
        except BadData as error:
            raise error.at(row=self._rows, field=name) from None
        try:
            shard = self._shard or self._begin()
            shard.write_row(encoded)
            self._rows += 1
            if shard.size_bytes >= self._shard_size or shard.full:
                self._end()
        except StorageError:  # what comes later could not be published either
            self.abort()
            raise

    def _take_key(self, row: Mapping[str, Any], encoded: dict[str, Any]) -> None:
        """Let `__key__` through, which names a sample in a tar and is no column; anything else is too much."""
        if self._format != "tar" or set(row) - set(encoded) != {"__key__"}:
            raise self._unlike(row)
        encoded["__key__"] = row["__key__"]

    def _unlike(self, row: Mapping[str, Any]) -> BadData:
        expected = [name for name, _ in self._encoders]
        missing, extra = [name for name in expected if name not in row], [name for name in row if name not in expected]
        reason = f"the row's columns are not those of the dataset: missing {missing}, extra {extra}; every row has the columns {expected}"
        return BadData(reason, row=self._rows)

    def _check_mapping(self, row: object) -> Mapping[str, Any]:
        if not isinstance(row, Mapping) or not row:
            raise BadData(f"a row is a mapping of column names to values, not {str(row)[:80]!r}", row=self._rows)
        return row

    def _infer(self, row: object) -> None:
        schema = {}
        for name, value in self._check_mapping(row).items():
            if name == "__key__" and self._format == "tar":
                continue
            try:
                schema[name] = infer(value)
            except BadData as error:
                raise error.at(row=self._rows, field=str(name)) from None
        self._know(check_fields(schema))

    def write_table(self, table: pa.Table | pa.RecordBatch) -> None:
        """Take the rows of an Arrow table, matched to the fields by name; no copy where its types are those that are written.

        Raises:
            BadData: a column or a value is not what the fields say; no row of the table is taken.
            StorageError: as in `write`.
        """
        if self._closed:
            raise BadRequest(f"the writer of {self._root} is closed; a table of {table.num_rows} rows cannot be written")
        schema = schema_from_arrow(table.schema) if self._schema is None else self._schema
        try:
            batches = list(canonical(table, schema))
        except BadData as error:
            raise error if error.row is None else BadData(error.reason, row=self._rows + int(error.row), field=error.field) from None
        if self._schema is None:
            self._know(check_fields(schema))
        try:
            for batch in batches:
                self._write_batch(batch, schema)
        except StorageError:  # what comes later could not be published either
            self.abort()
            raise

    def _write_batch(self, batch: pa.RecordBatch, schema: Schema) -> None:
        sizes = np.broadcast_to(np.asarray(row_bytes(columns_of(batch, schema)), np.int64), (batch.num_rows,))
        ends = np.cumsum(sizes)
        done = 0
        while done < batch.num_rows:
            shard = self._shard or self._begin()
            before = int(ends[done - 1]) if done else 0
            room = min(self._shard_size - shard.size_bytes, _SLICE_BYTES) if self._format != "tar" else 1  # a tar goes row by row
            stop = min(int(np.searchsorted(ends, before + room)) + 1, batch.num_rows)  # the row that fills the shard is the last of it
            shard.write_batch(batch.slice(done, stop - done))
            self._rows += stop - done
            done = stop
            if shard.size_bytes >= self._shard_size or shard.full:
                self._end()

    def _begin(self) -> ShardWriter:
        assert self._schema is not None
        self._shard_path = self._staging.path / f"{len(self._shards):05d}.{self._format}"
        self._shard = open_shard_writer(self._shard_path, self._schema, self._format)
        return self._shard

    def _end(self) -> None:
        if self._shard is not None:
            self._shards.append((self._shard_path, self._shard.close()))
            self._shard = None

    def close(self) -> None:
        """Publish what was written as one version; closing twice is fine.

        Raises:
            BadRequest: no row was written and no fields were given, so there is nothing to publish; or another writer has added class names
                meanwhile that are not those of `metadata`.
            AlreadyExists: another writer has made the dataset meanwhile, and `mode` is `"create"`.
            StorageError: it could not be published; nothing is, and the files are removed. (After Ctrl-C the version may stand: if the
                interrupt came behind the commit, the dataset has it, and its files stay.)
        """
        if self._closed:
            return
        try:
            if self._schema is None:
                raise BadRequest(
                    f"no row was written to {self._root} and fields= was not given, so there are no columns; give fields= or write a row"
                )
            self._end()
            self._publish(self._schema)
        finally:
            self.abort()

    def _publish(self, schema: Schema) -> None:
        unique = secrets.token_hex(16)
        job, before = f"writer.{unique}", self._version - 1
        placed = place(self._root, self._shards, format=self._format, version=self._version, unique=unique[:8])
        try:
            self._manifest = commits.commit(
                self._root, operation=self._mode, schema=schema, added=placed, metadata=self._metadata, job=job, after=before
            )
        except BaseException:  # also Ctrl-C: no file may stay that no version names, and none go that one does
            if not self._may_be_published(job, before):
                unplace(self._root, placed)
            raise

    def _may_be_published(self, job: str, before: int) -> bool:
        """Whether a version names the shards; where that cannot be seen, yes: a stray file costs space, a missing one a dataset."""
        try:
            return commits.find_job(self._root, job, after=before) is not None
        except (StorageError, BadData):
            return True

    def abort(self) -> None:
        """Remove what has not been published; twice, or after `close`, is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._shard is not None:
                self._shard.abort()
        finally:
            self._shard = None
            self._staging.close()

    def __enter__(self) -> Writer:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Publish, or on an exception remove everything."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        """Warn: who opens, closes."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"the writer of {self._root} was never closed; nothing was published", ResourceWarning, stacklevel=2, source=self)
