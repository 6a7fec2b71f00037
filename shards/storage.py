"""Files of a dataset: written whole or not at all, put if absent, mapped for reading, and named in every error.

Nothing here knows what a file means. Publishing is a write to a temporary name beside the target, `fsync` of the file, one atomic name
change, `fsync` of the folder; a reader therefore sees a whole file or none, also after a power cut. `put_if_absent` is the only commit
point of a dataset: it is a hard link, which fails when the name exists. On a file system without hard links the link is replaced by a
rename under an `flock`ed file in the same folder; the kernel frees that lock when its holder dies, so nothing needs sweeping.

Must never: leave a temporary file behind, follow a shard's path out of its dataset, or let a bare `OSError` reach the user.
Cost: one extra name and two `fsync` per published file; reading a file by map copies nothing.
Refused: creating the target with `O_EXCL` and writing into it, since a reader could see it half written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest, StorageError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_REMEDY = {
    errno.ENOSPC: "the disk is full: free space or choose another destination; nothing was published",
    errno.EDQUOT: "the disk quota is used up: free space or choose another destination; nothing was published",
    errno.EFBIG: "the file is larger than the file system or the process limit allows: use a smaller shard_size",
    errno.EACCES: "permission denied: change the permissions or run as a user who has them",
    errno.EPERM: "the operation is not permitted: change the permissions or run as a user who has them",
    errno.EROFS: "the file system is mounted read-only: choose a destination that can be written",
    errno.ENOENT: "it does not exist (any more): restore it, or check the path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: check the path",
    errno.EISDIR: "it is a folder where a file was expected: check the path",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n) or open fewer datasets at once",
    errno.ENFILE: "the machine has too many files open: close some, or raise fs.file-max",
    errno.EIO: "the device reported an input/output error: check the disk",
    errno.ENAMETOOLONG: "the name is too long for the file system: use a shorter path",
    errno.ELOOP: "its symbolic links form a loop: repair the links",
}


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute local path that `path` names.

    Raises:
        BadRequest: it is empty, or a URL; only local files are supported in this version.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise BadRequest(f"path {text!r} is not the name of a file or folder")
    if found := _SCHEME.match(text):
        raise BadRequest(f"path {text!r}: storage {found[1]!r} is not supported in this version; copy or mount it and give the local path")
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 (Path.resolve would follow links, absolute keeps "..")


def translate(error: OSError, path: str | os.PathLike[str], doing: str) -> StorageError:
    """Return the error that says what was attempted on which file and what to do about it."""
    remedy = _REMEDY.get(error.errno or 0, f"{error.strerror or error} (errno {error.errno})")
    return StorageError(f"cannot {doing}: {remedy}", url=path)


@contextlib.contextmanager
def guard(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StorageError` that names `path` and what was being done."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise translate(error, path, doing) from error


def inside(root: Path, relative: str, *, follow_links: bool = False) -> Path:
    """Return the file that `relative` names inside `root`.

    Args:
        root: the dataset's folder.
        relative: a path from a manifest, which is not trusted.
        follow_links: accept a symbolic link that leads out of `root`; right only for files that the user named one by one.

    Raises:
        BadData: the path leaves the folder, by `..`, by being absolute, or through a symbolic link.
    """
    parts = relative.split("/")
    if not relative or "\0" in relative or relative.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise BadData(
            "a shard's path must stay inside its dataset (relative, without '..'); the manifest was not written by Penstock", shard=relative
        )
    path = root.joinpath(*parts)
    if not follow_links:
        with guard(path, "resolve the shard's path"):
            real, base = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath([real, base]) != base:
            raise BadData(
                f"the shard is a symbolic link to {real}, outside the dataset {base}; copy the file into the dataset", path=root, shard=relative
            )
    return path


def make_folder(path: Path) -> None:
    """Make a folder and its parents; one that exists is fine."""
    with guard(path, "make the folder"):
        path.mkdir(parents=True, exist_ok=True)


def fsync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    with guard(path, "flush the folder"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot flush a folder, and say so
                raise
        finally:
            os.close(descriptor)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, replacing one that exists."""
    temporary = _write_beside(path, data)
    try:
        with guard(path, "publish the file"):
            os.replace(temporary, path)  # noqa: PTH105 (Path.replace would hide that this is the atomic step)
    except BaseException:  # also Ctrl-C: the temporary file must not outlive the attempt
        _forget(temporary)
        raise
    fsync_folder(path.parent)


def put_if_absent(path: Path, data: bytes) -> bool:
    """Write a file whole unless its name is taken; return whether it was written."""
    temporary = _write_beside(path, data)
    try:
        with guard(path, "publish the file"):
            done = _link(temporary, path)
    finally:
        _forget(temporary)
    fsync_folder(path.parent)
    return done


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_under_lock(temporary, path)
    return True


def _rename_under_lock(temporary: Path, path: Path) -> bool:
    """Do what the link does where there are no links; the lock is held for one look and one rename."""
    lock = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        temporary.rename(path)
    finally:
        os.close(lock)
    return True


def _write_beside(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with guard(path, "write the file"), temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # also Ctrl-C: the temporary file must not outlive the attempt
        _forget(temporary)
        raise
    return temporary


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # already renamed, or the folder is gone: there is nothing left to forget
        path.unlink()


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it; what cannot be removed is left for the next sweep."""
    shutil.rmtree(path, ignore_errors=True)


def read_file(path: Path, *, cap_bytes: int) -> bytes:
    """Return a small file whole.

    Raises:
        BadData: it is larger than `cap_bytes`, so it is not what its name says.
    """
    with guard(path, "read the file"), path.open("rb") as file:
        data = file.read(cap_bytes + 1)
    if len(data) > cap_bytes:
        raise BadData(f"the file is larger than the {cap_bytes} bytes such a file may have", path=path)
    return data


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Return a file as read-only mapped memory; the map lives as long as an array refers to it."""
    with guard(path, "map the file"), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return np.empty(0, np.uint8)  # an empty file cannot be mapped
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
