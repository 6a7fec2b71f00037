"""A writer that is killed, has no room, or has no right: nothing half-written is ever seen, and the next writer cleans up."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from contracts import children

from penstock.errors import StorageError
from penstock.fields import Array, Bytes, Scalar
from penstock.shards import checkpoint, commits, staging, storage
from penstock.shards.dataset import Dataset
from penstock.shards.writer import Writer

STAGED = Path("_penstock") / "tmp"


def staged(root: Path) -> list[str]:
    """Return what stands in the staging folder."""
    return sorted(path.name for path in (root / STAGED).iterdir())


KILLED = """
writer = Writer(folder, {"b": Bytes()}, shard_size=1000, mode="append")
for i in range(100):
    writer.write({"b": bytes(100)})
answer("written")
sys.stdin.readline()
"""


def test_a_killed_writer_leaves_nothing_visible_and_is_swept(tmp_path: Path) -> None:
    """SIGKILL in mid-write: readers see the version before, the next writer removes the folder, the writer that lives keeps its own."""
    root = tmp_path / "ds"
    with Writer(root, {"b": Bytes()}) as writer:
        writer.write({"b": b"first"})
    living = Writer(root, mode="append")
    living.write({"b": b"living"})
    with children.start(KILLED, root) as child:
        assert children.answer(child) == "written"
        assert len(staged(root)) == 4
        child.send_signal(signal.SIGKILL)
    assert commits.list_versions(root) == [1]
    assert len(Dataset(root)) == 1
    assert len(list((root / "data").iterdir())) == 1
    assert len(staged(root)) == 4
    with Writer(root, mode="append") as writer:
        writer.write({"b": b"next"})
        assert len(staged(root)) == 4  # the living writer's and this one's, a folder and a lock each
    living.close()
    assert staged(root) == []
    with Dataset(root) as ds:
        assert [row["b"] for row in ds] == [b"first", b"next", b"living"]


def test_a_killed_writer_of_a_new_dataset_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """What is left is no dataset, and a new writer creates it."""
    root = tmp_path / "ds"
    with children.start(KILLED, root) as child:
        children.answer(child)
        child.kill()
    assert not commits.is_dataset(root)
    with Writer(root, {"n": Scalar()}) as writer:
        writer.write({"n": 1})
    assert staged(root) == []
    assert len(Dataset(root)) == 1


FULL = """
writer = Writer(folder / "ds", {"b": Bytes()}, shard_size="300kB")
try:
    for i in range(10_000):
        writer.write({"b": os.urandom(10_000)})
    answer("it fitted")
except StorageError as error:
    first = str(error)
    try:
        writer.write({"b": b""})
    except BadRequest as closed:
        answer([first, tree(), str(closed)])
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """On a disk of two megabytes the writer says so, publishes nothing, removes its files, and is closed."""
    told, left, closed = children.run_on_small_disk(FULL, tmp_path)
    assert "disk is full: free space" in told
    assert left == []
    assert "closed" in closed


FULL_APPEND = """
with Writer(folder / "ds", {"b": Bytes()}) as writer:
    writer.write({"b": b"stays"})
before = tree()
try:
    with Writer(folder / "ds", mode="append") as writer:
        for i in range(1000):
            writer.write({"b": os.urandom(10_000)})
except StorageError as error:
    answer([str(error), tree() == before, [row["b"].decode() for row in Dataset(folder / "ds")]])
"""


def test_a_disk_that_fills_while_appending_keeps_the_dataset(tmp_path: Path) -> None:
    """The version before stands, and not a byte is left of the attempt."""
    told, same, rows = children.run_on_small_disk(FULL_APPEND, tmp_path)
    assert "disk is full" in told
    assert same is True
    assert rows == ["stays"]


FULL_TABLE = """
import pyarrow as pa
try:
    with Writer(folder / "ds", {"b": Bytes()}) as writer:
        writer.write_table(pa.table({"b": [os.urandom(100_000) for _ in range(60)]}))
except StorageError as error:
    answer([str(error), tree()])
"""


def test_a_full_disk_is_told_for_tables(tmp_path: Path) -> None:
    """The error of the disk comes through Arrow's writer with its path and remedy."""
    told, left = children.run_on_small_disk(FULL_TABLE, tmp_path)
    assert "disk is full" in told
    assert ".arrow" in told
    assert left == []


NO_RIGHT = (
    children.WITHOUT_RIGHTS
    + """
try:
    Writer(folder / "ds", {"b": Bytes()})
except StorageError as error:
    answer(str(error))
"""
)


