"""Makes foreign tar, Arrow and Parquet files a dataset where they lie. No file of theirs is rewritten.

Published (`penstock index`), the files are hashed and committed in the folder that holds them. Opened directly (`Dataset("x-{0..9}.tar")`),
what was found is kept as one JSON file in `_penstock/adopted/` of that folder or, where that cannot be written, in the user's cache folder; it
serves again as long as each file has its size and time. Two processes that do this at once write the same bytes, each whole.

Must never: believe a kept file without looking at the sizes and times, or leave a column out unasked.
Cost: first time, the footer or headers of each file (and all bytes when hashing); later, one `stat` a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from ..errors import AlreadyExists, BadData, BadRequest, StorageError
from ..fields import Schema, schema_from_json, schema_to_json
from . import commits
from .foreign import Contents, Files, describe, find, merge
from .manifest import Manifest, Shard, check_metadata, parse_json
from .storage import atomic_write, local_path, make_folder, map_file, read_file
from .tarkeep import cache_folder, unwritable

ADOPTED = "_penstock/adopted"
"""Where in a foreign folder what was found is kept."""

_VERSION = 1
_MAX_KEPT_BYTES = 1 << 30
_PIECE_BYTES = 64 << 20


def adopt(source: str, *, hash: bool, publish: bool, append: bool = False, columns: Sequence[str] | None = None) -> Manifest:  # noqa: A002 (what it does, in one word)
    """Return foreign files as a dataset.

    Args:
        source: a file, a folder or a brace pattern of tar, Arrow or Parquet files.
        hash: read everything, for checksums.
        publish: commit the result in the folder that holds the files; else keep it beside them or in the cache, as version 0.
        append: when publishing, add the files that are not yet in the dataset that is already there.
        columns: what will be read. A file may then have others that no field type holds; published, only these are columns.

    Raises:
        NotADataset: there is no such file, or nothing that could be a shard.
        AlreadyExists: publishing without `append` where a dataset is.
        BadData: a file is damaged, its columns are not those of the others, or a wanted column has no field type.
        BadRequest: the source is a URL, a broken pattern, or of several formats.
        StorageError: a file cannot be read, or publishing cannot write.
    """
    files = find(source)
    if publish:
        return _publish(source, files, hashed=hash, append=append, columns=columns)
    key = xxhash.xxh3_64_hexdigest(str(local_path(source)).encode("utf-8", "surrogateescape"))
    places = [files.root / ADOPTED / f"{key}.json", cache_folder() / "adopted" / f"{key}.json"]
    for place in places:
        kept = _kept(place, files)
        if kept is not None and (not hash or all(shard.xxh3 for shard in kept[0].shards)):
            return _wanted(kept[0], kept[1], source, columns)
    manifest, refused = _look(source, files, hashed=hash)
    _keep(places, _to_bytes(source, files, manifest, refused))
    return _wanted(manifest, refused, source, columns)


def _publish(source: str, files: Files, *, hashed: bool, append: bool, columns: Sequence[str] | None) -> Manifest:
    there: set[str] = set()
    if commits.is_dataset(files.root):
        if not append:
            raise AlreadyExists(f"{files.root} is a dataset already; add new shards to it with --append (append=True)")
        there = {shard.path for shard in commits.load(files.root).shards}
    chosen = [number for number, path in enumerate(files.paths) if path not in there]
    if not chosen:
        raise BadRequest(f"{source}: all {len(files.paths)} files are in the dataset {files.root} already")
    new = Files(
        root=files.root,
        paths=tuple(files.paths[number] for number in chosen),
        format=files.format,
        stamps=tuple(files.stamps[number] for number in chosen),
    )
    manifest, refused = _look(source, new, hashed=hashed)
    manifest = _wanted(manifest, refused, source, columns)
    schema = manifest.schema if columns is None else {name: field for name, field in manifest.schema.items() if name in columns}
    return commits.commit(files.root, operation="adopt", schema=schema, added=manifest.shards, metadata=manifest.metadata)


def _look(source: str, files: Files, *, hashed: bool) -> tuple[Manifest, dict[str, str]]:
    """Return what the files hold, and why some columns are refused."""
    contents: list[Contents] = []
    shards: list[Shard] = []
    for path, (size, _) in zip(files.paths, files.stamps, strict=True):
        file = files.root / path
        try:
            found = describe(file, files.format, hashed=hashed)
        except BadData as error:
            raise error.at(path=source, shard=path) from None
        contents.append(found)
        if sum(found.block_rows):
            digest = _file_hash(file) if hashed else None
            shards.append(
                Shard(path=path, format=files.format, rows=sum(found.block_rows), bytes=size, xxh3=digest, block_rows=_equal(found.block_rows))
            )
    schema, refused, names = merge(source, files, contents)
    if not shards:
        raise BadData(f"none of its {len(files.paths)} files has a row", path=source)
    metadata = {"class_names": names} if names else {}
    stamps = _times(files, shards)
    return Manifest(root=str(files.root), version=0, schema=schema, metadata=metadata, shards=tuple(shards), stamps=stamps), refused


def _times(files: Files, shards: Sequence[Shard]) -> tuple[int, ...]:
    """Return the times of the files that were not hashed."""
    times = {path: time for path, (_, time) in zip(files.paths, files.stamps, strict=True)}
    return tuple(times[shard.path] for shard in shards if shard.xxh3 is None)


def _equal(block_rows: Sequence[int]) -> int:
    """Return the rows of each block but the last, or 0 when they differ."""
    first = block_rows[0]
    return first if all(rows == first for rows in block_rows[:-1]) and 0 < block_rows[-1] <= first else 0


def _file_hash(path: Path) -> str:
    hasher = xxhash.xxh3_64()
    data = map_file(path)
    for start in range(0, len(data), _PIECE_BYTES):
        hasher.update(data[start : start + _PIECE_BYTES].data)
    return str(hasher.hexdigest())


def _wanted(manifest: Manifest, refused: Mapping[str, str], source: str, columns: Sequence[str] | None) -> Manifest:
    """Return the manifest if every wanted column has a field type."""
    for name, reason in refused.items():
        if columns is None or name in columns:
            raise BadData(reason, path=source, field=name)
    if not manifest.schema:
        raise BadData(f"no column has a field type: {dict(refused)}", path=source)
    return manifest


def _to_bytes(source: str, files: Files, manifest: Manifest, refused: Mapping[str, str]) -> bytes:
    kept = {
        "version": _VERSION,
        "source": source,
        "files": [[path, *stamp] for path, stamp in zip(files.paths, files.stamps, strict=True)],
        "schema": schema_to_json(manifest.schema),
        "refused": dict(refused),
        "metadata": manifest.metadata,
        "shards": [shard.to_json() for shard in manifest.shards],
    }
    return json.dumps(kept).encode()


def _kept(place: Path, files: Files) -> tuple[Manifest, dict[str, str]] | None:
    """Return what is kept in `place` if it is of these files as they are now; damage and age are the same: it is made again."""
    try:
        kept: Any = parse_json(read_file(place, cap_bytes=_MAX_KEPT_BYTES))
        if kept["version"] != _VERSION or kept["files"] != [[path, *stamp] for path, stamp in zip(files.paths, files.stamps, strict=True)]:
            return None
        shards = tuple(map(Shard.from_json, kept["shards"]))
        if not {shard.path for shard in shards} <= set(files.paths) or any(shard.format != files.format for shard in shards):
            return None
        schema: Schema = schema_from_json(kept["schema"]) if kept["schema"] else {}
        refused = {str(name): str(reason) for name, reason in kept["refused"].items()}
        metadata, stamps = check_metadata(kept["metadata"]), _times(files, shards)
        return Manifest(root=str(files.root), version=0, schema=schema, metadata=metadata, shards=shards, stamps=stamps), refused
    except (StorageError, BadData, BadRequest, KeyError, TypeError, AttributeError):
        return None


def _keep(places: Sequence[Path], data: bytes) -> None:
    for place in places:
        try:
            make_folder(place.parent)
            atomic_write(place, data)
        except StorageError as error:
            if not unwritable(error):
                raise
        else:
            return
