"""A dataset as a value: its shards, its commits, and the state they add up to. Pure: no file is touched here.

A `Commit` is what one file in `_penstock/commits/` says; a `Manifest` is the dataset at one version. Both are valid when built: numbers are
in range, paths stay inside the dataset, no shard stands twice. Text from a disk is hostile until `Commit.from_json` has accepted it.

Cost: O(shards) to build, about a microsecond each, and nothing per row; what is asked of all shards at once (`starts`, `block_rows`, `bytes`, `digest`)
is made then and kept, so that nobody goes through them again. Rows never overlap because a row's number is not stored: it follows from the order of the
shards. Refused: offsets per shard in the file, which could contradict each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import BadData, BadRequest
from ..fields import Schema, schema_from_json, schema_to_json

FORMAT_VERSION = 1
"""The version of the format of commits that this Penstock writes, and the newest it reads."""

FORMATS = ("arrow", "tar", "parquet")
"""The shard formats there are."""

OPERATIONS = ("create", "append", "overwrite", "adopt")
"""What a commit can have done."""

MAX_COMMIT_BYTES = 256 * 2**20
"""No commit file is larger."""

MAX_METADATA_BYTES = 16 * 2**20
"""No dataset's metadata is larger, as JSON."""

MAX_SHARDS = 1_000_000
"""No version has more shards."""

MAX_TOTAL_ROWS = 2**62
"""No version has more rows: an order numbers no more (`order.MAX_ROWS`)."""

