"""Files: whole or not at all, absent or refused, inside the dataset, and named in every error."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import BadData, BadRequest, StorageError
from penstock.shards import storage


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_put_if_absent_writes_once(tmp_path: Path) -> None:
    """The first writer's bytes stay; the second is told no; no temporary file is left."""
    path = tmp_path / "x.json"
    assert storage.put_if_absent(path, b"one")
    assert not storage.put_if_absent(path, b"two")
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])
def test_put_if_absent_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where links are refused, a rename under a lock keeps the promise, also with many threads at once."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.put_if_absent(tmp_path / "x.json", str(i).encode()), range(32)))
    assert won.count(True) == 1
    assert (tmp_path / "x.json").read_bytes() == str(won.index(True)).encode()
    assert names(tmp_path) == [".lock", "x.json"]


def test_many_threads_put_each_name_once(tmp_path: Path) -> None:
    """Exactly one of many attempts at one name succeeds."""
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.put_if_absent(tmp_path / f"{i % 4}", str(i).encode()), range(64)))
    assert won.count(True) == 4


def test_atomic_write_replaces(tmp_path: Path) -> None:
    """A file is replaced whole, and no temporary file is left."""
    storage.atomic_write(tmp_path / "x", b"one")
    storage.atomic_write(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("write", [storage.atomic_write, storage.put_if_absent])
@pytest.mark.parametrize("broken", ["fsync", "replace", "link"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, broken: str) -> None:
    """An error at any step removes the temporary file and says what helps; what stood before stays."""
    (tmp_path / "old").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    if (broken, write) in {("replace", storage.put_if_absent), ("link", storage.atomic_write)}:
        write(tmp_path / "new", b"data")
        return
    with pytest.raises(StorageError, match="disk is full: free space") as caught:
        write(tmp_path / "new", b"data")
    assert caught.value.url == str(tmp_path / "new")
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO, errno.ESTALE])
def test_a_link_that_was_made_and_told_as_failed_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An NFS client whose answer was lost asks again and finds its own link; the file is ours, and not another writer's."""
    real = os.link

    def made_but_refused(source: Path, target: Path) -> None:
        real(source, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", made_but_refused)
    assert storage.put_if_absent(tmp_path / "x", b"data") is True
    assert (tmp_path / "x").read_bytes() == b"data"
    monkeypatch.undo()
    assert storage.put_if_absent(tmp_path / "x", b"other") is False
    assert names(tmp_path) == ["x"]


def test_a_file_that_cannot_be_flushed_behind_its_name_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody sees it by then; telling a failure would have its shards removed."""

    def fail(folder: Path) -> None:
        raise StorageError("cannot flush the folder", url=folder)

    monkeypatch.setattr(storage, "fsync_folder", fail)
    with pytest.warns(RuntimeWarning, match="is published"):
        assert storage.put_if_absent(tmp_path / "x", b"data") is True


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between writing and publishing removes the temporary file."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.atomic_write(tmp_path / "x", b"data")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "does not exist"),
        (errno.EMFILE, "ulimit"),
        (errno.EDEADLK, "errno"),
    ],
)
def test_every_os_error_says_what_helps(number: int, remedy: str) -> None:
    """An error of the system becomes a StorageError with the path, what was being done, and a remedy; an unknown one keeps its number."""
    with pytest.raises(StorageError, match=remedy) as caught, storage.guard("/some/file", "read the file"):
        raise OSError(number, os.strerror(number))
    assert "cannot read the file" in str(caught.value)
    assert caught.value.url == "/some/file"
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("path", ["s3://bucket/x", "gs://b", "https://host/x", "hf://datasets/x"])
def test_a_url_is_refused_by_its_scheme(path: str) -> None:
    """Storage that is not there yet is named."""
    with pytest.raises(BadRequest, match=path.split(":", maxsplit=1)[0]):
        storage.local_path(path)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    """An empty path or one with a NUL names no file."""
    with pytest.raises(BadRequest, match="not the name"):
        storage.local_path(path)


def test_a_local_path_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative paths and the home folder are understood; links are not followed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.local_path("a/../b") == tmp_path / "b"
    assert storage.local_path("~/data") == Path("/home/someone/data")


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", "a/.", "a\0", ".."])
def test_a_path_that_leaves_the_dataset_is_refused(tmp_path: Path, relative: str) -> None:
    """No spelling of a relative path gets out of the folder."""
    with pytest.raises(BadData, match="inside its dataset"):
        storage.inside(tmp_path, relative)


@pytest.mark.parametrize("depth", ["file", "folder"])
def test_a_symbolic_link_that_leaves_the_dataset_is_refused(tmp_path: Path, depth: str) -> None:
    """Neither a linked file nor a linked folder leads out, unless the user named the file himself."""
    root, outside = tmp_path / "ds", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "x.arrow").write_bytes(b"secret")
    relative = "x.arrow" if depth == "file" else "sub/x.arrow"
    (root / relative.split("/", maxsplit=1)[0]).symlink_to(outside / "x.arrow" if depth == "file" else outside)
    with pytest.raises(BadData, match="symbolic link"):
        storage.inside(root, relative)
    assert storage.inside(root, relative, follow_links=True).read_bytes() == b"secret"


def test_a_dataset_behind_a_link_is_fine(tmp_path: Path) -> None:
    """The folder itself may be a link, and a link inside may point inside."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "real" / "y").symlink_to("x")
    (tmp_path / "link").symlink_to("real")
    assert storage.inside(tmp_path / "link", "y").read_bytes() == b"1"


def test_a_mapped_file_is_read_only_and_outlives_its_name(tmp_path: Path) -> None:
    """The map is a view that cannot be written and needs neither the descriptor nor the name."""
    (tmp_path / "x").write_bytes(bytes(range(256)))
    before = len(names(Path("/proc/self/fd")))
    data = storage.map_file(tmp_path / "x")
    assert data.dtype == np.uint8
    assert not data.flags.writeable
    (tmp_path / "x").unlink()
    assert data[255] == 255
    del data
    assert len(names(Path("/proc/self/fd"))) == before


def test_an_empty_file_maps_to_nothing(tmp_path: Path) -> None:
    """A file without bytes is an array without bytes."""
    (tmp_path / "x").touch()
    assert storage.map_file(tmp_path / "x").shape == (0,)


def test_a_file_over_its_cap_is_refused(tmp_path: Path) -> None:
    """A small file that is not small is not read."""
    (tmp_path / "x").write_bytes(bytes(11))
    assert storage.read_file(tmp_path / "x", cap_bytes=11) == bytes(11)
    with pytest.raises(BadData, match="10 bytes"):
        storage.read_file(tmp_path / "x", cap_bytes=10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Reading what is not there says so with its path."""
    for read in (storage.map_file, storage.fsync_folder, lambda p: storage.read_file(p, cap_bytes=1)):
        with pytest.raises(StorageError, match="does not exist") as caught:
            read(tmp_path / "nothing")
        assert caught.value.url == str(tmp_path / "nothing")


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems cannot flush a folder; other errors are still told."""

    def refuse(number: int) -> Any:
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    storage.fsync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(StorageError, match="check the disk"):
        storage.fsync_folder(tmp_path)


def stray(folder: Path, name: str = ".x.json.0123456789abcdef.tmp") -> Path:
    """Leave the temporary file of a writer that was killed."""
    (folder / name).write_bytes(b"half")
    return folder / name


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    """Temporary files without an owner are removed and named; other files, hidden ones too, stay, and no folder is nothing to do."""
    left = [stray(tmp_path), stray(tmp_path, ".y.tmp")]
    for name in ("x.json", ".lock", "x.tmp"):
        (tmp_path / name).write_bytes(b"kept")
    assert storage.sweep_temporaries(tmp_path) == sorted(path.name for path in left)
    assert names(tmp_path) == [".lock", "x.json", "x.tmp"]
    assert storage.sweep_temporaries(tmp_path / "nowhere") == []


def test_a_link_is_not_followed_by_the_sweep(tmp_path: Path) -> None:
    """A link that looks like a temporary file does not lead the sweep to another file."""
    (tmp_path / "far").write_bytes(b"far")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".x.tmp").symlink_to(tmp_path / "far")
    assert storage.sweep_temporaries(tmp_path / "here") == []
    assert (tmp_path / "far").read_bytes() == b"far"


@pytest.mark.parametrize(("write", "step"), [(storage.atomic_write, "replace"), (storage.put_if_absent, "link")])
def test_a_temporary_in_use_is_never_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, step: str) -> None:
    """A sweep between the writing of a file and its publishing leaves it alone."""
    real, found = getattr(os, step), []

    def swept_first(*paths: Any) -> None:
        found.append((names(tmp_path), storage.sweep_temporaries(tmp_path)))
        real(*paths)

    monkeypatch.setattr(os, step, swept_first)
    write(tmp_path / "x", b"data")
    (before, swept), *_ = found
    assert len(before) == 1
    assert swept == []
    assert names(tmp_path) == ["x"]


def test_a_temporary_swept_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that comes between the making of a file and its lock costs a second file, not the write."""
    real, sweeps = storage.fcntl.flock, []  # type: ignore[attr-defined, var-annotated]

    def swept_first(file: Any, how: int) -> None:
        if how == storage.fcntl.LOCK_EX and not sweeps:  # type: ignore[attr-defined]
            sweeps.append(1)
            sweeps.extend(storage.sweep_temporaries(tmp_path))  # type: ignore[arg-type]
        real(file, how)

    monkeypatch.setattr(storage.fcntl, "flock", swept_first)  # type: ignore[attr-defined]
    assert storage.put_if_absent(tmp_path / "x", b"data")
    assert len(sweeps) == 2
    assert names(tmp_path) == ["x"]


def test_many_writers_and_sweeps_at_once_lose_nothing(tmp_path: Path) -> None:
    """Writers whose folder is swept all the time still publish each of their files."""

    def write(number: int) -> bool:
        storage.sweep_temporaries(tmp_path)
        return storage.put_if_absent(tmp_path / f"{number}", b"data")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(100)))
    assert names(tmp_path) == sorted(map(str, range(100)))
