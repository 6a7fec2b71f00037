"""Which foreign files a source stands for, and what one of them holds. Nothing is written, but for the index of a tar.

A source is a file, a folder of shards (its own files, not those of folders inside it; of a folder made by datasets' `save_to_disk` the files
that its `state.json` names), or a brace pattern. All files of a source are of one format; their order is the pattern's, or that of the names.

Must never: guess past a mistake. A pattern with a missing file, a folder of two formats, and an empty folder are refused by name.
Cost: one `stat` a file; to describe a file, its footer or headers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ..errors import BadData, BadRequest, NotADataset
from ..fields import Schema
from .arrow import ArrowFile
from .hf import class_names, data_files, schema_of
from .parquet import ParquetFile
from .patterns import expand, is_pattern
from .storage import guard, local_path
from .tarkeep import load
from .tarnames import Facts

_FORMATS = {
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".arrows": "arrow",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tar": "tar",
}
_KNOWN = ", ".join(_FORMATS)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a source.

    Attributes:
        root: the folder that holds them all.
        paths: where they are inside it, in POSIX form and in order.
        format: `"arrow"`, `"tar"` or `"parquet"`.
        stamps: per file its size and its time in ns, by which a change is noticed.
    """

    root: Path
    paths: tuple[str, ...]
    format: str
    stamps: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one file holds.

    Attributes:
        block_rows: the rows of each of its blocks, in order.
        schema: the columns that have a field type.
        refused: why the others have none, by name.
        facts: for a tar, what each column's files show; the fields follow from those of all tars together.
        class_names: names of classes that the file itself notes, by column.
    """

    block_rows: tuple[int, ...]
    schema: Schema
    refused: dict[str, str]
    facts: dict[str, Facts]
    class_names: dict[str, list[str]]


def find(source: str) -> Files:
    """Return the files that a source stands for.

    Raises:
        NotADataset: a file is missing, or a folder holds no shard.
        BadRequest: the source is a URL, a broken pattern, or of more than one format.
        StorageError: a folder cannot be read.
    """
    path = local_path(source)
    if is_pattern(source) and not os.path.lexists(path):
        files = [local_path(name) for name in expand(source)]
    elif path.is_dir():
        files = _in_folder(path)
    else:
        files = [path]
    missing = [file for file in files if not os.path.lexists(file)]
    if missing:
        raise NotADataset(f"{source}: {missing[0]} does not exist ({len(missing)} of {len(files)} files are missing); check the path or the pattern")
    formats = {format_of(file) for file in files}
    if len(formats) > 1:
        raise BadRequest(f"{source} holds files of {len(formats)} formats, {' and '.join(sorted(formats))}; give a pattern that names one kind")
    if len(set(files)) != len(files):
        raise BadRequest(f"{source} names a file twice, so its rows would be delivered twice")
    root = Path(os.path.commonpath([file.parent for file in files]))
    stamps = []
    for file in files:
        with guard(file, "look at the file"):
            stat = file.stat()
        stamps.append((stat.st_size, stat.st_mtime_ns))
    return Files(root=root, paths=tuple(file.relative_to(root).as_posix() for file in files), format=formats.pop(), stamps=tuple(stamps))


def format_of(path: Path) -> str:
    """Return the shard format that a file's name says."""
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise BadRequest(f"{path} is not a shard by its name; there are {_KNOWN} (a compressed tar must be decompressed first)")
    return found


def _in_folder(folder: Path) -> list[Path]:
    if (named := data_files(folder)) is not None:
        return [folder / name for name in named]
    with guard(folder, "list the folder"):
        entries = sorted(folder.iterdir())
    files = [entry for entry in entries if entry.suffix.lower() in _FORMATS and not entry.name.startswith((".", "_")) and entry.is_file()]
    if files:
        return files
    inner = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "_"))]
    hint = f"; its folders are {', '.join(inner[:10])}: give one of them" if inner else ""
    raise NotADataset(f"{folder} holds no dataset and no shard ({_KNOWN}){hint}")


def describe(path: Path, format: str, *, hashed: bool) -> Contents:  # noqa: A002 (Shard's own word)
    """Return what a file holds; builds and keeps the index of a tar, with checksums when `hashed`.

    Raises:
        BadData: the file is damaged.
        StorageError: it cannot be read.
    """
    if format == "tar":
        index = load(path, hashed=hashed)
        return Contents(block_rows=(index.rows,), schema=index.schema(), refused={}, facts=index.facts, class_names={})
    file = ArrowFile(path) if format == "arrow" else ParquetFile(path)
    try:
        rows = file.rows_of_batches() if isinstance(file, ArrowFile) else file.rows_of_groups
        schema, refused = _fields(file.schema)
        return Contents(block_rows=tuple(rows), schema=schema, refused=refused, facts={}, class_names=class_names(file.schema))
    except BadData as error:
        raise error.at(path=path) from None
    finally:
        file.close()


def _fields(arrow: pa.Schema) -> tuple[Schema, dict[str, str]]:
    schema: Schema = {}
    refused: dict[str, str] = {}
    if len(set(arrow.names)) != len(arrow.names):
        raise BadData(f"two columns share a name: {arrow.names}")
    for name in arrow.names:
        try:
            schema.update(schema_of(arrow, [name]))
        except BadData as error:
            refused[name] = error.reason
    return schema, refused


def merge(source: str, files: Files, contents: Sequence[Contents]) -> tuple[Schema, dict[str, str], dict[str, list[str]]]:
    """Return the columns, those refused, and the class names that all files agree on.

    Raises:
        BadData: a file's columns or class names are not those of the first.
    """
    first = contents[0]
    facts = dict(first.facts)
    for path, other in zip(files.paths[1:], contents[1:], strict=True):
        missing, extra = _unlike({**first.schema, **first.refused}, {**other.schema, **other.refused})
        if missing or extra:
            reason = f"its columns are not those of {files.paths[0]}: missing {missing}, extra {extra}; all shards of a dataset have the same"
            raise BadData(reason, path=source, shard=path)
        try:
            facts = {name: facts[name].merge(other.facts[name]) for name in facts}
        except BadData as error:
            raise error.at(path=source, shard=path) from None
        for name, field in first.schema.items():
            if not facts and other.schema.get(name) != field:
                reason = (
                    f"it is {other.schema.get(name, 'of no field type')} here and {field} in {files.paths[0]}; all shards of a dataset have the same"
                )
                raise BadData(reason, path=source, shard=path, field=name)
        if other.class_names != first.class_names:
            raise BadData(
                f"its class names are not those of {files.paths[0]}; label {min(other.class_names, default='')!r} would be mixed up",
                path=source,
                shard=path,
            )
    schema = {name: fact.field() for name, fact in facts.items()} if facts else first.schema
    return schema, first.refused, first.class_names


def _unlike(first: dict[str, object], other: dict[str, object]) -> tuple[list[str], list[str]]:
    return sorted(set(first) - set(other)), sorted(set(other) - set(first))