_MAX_ROWS = 2**48
_MAX_BYTES = 2**60
_XXH3 = re.compile(r"[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_CONTROL = re.compile(r"[\x00-\x1f\ud800-\udfff]")
_ODD_PATH = re.compile(r"[\x00-\x1f\ud800-\udfff]|(?:^|/)\.{0,2}(?:/|\Z)|^_penstock(?:/|\Z)")
_JOB = re.compile(r"[^\0]{1,256}")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_HASHED = 4096
"""Shards whose text is hashed at a time."""

_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(size: str | int, what: str = "shard_size") -> int:
    """Return a number of bytes: `"128MB"` is 128,000,000, `"64MiB"` is 67,108,864, an int is itself.

    Raises:
        BadRequest: it is neither, or not positive.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        number = size
    else:
        found = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if found is None:
            raise BadRequest(f"{what}: {size!r} is not a size; give bytes as an int, or text such as '128MB' or '64MiB'")
        number = int(float(found[1]) * (1024 if found[3] else 1000) ** _POWER[found[2].lower()])
    if not 0 < number <= _MAX_BYTES:
        raise BadRequest(f"{what}: {size!r} is {number} bytes; it must lie between 1 and {_MAX_BYTES}")
    return number


def _count(value: object, what: str, most: int, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadData(f"{what} is {str(value)[:40]!r}, not a whole number from {least} to {most}")
    return value


def _text(value: object, pattern: re.Pattern[str], what: str, wanted: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadData(f"{what} {str(value)[:40]!r} is not {wanted}")


def check_path(path: object) -> str:
    """Return a shard's path if it is relative, in POSIX form, and stays inside the dataset."""
    if isinstance(path, str) and len(path) <= 4096 and not _ODD_PATH.search(path):
        return path
    if not isinstance(path, str) or not 0 < len(path) <= 4096 or _CONTROL.search(path):
        raise BadData(f"a shard's path is 1 to 4096 printable characters, not {str(path)[:80]!r}")
    if path.startswith("_penstock"):
        raise BadData(f"shard path {path[:200]!r} lies in _penstock/, which holds no data", shard=path[:200])
    raise BadData(f"shard path {path[:200]!r} leaves the dataset; it must be relative and without '..'", shard=path[:200])


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One immutable file of rows.

    Attributes:
        path: where it is, relative to the dataset, in POSIX form.
        format: `"arrow"`, `"tar"` or `"parquet"`.
        rows: how many rows it has.
        bytes: the file's size.
        xxh3: 16 hex digits of the file's XXH3-64, or None when a foreign file was opened unhashed.
        block_rows: rows of each block but the last; 0 when the blocks of a foreign file differ.
    """

    path: str
    format: str
    rows: int
    bytes: int
    xxh3: str | None
    block_rows: int

    def __post_init__(self) -> None:
        """Refuse a path outside the dataset, an unknown format, and absurd numbers."""
        check_path(self.path)
        try:
            self._check()
        except BadData as error:
            raise error.at(shard=self.path) from None

    def _check(self) -> None:
        if self.format not in FORMATS:
            raise BadData(f"shard format {str(self.format)[:40]!r} is unknown; there are {', '.join(FORMATS)}")
        _count(self.rows, "rows", _MAX_ROWS)
        _count(self.bytes, "bytes", _MAX_BYTES)
        _count(self.block_rows, "block_rows", _MAX_ROWS)
        if self.xxh3 is not None:
            _text(self.xxh3, _XXH3, "xxh3", "16 hex digits")

    def to_json(self) -> dict[str, Any]:
        """Return the shard as a commit holds it."""
        return {
            "path": self.path,
            "format": self.format,
            "rows": self.rows,
            "bytes": self.bytes,
            "xxh3": self.xxh3,
            "block_rows": self.block_rows,
        }

    @classmethod
    def from_json(cls, given: object) -> Shard:
        """Return the shard that a commit describes."""
        if not isinstance(given, Mapping):
            raise BadData(f"a shard is a JSON object, not {str(given)[:80]!r}")
        names = ("path", "format", "rows", "bytes", "xxh3", "block_rows")
        if missing := [name for name in names if name not in given]:
            raise BadData(f"the shard {str(given.get('path'))[:80]!r} lacks {', '.join(missing)}")
        return cls(**{name: given[name] for name in names})


def check_unique(paths: Iterable[str]) -> None:
    """Refuse a list in which a path stands twice."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise BadData("the shard is listed twice, so its rows would be delivered twice", shard=path)
        seen.add(path)


def check_metadata(metadata: object) -> dict[str, Any]:
    """Return the metadata as JSON would give it back, refusing what JSON cannot say."""
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise BadRequest(f"metadata: {str(metadata)[:80]!r} is not a mapping of names to JSON values")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"metadata: {str(metadata)[:80]!r} cannot be written as JSON: {error}") from None
    if len(text) > MAX_METADATA_BYTES:
        raise BadRequest(f"metadata: {len(text)} bytes of JSON are more than the {MAX_METADATA_BYTES} a commit may carry; store them as a column")
    copied: dict[str, Any] = json.loads(text)
    return copied


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What one commit says.

    Attributes:
        version: the version it makes, counted from 1.
        parent: the version it was made from, or None for the first.
        time: when, in RFC 3339, UTC.
        operation: `"create"`, `"append"`, `"overwrite"` or `"adopt"`.
        schema: all columns, after this commit.
        metadata: all metadata, after this commit, such as `{"class_names": {"label": ["cat", "dog"]}}`.
        added: shards that this commit puts behind those that stand.
        removed: paths of shards that it takes away; the files stay for readers of older versions.
        job: the conversion or ingestion that made it, or None.
        offset: where the source stood, for ingestion, or None.
        format_version: of the commit's own format.
    """

    version: int
    parent: int | None
    time: str
    operation: str
    schema: Schema
    metadata: dict[str, Any]
    added: tuple[Shard, ...]
    removed: tuple[str, ...] = ()
    job: str | None = None
    offset: Any = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse numbers out of range, an unknown operation, and a shard that stands twice."""
        if self.format_version != FORMAT_VERSION:
            raise BadData(f"format version {str(self.format_version)[:40]!r} is not {FORMAT_VERSION}; a newer Penstock wrote it: upgrade")
        _count(self.version, "version", 2**63 - 1, least=1)
        if self.parent is not None or self.version != 1:
            _count(self.parent, "parent", self.version - 1, least=1)
        _text(self.time, _TIME, "time", "RFC 3339 in UTC, such as 2025-01-31T12:00:00Z")
        if self.operation not in OPERATIONS:
            raise BadData(f"operation {str(self.operation)[:40]!r} is unknown; there are {', '.join(OPERATIONS)}")
        if not self.schema:
            raise BadData(f"version {self.version} has no columns")
        if max(len(self.added), len(self.removed)) > MAX_SHARDS:
            raise BadData(f"{max(len(self.added), len(self.removed))} shards are more than the {MAX_SHARDS} a commit may list")
        check_unique(shard.path for shard in self.added)
        check_unique(check_path(path) for path in self.removed)
        if both := {shard.path for shard in self.added}.intersection(self.removed):
            raise BadData(f"{len(both)} shards are both added and removed", shard=min(both))
        if self.job is not None:
            _text(self.job, _JOB, "job", "a name of 1 to 256 characters")

    def to_json(self) -> bytes:
        """Return the file's bytes; equal commits give equal bytes."""
        head = {
            "format_version": self.format_version,
            "version": self.version,
            "parent": self.parent,
            "time": self.time,
            "operation": self.operation,
            "job": self.job,
            "offset": self.offset,
            "metadata": self.metadata,
            "schema": schema_to_json(self.schema),
            "removed": list(self.removed),
        }
        lines = [f'"{key}": {_dumps(value)}' for key, value in head.items()]
        shards = ",\n".join(_dumps(shard.to_json()) for shard in self.added)
        lines.append(f'"added": [\n{shards}\n]' if shards else '"added": []')
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        """Return the commit that a file holds.

        Raises:
            BadData: the file is not a commit, or one that this Penstock must not follow. Keys it does not know are passed over: a
                change of meaning comes with a new format version.
        """
        given = parse_json(data)
        if not isinstance(given, dict):
            raise BadData(f"a commit is a JSON object, not {str(given)[:80]!r}")
        if given.get("format_version") != FORMAT_VERSION:
            raise BadData(f"format version {str(given.get('format_version'))[:40]!r} is not {FORMAT_VERSION}; a newer Penstock wrote it: upgrade")
        names = ("version", "parent", "time", "operation", "job", "offset", "metadata", "schema", "removed", "added")
        if missing := [name for name in names if name not in given]:
            raise BadData(f"the commit lacks {', '.join(missing)}")
        for name in ("removed", "added"):
            if not isinstance(given[name], list) or len(given[name]) > MAX_SHARDS:
                raise BadData(f"{name!r} is not a list of at most {MAX_SHARDS} shards")
        try:
            metadata = check_metadata(given["metadata"])
        except BadRequest as error:
            raise BadData(str(error)) from None
        return cls(
            **{name: given[name] for name in ("version", "parent", "time", "operation", "job", "offset")},
            metadata=metadata,
            schema=schema_from_json(given["schema"]),
            removed=tuple(given["removed"]),
            added=tuple(map(Shard.from_json, given["added"])),
        )


