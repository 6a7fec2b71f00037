"""The contract of a batch source: what it holds, where it can be cut, and its rows, chunk by chunk.

A source is used twice. In the parent it is described and cut (`describe`, `pieces`): it looks at names, headers and footers, never at all of
the data. In a worker it is read (`read`): a part's spans become chunks of raw columns, and what cannot be read becomes a `Bad`, never
an exception. Between the two stands only JSON, so a source keeps no state that matters.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFSOCK
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ..errors import BadData, BadRequest, StorageError
from ..fields import Schema
from ..shards.storage import guard, translate
from .assign import Ints, Spans
from .report import Bad

CHUNK_BYTES = 4 * 2**20
"""A chunk of rows holds about so many bytes, so that a worker's memory does not depend on the source."""

CHUNK_ROWS = 16_384
"""A chunk never has more rows."""


_SPECIAL = {S_IFIFO: "named pipe", S_IFSOCK: "socket", S_IFCHR: "device", S_IFBLK: "device", S_IFDIR: "folder"}


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a source, in the order of their rows.

    Attributes:
        root: the folder that names are relative to.
        names: relative paths as bytes (a file name need not be UTF-8).
        sizes: bytes of each.
        mtimes: when each was changed, in ns.
    """

    root: str
    names: list[bytes]
    sizes: Ints
    mtimes: Ints

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def path(self, number: int) -> Path:
        """Return where a file is."""
        return Path(self.root, os.fsdecode(self.names[number]))

    def name(self, number: int) -> str:
        """Return a file's relative path; undecodable bytes stand as lone surrogates."""
        return os.fsdecode(self.names[number])

    def shown(self, number: int) -> str:
        """Return a file's relative path for people: always printable."""
        return self.names[number].decode("utf-8", "backslashreplace")

    def to_table(self) -> pa.Table:
        """Return the list as the plan keeps it."""
        return pa.table({"name": pa.array(self.names, pa.binary()), "size": self.sizes, "mtime_ns": self.mtimes})

    @classmethod
    def from_table(cls, root: str, table: pa.Table) -> Files:
        """Return the list that `to_table` made."""
        return cls(
            root=root,
            names=table["name"].to_pylist(),
            sizes=table["size"].to_numpy().astype(np.int64),
            mtimes=table["mtime_ns"].to_numpy().astype(np.int64),
        )

    @classmethod
    def of(cls, root: str, names: Sequence[bytes]) -> Files:
        """Return the list of these files with what the file system says of them now.

        A name that leads nowhere (a dangling link) has size 0; reading it will set it aside.

        Raises:
            BadData: one is a pipe, a socket or a device: reading it might never end.
        """
        stats = np.zeros((2, len(names)), np.int64)
        for number, name in enumerate(names):
            try:
                stat = os.stat(os.path.join(os.fsencode(root), name))  # noqa: PTH116, PTH118 - a million files: bytes, no Path objects
                stats[:, number] = stat.st_size, stat.st_mtime_ns
                if kind := _SPECIAL.get(S_IFMT(stat.st_mode)):
                    shown = name.decode("utf-8", "backslashreplace")
                    raise BadData(f"{shown!r} is a {kind}: only files are read; remove it, or name the files with a glob", path=root)
            except FileNotFoundError:
                stats[:, number] = 0, -1
            except OSError as error:
                with guard(os.path.join(root, os.fsdecode(name)), "look at the source file"):  # noqa: PTH118 - names as bytes
                    raise error from None
        return cls(root=root, names=list(names), sizes=stats[0], mtimes=stats[1])


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a source holds.

    Attributes:
        schema: the columns that are converted.
        metadata: what the dataset should note, such as class names.
        details: what the source needs again in a worker, as JSON values.
    """

    schema: Schema
    metadata: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Where a source can be cut.

    Attributes:
        spans: the smallest runs, in the order of the rows.
        sizes: bytes of each.
        bad: what is already known to be unreadable.
    """

    spans: Spans
    sizes: Ints
    bad: tuple[Bad, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows, raw.

    Attributes:
        columns: Arrow arrays, or lists of bytes (of text and JSON too) or numbers.
        source: the file they came from, or None when each row is a file and its key is the file's name.
        rows: each row's number in the file (line for text).
        keys: each row's key, or None when it is `source#row`.
        size_bytes: how much of the source they were.
    """

    columns: dict[str, Any]
    source: str | None
    rows: Ints
    keys: list[str] | None
    size_bytes: int

    def key(self, index: int) -> str:
        """Return the key of a row."""
        return self.keys[index] if self.keys is not None else f"{self.source}#{self.rows[index]}"

    def bad(self, index: int, reason: str, *, structure: bool = False) -> Bad:
        """Return the report of a row that cannot be kept."""
        key = self.key(index)
        row = None if self.source is None else int(self.rows[index])
        return Bad(source=self.source or key, key=key, row=row, reason=reason, structure=structure)


class Source(ABC):
    """One kind of raw data.

    Attributes:
        kind: its name for `--from`.
        files: what it reads.
    """

    kind: ClassVar[str]
    files: Files

    def __init__(self, files: Files) -> None:
        """Take the list of files; nothing is opened yet."""
        self.files = files

    @abstractmethod
    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return what the source holds; called once, in the parent.

        Raises:
            BadRequest: a column that was asked for does not exist.
            BadData: the source cannot be understood at all.
        """

    @abstractmethod
    def pieces(self, described: Described) -> Pieces:
        """Return where the source can be cut; called once, in the parent. A file that is damaged becomes a `Bad`."""

    @abstractmethod
    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the rows of the spans, in order; called in a worker."""


def choose(schema: Schema, columns: tuple[str, ...] | None) -> Schema:
    """Return the columns that were asked for, in the order of the source.

    Raises:
        BadRequest: one of them does not exist.
    """
    if columns is None:
        return schema
    if unknown := [name for name in columns if name not in schema]:
        raise BadRequest(f"columns: {', '.join(map(repr, unknown))} not in the source; it has {', '.join(map(repr, schema))}")
    return {name: of for name, of in schema.items() if name in columns}


def lost(files: Files, number: int, error: Exception, *, rows: int | None = None, row: int | None = None) -> Bad:
    """Return the report of a file, or a run of rows in it, whose structure is damaged; `rows` are those lost, None when nobody can tell."""
    reason = error.reason if isinstance(error, BadData) else str(error).splitlines()[0] if str(error) else type(error).__name__
    return Bad(
        source=files.shown(number),
        key=files.shown(number),
        row=row,
        reason=reason,
        structure=True,
        rows=1 if rows is None else rows,
        counted=rows is not None,
    )


def gather(looked_at: Iterable[Sequence[tuple[int, int, int, int]] | Bad]) -> Pieces:
    """Return the pieces of files that are looked at one by one.

    Args:
        looked_at: for each file its runs as (start, stop, note, bytes), or why it is set aside whole.
    """
    table: list[tuple[int, int, int, int]] = []
    sizes: list[int] = []
    bad: list[Bad] = []
    for number, found in enumerate(looked_at):
        if isinstance(found, Bad):
            bad.append(found)
            continue
        table.extend((number, start, stop, note) for start, stop, note, _ in found)
        sizes.extend(size for *_, size in found)
    return Pieces(spans=Spans.from_json(table), sizes=np.array(sizes, np.int64), bad=tuple(bad))


def explained(error: Exception, path: Path, hint: str) -> BadData:
    """Return what was said of a file as our error with its path; the hint at what may be wrong with it is left out where it could not be read at all."""
    if isinstance(error, BadData):
        return error.at(path=path)
    if isinstance(error, StorageError):
        return BadData(error.message, path=path)
    if isinstance(error, OSError) and error.errno:  # a library's; one that speaks of damage has no errno
        return BadData(translate(error, path, "read the file").message, path=path)
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return BadData(f"{text.rstrip('.')}; {hint}", path=path)
