"""Where shards grow before they are published, and how what a dead writer left is found and removed.

A writer owns `_penstock/tmp/<unique>/` and holds an `flock` on `_penstock/tmp/<unique>.lock` as long as it lives. The kernel frees the lock
when the process ends, however it ends; so a folder whose lock can be taken has no owner, and the next writer removes it. `place` then moves
closed shards to `data/` under names nobody has used.

Must never: remove a folder whose owner lives, or leave one behind when its owner is done.
Cost: one open file a writer; a sweep is one `flock` for each folder there.
Refused: process ids and ages as signs of death, which lie across containers and slow disks. A writer killed between moving its files and
committing them leaves files in `data/` that no version names: they cost space, nobody sees them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from ..errors import StorageError
from .manifest import Shard
from .shardwriter import ShardStats
from .storage import guard, make_folder, remove_tree

STAGING = "_penstock/tmp"
"""Where in a dataset the shards of living writers grow."""

DATA = "data"
"""Where in a dataset published shards lie."""

_SIDE_FILES = (".idx", "")
"""What lies beside a shard, then the shard itself.

Moving goes in this order, so that where a move was cut a tar is not yet there without its index. Removing goes in it too: nobody reads a shard that
no version names, so it needs no index, and what a cut leaves is the tar and not a file that belongs to none.
"""


class Staging:
    """One writer's folder.

    Attributes:
        root: the dataset's folder.
        path: the writer's own folder.
    """

    def __init__(self, root: Path) -> None:
        """Sweep what dead writers left, then make a folder and hold its lock."""
        self.root = root
        self._made_root = not root.exists()
        unique = secrets.token_hex(8)
        self.path = root / STAGING / unique
        self._lock_path = root / STAGING / f"{unique}.lock"
        make_folder(root / STAGING)
        sweep(root)
        self._lock = self._hold()
        try:
            make_folder(self.path)
        except StorageError:
            self.close()
            raise

    def _hold(self) -> int:
        for _ in range(100):
            make_folder(self._lock_path.parent)  # a writer that made the dataset and gave up may just have removed it
            with guard(self._lock_path, "make the lock"):
                try:
                    descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:
                    continue
            held = False
            try:
                with guard(self._lock_path, "hold the lock"):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    held = self._is_mine(descriptor)
            finally:
                if not held:
                    os.close(descriptor)
            if held:
                return descriptor  # else a sweep took it for a dead writer's before it was locked
        raise StorageError("cannot make a staging folder: it was swept away 100 times; is the clock of the file server right?", url=self._lock_path)

    def _is_mine(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Remove the folder and free the lock, and the dataset's own folder if this writer made it and nothing is in it. Twice is fine."""
        if self._lock < 0:
            return
        remove_tree(self.path)
        with contextlib.suppress(OSError):  # what stays is swept by the next writer
            self._lock_path.unlink()
        os.close(self._lock)
        self._lock = -1
        if self._made_root:
            with contextlib.suppress(OSError):  # the first folder that is not empty ends it
                for folder in (self.root / DATA, self.root / STAGING, self.root / "_penstock" / "commits", self.root / "_penstock", self.root):
                    if folder.exists():
                        folder.rmdir()


def sweep(root: Path) -> list[str]:
    """Remove the staging folders whose owners are dead; return their names."""
    folder = root / STAGING
    try:
        names = os.listdir(folder)  # noqa: PTH208 (names are all that is needed)
    except OSError:  # nothing has been staged here, or it cannot be read: then it cannot be swept either
        return []
    swept = []
    for name in sorted({name.removesuffix(".lock") for name in names}):
        try:
            descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's, or a full disk: leave it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder / name)
            (folder / f"{name}.lock").unlink(missing_ok=True)
            swept.append(name)
        except OSError:  # its owner lives
            continue
        finally:
            os.close(descriptor)
    return swept


def place(root: Path, staged: Sequence[tuple[Path, ShardStats]], *, format: str, version: int, unique: str) -> list[Shard]:  # noqa: A002 (Writer's own argument name)
    """Move closed shards, and what lies beside them, to `data/` and return them as a commit names them.

    Args:
        root: the dataset's folder.
        staged: files on the same file system, with what their writers returned.
        format: of all of them.
        version: the version they are meant for; only a name, it may land as a later one.
        unique: tells this writer's files from any other's.

    Raises:
        StorageError: a file could not be moved; those that were are removed again.
    """
    make_folder(root / DATA)
    shards: list[Shard] = []
    try:
        for number, (source, stats) in enumerate(staged):
            path = f"{DATA}/part-{version:020d}-{number:05d}-{unique}.{format}"
            shard = Shard(path=path, format=format, rows=stats.rows, bytes=stats.bytes, xxh3=stats.xxh3, block_rows=stats.block_rows)
            shards.append(shard)
            move_shard(source, root / path)
    except BaseException:  # also Ctrl-C: no file may stay that no version names
        unplace(root, shards)
        raise
    return shards


def unplace(root: Path, shards: Sequence[Shard]) -> None:
    """Remove placed shards whose commit did not land."""
    for shard in shards:
        remove_shard(root / shard.path)


def move_shard(source: Path, goal: Path) -> None:
    """Give a closed shard, and what lies beside it, another name on the same file system; what was moved before a kill stays moved.

    Raises:
        StorageError: a file could not be moved, or the shard is in neither place.
    """
    for suffix in _SIDE_FILES:
        here, there = source.with_name(source.name + suffix), goal.with_name(goal.name + suffix)
        if here.exists() or (not suffix and not there.exists()):
            with guard(there, "move the shard"):
                here.replace(there)


def is_left(path: Path) -> bool:
    """Whether anything of a shard is there, if only what lies beside it: a move may have been cut between the two."""
    return any(path.with_name(path.name + suffix).exists() for suffix in _SIDE_FILES)


def remove_shard(path: Path) -> None:
    """Remove a shard that no version names, and what lies beside it; cut in between, the shard is left without its index."""
    for suffix in _SIDE_FILES:
        with contextlib.suppress(OSError):  # it was not moved yet, or cannot be removed: no version names it either way
            path.with_name(path.name + suffix).unlink()