def test_no_permission_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    """A destination that may not be written is refused before a row is taken."""
    tmp_path.chmod(0o555)
    try:
        told = children.run(NO_RIGHT, tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert str(tmp_path / "ds") in told
    assert "permission denied" in told


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_every_refusal_to_make_a_folder_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A read-only file system and missing rights are told as what they are."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"permi|read-only"):
        Writer(tmp_path / "ds", {"b": Bytes()})


@pytest.mark.parametrize("step", ["rename", "link", "commit"])
def test_a_failure_while_publishing_removes_what_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """At whatever step publishing fails, no file stays that no version names."""
    root = tmp_path / "ds"
    with Writer(root, {"x": Array((3,), "int8")}) as writer:
        writer.write_table(_table(3))
    before = sorted(root.rglob("*"))
    real = Path.replace
    calls: list[int] = []

    def second_fails(source: Path, target: Path) -> Path:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(source, target)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    writer = Writer(root, mode="append", shard_size=3)
    writer.write_table(_table(9))
    patch = {"rename": (Path, "replace", second_fails), "link": (os, "link", full), "commit": (commits, "commit", interrupted)}[step]
    monkeypatch.setattr(*patch)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        writer.close()
    monkeypatch.undo()
    assert sorted(root.rglob("*")) == before
    assert len(Dataset(root)) == 3


@pytest.mark.parametrize("step", ["link", "folder", "checkpoint", "interrupted checkpoint", "unseen"])
def test_a_failure_behind_the_commit_keeps_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Once the version stands its shards stay, whatever fails then: Ctrl-C in the link, a folder or a checkpoint that cannot be written."""
    root = tmp_path / "ds"
    with Writer(root, {"x": Array((3,), "int8")}) as writer:
        writer.write_table(_table(3))
    real_link, real_flush = os.link, storage.fsync_folder

    def interrupted_behind(source: Path, target: Path) -> None:
        real_link(source, target)
        raise KeyboardInterrupt

    def no_flush(folder: Path) -> None:
        if folder.name == "commits":
            raise StorageError("cannot flush the folder: the device reported an input/output error", url=folder)
        real_flush(folder)

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError if step == "checkpoint" else KeyboardInterrupt

    def blind(*_: Any, **__: Any) -> None:
        raise StorageError("cannot list the versions", url=root)

    if step in {"link", "unseen"}:
        monkeypatch.setattr(os, "link", interrupted_behind)
    if step == "unseen":
        monkeypatch.setattr(commits, "find_job", _first_then(commits.find_job, blind))
    if step == "folder":
        monkeypatch.setattr(storage, "fsync_folder", no_flush)
    if "checkpoint" in step:
        monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 2)
        monkeypatch.setattr(checkpoint, "write_checkpoint", fails)
    writer = Writer(root, mode="append", shard_size=3)
    writer.write_table(_table(9))
    if step == "checkpoint":
        writer.close()
    elif step == "folder":
        with pytest.warns(RuntimeWarning, match="is published, but a power cut may undo it"):
            writer.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            writer.close()
    monkeypatch.undo()
    assert commits.list_versions(root) == [1, 2]
    assert len(list(Dataset(root))) == 12
    assert staged(root) == []


def _first_then(first: Any, later: Any) -> Any:
    """Return a function that is `first` when called first and `later` afterwards."""
    calls: list[int] = []

    def either(*values: Any, **named: Any) -> Any:
        calls.append(1)
        return (first if len(calls) == 1 else later)(*values, **named)

    return either


def _table(rows: int) -> Any:
    import pyarrow as pa

    return pa.table({"x": pa.array([[1, 2, 3]] * rows, pa.list_(pa.int8(), 3))})


def test_a_sweep_leaves_the_living_and_takes_the_dead(tmp_path: Path) -> None:
    """A folder without a lock, a lock without a folder, and a lock that nobody holds go; a held one stays."""
    living = staging.Staging(tmp_path)
    (living.path / "x").write_bytes(b"1")
    folder = tmp_path / STAGED
    (folder / "dead").mkdir()
    (folder / "dead" / "shard").write_bytes(b"1")
    (folder / "dead.lock").touch()
    (folder / "orphan").mkdir()
    (folder / "alone.lock").touch()
    assert staging.sweep(tmp_path) == ["alone", "dead", "orphan"]
    assert (living.path / "x").exists()
    assert staging.sweep(tmp_path) == []
    living.close()
    living.close()
    assert staging.sweep(tmp_path / "nowhere") == []


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a StorageError with what helps, and the lock's descriptor is closed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(staging.fcntl, "flock", refuse)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="gives no locks: mount it with them") as caught:
        Writer(tmp_path / "ds", {"b": Bytes()})
    assert caught.value.url is not None
    assert caught.value.url.endswith(".lock")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_lock_that_a_sweep_took_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the lock and holding it a sweep may remove it; the writer notices and makes another."""
    import fcntl

    real, calls = fcntl.flock, []

    def swept_first(descriptor: int, how: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            next((tmp_path / STAGED).glob("*.lock")).unlink()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    held = staging.Staging(tmp_path)
    monkeypatch.undo()
    assert len(calls) == 2
    assert staging.sweep(tmp_path) == []
    held.close()
