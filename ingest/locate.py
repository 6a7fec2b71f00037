"""Finds the files of a source and tells what kind of source it is. Looks at names, and at nothing inside the files but a magic number.

A folder is walked depth first in the order of its names' bytes, so the order of rows does not depend on the file system. Links to folders are
followed; one that leads back to a folder on its own path is refused, since the walk would never end. Hidden files are passed over. When
files of several kinds lie together the caller must choose: refused is guessing by majority, which loses the minority silently.
"""

from __future__ import annotations

import errno
import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadData, BadRequest, NotADataset
from ..shards.hf import data_files
from ..shards.patterns import expand, is_pattern
from ..shards.storage import guard, local_path, translate
from .source import Files

SUFFIXES: dict[str, tuple[str, ...]] = {
    "images": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    "tar": (".tar",),
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv"),
    "jsonl": (".jsonl", ".ndjson"),
    "arrow": (".arrow", ".feather", ".ipc", ".arrows"),
    "numpy": (".npy", ".npz"),
}
"""The names by which a kind of file is known."""

KINDS = (*SUFFIXES, "files", "hf", "penstock")
"""Every kind of source, as `--from` takes it."""

_LATE = {".json": "jsonl"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tgz", ".7z", ".lz4")


@dataclass(frozen=True, kw_only=True)
class Located:
    """A source: its kind and its files."""

    kind: str
    files: Files


def locate(source: str, kind: str | None = None) -> Located:
    """Return the kind and the files of a source: a file, a folder, a glob (`*.csv`) or a brace pattern (`{000..009}.tar`).

    Raises:
        NotADataset: there is nothing there.
        BadRequest: it is empty, ambiguous, or of no known kind.
        StorageError: it cannot be looked at, because of its name or a folder on the way.
    """
    if kind is not None and kind not in KINDS:
        raise BadRequest(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    path = local_path(source)
    there = leads_somewhere(path, "look at the source")
    if there and path.is_dir():
        return _folder(path, kind)
    if there:
        return _chosen(source, str(path.parent), [os.fsencode(path.name)], kind)
    if is_pattern(source) or glob.has_magic(source):
        found = _matching(str(path))
        if not found:
            raise NotADataset(f"{source}: the pattern matches no file; check it, and quote it so that the shell does not expand it")
        root = os.path.commonpath([os.path.dirname(name) for name in found])  # noqa: PTH120 - names as text: a million of them
        names = [os.fsencode(os.path.relpath(name, root)) for name in found]
        if kind == "files":  # named one by one: none of them is passed over
            return Located(kind=kind, files=Files.of(root, names))
        return _chosen(source, root, names, kind)
    if path.is_symlink():
        raise NotADataset(f"{source}: is a link to {path.readlink()}, which does not exist or leads back to itself")
    raise NotADataset(f"{source}: no such file or folder; give a file, a folder, or a pattern such as 'raw/*.csv'")


def leads_somewhere(path: Path, doing: str) -> bool:
    """Whether a path leads to a file or folder.

    Raises:
        StorageError: nobody can tell, because of its name or a folder on the way.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise translate(error, path, doing) from error
        return False
    return True


def _matching(pattern: str) -> list[str]:
    """Return the files of a brace and glob pattern, each once, in order; a name without a star must exist."""
    found: dict[str, None] = {}
    for name in expand(pattern):
        hits = sorted((n for n in glob.iglob(name, recursive=True) if os.path.isfile(n)), key=os.fsencode)  # noqa: PTH113, PTH207 - names as text: a million of them
        if not hits and not glob.has_magic(name) and is_pattern(pattern):
            raise NotADataset(f"{pattern}: {name} does not exist; check the range")
        found.update(dict.fromkeys(hits))
    return list(found)


def _folder(root: Path, kind: str | None) -> Located:
    if kind == "penstock" or (kind is None and (root / "_penstock" / "commits").is_dir()):
        return Located(kind="penstock", files=Files.of(str(root), []))
    if (root / "dataset_dict.json").is_file() and kind in (None, "hf"):
        names = sorted(p.parent.name for p in root.glob("*/state.json"))
        raise BadRequest(
            f"{root}: a Hugging Face DatasetDict with the splits {', '.join(names)}; convert one at a time, e.g. {root / (names or ['train'])[0]}"
        )
    if kind in (None, "hf") and (data := data_files(root)) is not None:
        return Located(kind="hf", files=Files.of(str(root), [os.fsencode(name) for name in data]))
    return _chosen(str(root), str(root), list(_walk(os.fsencode(root), b"", ())), kind)


def _chosen(source: str, root: str, names: list[bytes], kind: str | None) -> Located:
    """Return the files of the kind that was asked for, or of the only kind there is."""
    if not names:
        raise BadRequest(f"{source}: the folder is empty; there is nothing to convert")
    kinds = [_kind_of(name) for name in names]
    if kind is None:
        kind = _only_kind(source, names, kinds)
    wanted = "arrow" if kind == "hf" else kind
    kept = [name for name, of in zip(names, kinds, strict=True) if of == wanted]
    if kind == "files":
        same = [name for name, of in zip(names, kinds, strict=True) if of == "images"]
        kept = same if same and len({of for of in kinds if of is not None}) == 1 else names
    if not kept and len(names) == 1:
        kept = names
    if not kept:
        raise BadRequest(f"{source}: none of its {len(names)} files looks like {kind} ({', '.join(SUFFIXES[wanted])}); name the files with a glob")
    if kind == "images" and all(b"/" not in name for name in kept):
        kind = "files"
    return Located(kind=kind, files=Files.of(root, kept))


def _kind_of(name: bytes) -> str | None:
    lower = os.fsdecode(name).lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if lower.endswith(suffixes)), None)


def _only_kind(source: str, names: list[bytes], kinds: list[str | None]) -> str:
    found = Counter(kind for kind in kinds if kind is not None)
    if len(found) == 1:
        return next(iter(found))
    if found:
        counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(found.items()))
        raise BadRequest(f"{source}: several kinds of files lie together ({counts}); choose one with --from (kind=), or name the files with a glob")
    suffixes = Counter(os.path.splitext(os.fsdecode(name).lower())[1] or "no suffix" for name in names)  # noqa: PTH122 - names as text: a million of them
    if set(suffixes) & set(_LATE):
        return next(kind for suffix, kind in _LATE.items() if suffix in suffixes)
    if packed := next((suffix for suffix in suffixes if suffix in _COMPRESSED), None):
        raise BadRequest(f"{source}: {suffixes[packed]} files end in {packed!r}; unpack them first, compressed files cannot be cut into parts")
    shown = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(5))
    raise BadRequest(f"{source}: no file of a known kind among {len(names)} ({shown}); force one with --from (kind=): {', '.join(KINDS)}")


def _walk(root: bytes, inside: bytes, above: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Yield the relative paths of the files below a folder, depth first, by the order of names' bytes."""
    folder = os.path.join(root, inside) if inside else root  # noqa: PTH118 - names as bytes, which need not be UTF-8
    with guard(os.fsdecode(folder), "list the folder"):
        stat = os.stat(folder)  # noqa: PTH116 - names as bytes, which need not be UTF-8
        with os.scandir(folder) as listing:
            entries = sorted((entry.name, entry.is_dir()) for entry in listing)
    me = (stat.st_dev, stat.st_ino)
    if me in above:
        raise BadData("a symbolic link that leads back to a folder it lies in: the walk would never end; remove the link", path=os.fsdecode(folder))
    for name, is_folder in entries:
        if name.startswith(b".") or name in (b"_penstock", b"__MACOSX"):
            continue
        relative = os.path.join(inside, name) if inside else name  # noqa: PTH118 - names as bytes, which need not be UTF-8
        if is_folder:
            yield from _walk(root, relative, (*above, me))
        else:
            yield relative
