"""Finds the index of a tar, or builds it once and keeps it: beside the tar, or in the user's cache folder where that cannot be written.

The index of a shard of ours is written with the shard; one that does not fit is damage and reported. The index of a foreign tar also holds
the tar's time; one of another size or time, or one that is damaged, is built again. Two processes that build at once each publish whole
files with the same bytes, so it does not matter who is last.

Must never: replace a file beside a foreign tar that is not an index of ours (other tools use the same ending).
Cost: two `stat` and one map when the index is there.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import xxhash

from ..errors import BadData, StorageError
from .storage import atomic_write, guard, make_folder, map_file
from .tarindex import TarIndex, build, from_bytes, to_bytes

_MAX_INDEX_BYTES = 1 << 34
_OURS = re.compile(r"part-\d{20}-\d{5,}-[^/]*\.tar")
_UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG})


def index_path(tar: Path) -> Path:
    """Return where a tar's index stands beside it."""
    return tar.with_name(f"{tar.name}.idx")


def cache_folder() -> Path:
    """Return the user's cache folder for what cannot be kept beside the data."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "penstock"


def _cached_path(tar: Path, stat: os.stat_result) -> Path:
    name = xxhash.xxh3_64_hexdigest(f"{tar.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return cache_folder() / "index" / f"{name}.idx"


def load(tar: Path, *, hashed: bool = False) -> TarIndex:
    """Return the index of a tar: the one beside it, the one in the cache, or a new one that is kept for the next time.

    Args:
        tar: the tar.
        hashed: build it anew when it has no checksums.

    Raises:
        BadData: the tar is damaged; or it is a shard of ours and the index beside it is.
        StorageError: the tar cannot be read.
    """
    with guard(tar, "look at the tar"):
        stat = tar.stat()
    cached = _cached_path(tar, stat)
    foreign = _OURS.fullmatch(tar.name) is None
    for place in (index_path(tar), cached):
        index = _kept(place, tar, stat, foreign=foreign or place == cached)
        if index is not None and (index.hashes is not None or not hashed):
            return index
    data = map_file(tar)
    try:
        index = build(data, hashed=hashed, mtime_ns=stat.st_mtime_ns)
    except BadData as error:
        raise error.at(path=tar) from None
    _keep(index, tar, cached)
    return index


def _kept(place: Path, tar: Path, stat: os.stat_result, *, foreign: bool) -> TarIndex | None:
    """Return the index in `place` if it is there and fits; one of ours that does not is reported, a foreign one is passed over."""
    try:
        if not 0 < place.stat().st_size <= _MAX_INDEX_BYTES:
            raise BadData(f"the index has {place.stat().st_size} bytes")  # noqa: TRY301 (one place adds the remedy)
        index = from_bytes(map_file(place))
        if index.tar_bytes != stat.st_size:
            raise BadData(f"the index is of a tar of {index.tar_bytes} bytes and {tar.name} has {stat.st_size}")  # noqa: TRY301 (one place adds the remedy)
    except (FileNotFoundError, StorageError):
        return None
    except BadData as error:
        if foreign:
            return None
        raise BadData(f"{error.reason}; delete the index and it is built again from the tar", path=place, row=error.row, field=error.field) from None
    return index if index.tar_mtime_ns in {None, stat.st_mtime_ns} else None


def _keep(index: TarIndex, tar: Path, cached: Path) -> None:
    """Put an index beside its tar, or else into the cache; where neither can be written it lives as long as its reader."""
    data = to_bytes(index)
    beside = index_path(tar)
    if not beside.exists() or _is_index(beside):
        try:
            atomic_write(beside, data)
        except StorageError as error:
            if not unwritable(error):
                raise
        else:
            return
    try:
        make_folder(cached.parent)
        atomic_write(cached, data)
    except StorageError as error:
        if not unwritable(error):
            raise


def _is_index(place: Path) -> bool:
    """Return whether a file is an index of ours, whatever its state: it begins as Arrow files do."""
    with guard(place, "read the index"), place.open("rb") as file:
        return file.read(6) == b"ARROW1"


def unwritable(error: StorageError) -> bool:
    """Return whether a place cannot be written, so that another one should be tried."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _UNWRITABLE