_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode  # made once: `json.dumps` makes one in every call


def parse_json(data: bytes) -> Any:
    """Return the value of JSON text in which no key stands twice and no number is infinite.

    Raises:
        BadData: it is not that.
    """
    try:
        return json.loads(data, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not JSON: {error}") from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadData(f"a key stands twice among {[key for key, _ in pairs][:20]}")
    return made


def _no_constant(name: str) -> Any:
    raise BadData(f"{name} is not a number in JSON")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A dataset at one version.

    Attributes:
        root: the dataset's folder.
        version: the version, or 0 for foreign files that were opened without being published.
        schema: all columns.
        metadata: what the dataset's maker noted, such as class names.
        shards: in the order of their rows.
        stamps: the times, in ns, of the foreign files that were not hashed, in order: what tells one from another of equal size and rows.
        starts: `[shards + 1]`, the first row of each shard and, last, the number of rows.
        block_rows: `[shards]`, the rows of each one's blocks; 0 where they differ.
        formats: those that a shard has.
        bytes: the size of all shards together.
        digest: 32 hex digits that change when a column, a shard or their order does, and not with time or place. Of foreign files that were not hashed
            nothing is known but their sizes, rows and times, so there the times count.
    """

    root: str
    version: int
    schema: Schema
    metadata: dict[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    stamps: tuple[int, ...] = ()
    starts: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    block_rows: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    formats: frozenset[str] = field(init=False, repr=False, compare=False)
    bytes: int = field(init=False, repr=False, compare=False)
    digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a shard that stands twice, and more shards or rows than a version may have; make what is asked of all shards at once."""
        if len(self.shards) > MAX_SHARDS:
            raise BadData(f"{len(self.shards)} shards are more than the {MAX_SHARDS} a version may have; use larger shards", path=self.root)
        check_unique(shard.path for shard in self.shards)
        rows = [shard.rows for shard in self.shards]
        if (total := sum(rows)) > MAX_TOTAL_ROWS:
            raise BadData(f"{total} rows are more than the {MAX_TOTAL_ROWS} that an order can number; divide them into datasets", path=self.root)
        made = {
            "starts": np.cumsum([0, *rows], dtype=np.int64),
            "block_rows": np.array([shard.block_rows for shard in self.shards], np.int64),
            "formats": frozenset([shard.format for shard in self.shards]),
            "bytes": sum([shard.bytes for shard in self.shards]),
            "digest": _digest(self.schema, self.shards, self.stamps),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @property
    def rows(self) -> int:
        """How many rows the dataset has."""
        return int(self.starts[-1])


def _digest(schema: Schema, shards: tuple[Shard, ...], stamps: tuple[int, ...]) -> str:
    hasher = xxhash.xxh3_128(_dumps(schema_to_json(schema)).encode())
    for first in range(0, len(shards), _HASHED):
        hasher.update("".join([_told(shard) for shard in shards[first : first + _HASHED]]).encode())
    for stamp in stamps:
        hasher.update(b"%d " % stamp)
    return hasher.hexdigest()


def _told(shard: Shard) -> str:
    """Return `_dumps` of what tells a shard, at a fifth of its cost: only a path can hold what JSON writes in another way."""
    xxh3 = "null" if shard.xxh3 is None else f'"{shard.xxh3}"'
    return f'[{_dumps(shard.path)}, "{shard.format}", {shard.rows}, {shard.bytes}, {xxh3}]'
