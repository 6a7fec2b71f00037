"""Files of a dataset: written whole or not at all, put if absent, mapped for reading, and named in every error.

Nothing here knows what a file means. Publishing is a write to a temporary name beside the target, `fsync` of the file, one atomic name
change, `fsync` of the folder; a reader therefore sees a whole file or none, also after a power cut. `put_if_absent` is the only commit
point of a dataset: it is a hard link, which fails when the name exists. On a file system without hard links the link is replaced by a
rename under an `flock`ed file in the same folder; the kernel frees that lock when its holder dies. A temporary file is locked in the same
way while it is in use, so one whose lock can be taken was left by a kill, and `sweep_temporaries` removes it.

Must never: leave a temporary file behind, follow a shard's path out of its dataset, or let a bare `OSError` reach the user.
Cost: one extra name and two `fsync` per published file; reading a file by map copies nothing.
Refused: creating the target with `O_EXCL` and writing into it, since a reader could see it half written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from weakref import finalize

import numpy as np
import numpy.typing as npt

from ..errors import BadData, BadRequest, StorageError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
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
    errno.ENOLCK: "the file system gives no locks: mount it with them (for NFS, start its lock daemon or mount with local_lock=flock)",
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
    with _beside(path, data) as temporary, guard(path, "publish the file"):
        os.replace(temporary, path)  # noqa: PTH105 (Path.replace would hide that this is the atomic step)
    fsync_folder(path.parent)


def put_if_absent(path: Path, data: bytes) -> bool:
    """Write a file whole unless its name is taken; return whether it was written.

    Once the name is there everybody sees the file, so nothing that fails behind it is told as a failure: a folder that cannot be flushed is a
    warning, since only a power cut could still take the name away.
    """
    with _beside(path, data) as temporary, guard(path, "publish the file"):
        done = _link(temporary, path)
    try:
        fsync_folder(path.parent)
    except StorageError as error:
        warnings.warn(f"{path} is published, but a power cut may undo it: {error}", RuntimeWarning, stacklevel=2)
    return done


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except OSError as error:
        if _is_linked(temporary, path):
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno not in _NO_LINKS:
            raise
        return _rename_under_lock(temporary, path)
    return True


def _is_linked(temporary: Path, path: Path) -> bool:
    """Whether the link was made although it was told as failed: an NFS client that lost the answer asks again, and finds its own link."""
    try:
        return os.path.samestat(os.lstat(temporary), os.lstat(path))
    except OSError:  # there is no such name, or it cannot be seen: the error of the link is the one to tell
        return False


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


@contextlib.contextmanager
def _beside(path: Path, data: bytes) -> Iterator[Path]:
    """Yield a temporary file that holds `data` on disk; it is locked while the block runs, and gone behind it, also after Ctrl-C."""
    temporary, file = _locked_beside(path)
    try:
        with guard(path, "write the file"):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):  # what matters was flushed above, or has failed there
            file.close()
        _forget(temporary)


def _locked_beside(path: Path) -> tuple[Path, IO[bytes]]:
    """Return a new file beside `path`, locked; one that a sweep took between its making and its lock is made again."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        with guard(path, "write the file"):
            file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: there no sweep gets one either
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()


def sweep_temporaries(folder: Path) -> list[str]:
    """Remove the temporary files that killed writers left in a folder, never one in use; return their names. Cost: one `flock` for each."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(".tmp")]  # noqa: PTH208 (names are all that is needed)
    except OSError:  # there is no such folder, or it cannot be read: then it cannot be swept either
        return []
    swept = []
    for name in sorted(names):
        try:
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # another user's, or published in the meantime
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink()
            swept.append(name)
        except OSError:  # its owner lives, or was faster
            continue
        finally:
            os.close(descriptor)
    return swept


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


class _Map:
    """Mapped memory in the eyes of numpy: when the last array over it is gone, so is the map."""

    def __init__(self, address: int, size: int) -> None:
        """Take over what `mmap` returned."""
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}
        finalize(self, _LIBC.munmap, address, size).atexit = False  # at the end of the process arrays may still be read


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Return a file as read-only mapped memory; the map lives as long as an array refers to it, and no descriptor stays open.

    So thousands of files can be mapped: Python's own `mmap` keeps a descriptor a map.

    Raises:
        StorageError: it cannot be opened or mapped.
    """
    with guard(path, "map the file"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                return np.empty(0, np.uint8)  # an empty file cannot be mapped
            address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))
        finally:
            os.close(descriptor)
    return np.asarray(_Map(address, size))


def let_go_of_pages(memory: npt.NDArray[np.uint8]) -> None:
    """Have this process forget which pages of a mapped file are in memory; they stay in the system's cache, and are found there when read again.

    Such pages count as the process's own to whoever looks at its resident set. Memory that is no map of a file is left alone.
    """
    base: object = memory.base
    if isinstance(base, _Map):
        _LIBC.madvise(memory.ctypes.data, memory.nbytes, mmap.MADV_DONTNEED)  # advice: when it is refused nothing is lost
