"""Reads every byte of a dataset and names what is not as it was written: the shard, and in it the first bad row of each bad block.

Per shard, in this order: the file is there and has its size; its XXH3 is the one in the manifest; each block's own checksums (Arrow blocks and
their rows, and tar samples, have them if we wrote or hashed them) and its structure: offsets, counts, text in UTF-8, numbers and arrays in a
tar, whose index is compared with a new scan. A file whose XXH3 is wrong though all blocks are right was changed outside them, and is named
without a row.

Must never: repair, or stop at the first problem. Cost: two reads of each file, the second from the page cache; memory of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from ..errors import BadData, BadRequest, StorageError
from . import commits
from .adopt import adopt
from .formats import open_reader
from .manifest import Manifest, Shard
from .storage import guard, inside

_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it was written.

    Attributes:
        shard: the shard's path inside its dataset.
        row: the first bad row of the block, counted in the shard, or None when no row is at fault, or which one cannot be told.
        field: the column, or None when it is not certain.
        reason: what is wrong and what to do.
        dataset_row: the same row, counted in the dataset, or None.
    """

    shard: str
    row: int | str | None
    field: str | None
    reason: str
    dataset_row: int | None = None


def verify(path: str, version: int | None = None) -> Iterator[Problem]:
    """Yield what is wrong with a dataset, shard by shard; nothing when all is well.

    Args:
        path: a dataset of ours, or a file, folder or brace pattern of foreign shards.
        version: the version to verify; the newest unless given.

    Raises:
        NotADataset: there is nothing to verify.
        BadRequest: there is no such version.
        BadData: the manifest itself is damaged.
    """
    own = commits.is_dataset(path)
    if own:
        manifest = commits.load(path, version)
    elif version is not None:
        raise BadRequest(f"version: {version!r} of {path}: foreign files have no versions; publish them with `penstock index` first")
    else:
        try:
            manifest = adopt(path, hash=False, publish=False)
        except BadData as error:
            yield _problem(error, path)
            return
    for shard, start in zip(manifest.shards, manifest.starts.tolist(), strict=False):  # the last start is behind the last shard
        for problem in verify_shard(manifest, shard, follow_links=not own):
            yield replace(problem, dataset_row=start + problem.row) if isinstance(problem.row, int) else problem


def verify_shard(manifest: Manifest, shard: Shard, *, follow_links: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with one shard, its rows counted in the shard alone."""
    found: list[Problem] = []
    try:
        path = inside(Path(manifest.root), shard.path, follow_links=follow_links)
        told = _file_problem(path, shard)
        found.extend(_block_problems(manifest, shard, follow_links=follow_links))
    except BadData as error:
        found.append(_problem(error, shard.path))
        told = None
    except StorageError as error:
        found.append(Problem(shard=shard.path, row=None, field=None, reason=error.message))
        told = None
    yield from found or ([told] if told is not None else [])


def _file_problem(path: Path, shard: Shard) -> Problem | None:
    """Return what the file's checksum says."""
    if shard.xxh3 is None:
        return None
    hasher = xxhash.xxh3_64()
    with guard(path, "read the shard"), path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    if hasher.hexdigest() == shard.xxh3:
        return None
    reason = f"the file has checksum {hasher.hexdigest()} where {shard.xxh3} was written: it has changed; restore it"
    return Problem(shard=shard.path, row=None, field=None, reason=reason)


def _block_problems(manifest: Manifest, shard: Shard, *, follow_links: bool) -> Iterator[Problem]:
    """Yield the first bad row of each block."""
    reader = open_reader(manifest.root, shard, manifest.schema, follow_links=follow_links)
    try:
        for number in range(len(reader.block_starts) - 1):
            try:
                reader.check(number)  # first, since it tells the row best
                reader.block(number)
            except BadData as error:
                yield _problem(error, shard.path)
    finally:
        reader.close()


def _problem(error: BadData, shard: str) -> Problem:
    return Problem(shard=error.shard or shard, row=error.row, field=error.field, reason=error.reason)
