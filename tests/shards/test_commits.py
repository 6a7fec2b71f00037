"""Commits: what each operation makes of a dataset, which history is refused, and that opening stays cheap."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import AlreadyExists, BadData, BadRequest, NotADataset, StorageError
from penstock.fields import Scalar, Schema, Text
from penstock.shards import checkpoint, checkpoint_names, commits, storage
from penstock.shards.manifest import Commit, Shard

SCHEMA: Schema = {"label": Scalar("int64")}


def shard(root: Path, name: str, rows: int = 2) -> Shard:
    """Return a shard whose file exists."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data" / name).write_bytes(b"x")
    return Shard(path=f"data/{name}", format="arrow", rows=rows, bytes=1, xxh3=None, block_rows=0)


def put(root: Path, name: str, operation: str = "append", **options: Any) -> Any:
    """Commit one new shard."""
    return commits.commit(root, operation=operation, added=[shard(root, name)], **{"schema": SCHEMA, **options})


def paths(root: Path, version: int | None = None) -> list[str]:
    """Return the names of a version's shards."""
    return [shard.path.removeprefix("data/") for shard in commits.load(root, version).shards]


def test_create_append_overwrite(tmp_path: Path) -> None:
    """Each operation does its own thing, old versions stay as they were, and what commit returns is what load returns."""
    made = [put(tmp_path, "a", "create"), put(tmp_path, "b"), put(tmp_path, "c", "overwrite"), put(tmp_path, "d", "adopt")]
    assert [paths(tmp_path, version) for version in (1, 2, 3, 4)] == [["a"], ["a", "b"], ["c"], ["c", "d"]]
    assert commits.list_versions(tmp_path) == [1, 2, 3, 4]
    for manifest in made:
        assert commits.load(tmp_path, manifest.version) == manifest
    assert commits.load(tmp_path).version == 4
    assert commits.is_dataset(tmp_path)


def test_create_refuses_a_dataset(tmp_path: Path) -> None:
    """Nothing is overwritten unasked."""
    put(tmp_path, "a", "create")
    with pytest.raises(AlreadyExists, match="version 1 with 2 rows"):
        put(tmp_path, "b", "create")
    assert paths(tmp_path) == ["a"]


def test_append_refuses_other_columns(tmp_path: Path) -> None:
    """The refusal names the column, what it is there, and what it is here; an order that differs is told too."""
    put(tmp_path, "a", schema={"label": Scalar("int64"), "text": Text()})
    with pytest.raises(BadRequest, match=r"'label' is Scalar\(dtype='int64'\) there and Scalar\(dtype='int8'\) here"):
        put(tmp_path, "b", schema={"label": Scalar("int8"), "text": Text()})
    with pytest.raises(BadRequest, match=r"'text' is .* there and absent here"):
        put(tmp_path, "c", schema={"label": Scalar("int64")})
    with pytest.raises(BadRequest, match="order"):
        put(tmp_path, "d", schema={"text": Text(), "label": Scalar("int64")})


def test_metadata_is_laid_over(tmp_path: Path) -> None:
    """An append keeps what it does not name; an overwrite begins with none."""
    put(tmp_path, "a", metadata={"a": 1, "b": 1})
    assert put(tmp_path, "b", metadata={"b": 2}).metadata == {"a": 1, "b": 2}
    assert put(tmp_path, "c").metadata == {"a": 1, "b": 2}
    assert put(tmp_path, "d", "overwrite").metadata == {}


def test_removed_shards_are_gone_and_their_files_stay(tmp_path: Path) -> None:
    """A commit can take shards away; readers of older versions still find the files."""
    put(tmp_path, "a")
    put(tmp_path, "b")
    put(tmp_path, "c", removed=["data/a"])
    assert paths(tmp_path) == ["b", "c"]
    assert (tmp_path / "data" / "a").exists()
    with pytest.raises(BadRequest, match=r"data/a.*not in"):
        put(tmp_path, "d", removed=["data/a"])


def test_a_shard_is_not_added_twice(tmp_path: Path) -> None:
    """Its rows would be delivered twice."""
    put(tmp_path, "a")
    with pytest.raises(BadRequest, match="already in version 1"):
        put(tmp_path, "a")


def test_a_shard_whose_file_is_missing_or_short_is_not_published(tmp_path: Path) -> None:
    """A commit looks at each file before it names it."""
    there = shard(tmp_path, "a")
    for changed, told in (({"path": "data/nothing"}, "does not exist"), ({"bytes": 2}, "1 bytes where 2")):
        with pytest.raises(StorageError, match=told):
            commits.commit(tmp_path, operation="create", schema=SCHEMA, added=[Shard(**{**there.to_json(), **changed})])
    assert commits.list_versions(tmp_path) == []


def test_a_shard_behind_a_link_out_is_not_published(tmp_path: Path) -> None:
    """A link that leaves the dataset would break when it is copied, and read what it should not."""
    (tmp_path / "outside").write_bytes(b"x")
    there = shard(tmp_path / "ds", "a")
    (tmp_path / "ds" / "data" / "a").unlink()
    (tmp_path / "ds" / "data" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(BadData, match="symbolic link"):
        commits.commit(tmp_path / "ds", operation="create", schema=SCHEMA, added=[there])


def test_a_job_lands_once(tmp_path: Path) -> None:
    """A job killed right behind its commit runs on and publishes nothing new."""
    first = put(tmp_path, "a", job="j1", offset={"at": 5})
    put(tmp_path, "b")
    assert put(tmp_path, "c", job="j1") == first
    assert commits.list_versions(tmp_path) == [1, 2]
    assert commits.find_job(tmp_path, "j1") == 1
    assert commits.find_job(tmp_path, "j2") is None
    assert commits.read_commit(tmp_path, 1).offset == {"at": 5}


def test_a_job_is_sought_only_behind_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a job reads the commits behind the version known before, so that it does not cost the dataset's whole history."""
    for name in "abcdef":
        put(tmp_path, name, job=f"job {name}")
    read: list[int] = []
    real = commits.read_commit
    monkeypatch.setattr(commits, "read_commit", lambda root, version: read.append(version) or real(root, version))  # type: ignore[func-returns-value, redundant-expr]
    assert commits.find_job(tmp_path, "job c", after=4) is None
    assert read == [6, 5]
    assert commits.find_job(tmp_path, "job e", after=4) == 5


def names_of(**columns: Any) -> dict[str, Any]:
    """Return metadata with these class names."""
    return {"class_names": columns}


def test_class_names_are_continued(tmp_path: Path) -> None:
    """An append may name more classes behind those that are there, or none at all; other columns keep theirs."""
    put(tmp_path, "a")
    put(tmp_path, "b", metadata=names_of(label=["cat"]))
    assert put(tmp_path, "c", metadata=names_of(label=["cat", "dog"])).metadata == names_of(label=["cat", "dog"])
    assert put(tmp_path, "d", metadata=names_of(kind=["x"])).metadata == names_of(label=["cat", "dog"], kind=["x"])
    assert put(tmp_path, "e").metadata == names_of(label=["cat", "dog"], kind=["x"])
    assert put(tmp_path, "f", "overwrite", metadata=names_of(label=["ant"])).metadata == names_of(label=["ant"])


@pytest.mark.parametrize("names", [["dog", "cat"], ["cat"], ["cat", "bee", "dog"], [], "cat", {"0": "cat"}, None])
@pytest.mark.parametrize("operation", ["append", "adopt"])
def test_class_names_at_other_places_are_refused(tmp_path: Path, names: Any, operation: str) -> None:
    """A label's number would mean two things; the refusal shows both lists and says what to do."""
    put(tmp_path, "a", metadata=names_of(label=["cat", "dog"]))
    with pytest.raises(BadRequest, match=r"column 'label' are \['cat', 'dog'\].*append again"):
        put(tmp_path, "b", operation, metadata=names_of(label=names))
    with pytest.raises(BadRequest, match="leave it out"):
        put(tmp_path, "b", operation, metadata={"class_names": ["cat"]})
    assert commits.list_versions(tmp_path) == [1]


def test_class_names_that_another_writer_added_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two appends that each bring a new class: the one that lost the name looks again, and does not lay its names over the other's."""
    put(tmp_path, "a", metadata=names_of(label=["cat"]))
    real, calls = commits.put_if_absent, []  # type: ignore[attr-defined]

    def loses_once(path: Path, data: bytes) -> bool:
        calls.append(path)
        if len(calls) == 1:
            put(tmp_path, "theirs", metadata=names_of(label=["cat", "dog"]))
        return real(path, data)

    monkeypatch.setattr(commits, "put_if_absent", loses_once)
    with pytest.raises(BadRequest, match="Another writer may have added names"):
        put(tmp_path, "ours", metadata=names_of(label=["cat", "eel"]))
    assert paths(tmp_path) == ["a", "theirs"]
    assert commits.load(tmp_path).metadata == names_of(label=["cat", "dog"])


def test_more_shards_than_a_version_may_have_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be opened again is refused before it is seen."""
    put(tmp_path, "a")
    monkeypatch.setattr("penstock.shards.manifest.MAX_SHARDS", 1)
    with pytest.raises(BadData, match="more than the 1 a version may have"):
        put(tmp_path, "b")
    assert commits.list_versions(tmp_path) == [1]


@pytest.mark.parametrize("wrong", [{"offset": object()}, {"offset": float("nan")}, {"metadata": {"a": {1}}}])
def test_what_json_cannot_say_is_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """An offset or metadata that cannot be kept is the caller's fault."""
    with pytest.raises(BadRequest):
        put(tmp_path, "a", **wrong)
    assert commits.list_versions(tmp_path) == []


def test_nothing_is_not_a_dataset(tmp_path: Path) -> None:
    """A missing folder, an empty one and a file are told apart from a dataset, with what to do."""
    (tmp_path / "file").touch()
    (tmp_path / "empty" / "_penstock" / "commits").mkdir(parents=True)
    for name, told in (("missing", "does not exist"), ("file", "is a file"), ("empty", "no published version")):
        with pytest.raises(NotADataset, match=told):
            commits.load(tmp_path / name)
        assert not commits.is_dataset(tmp_path / name)


def test_an_unknown_version_names_those_that_exist(tmp_path: Path) -> None:
    """The last twenty are enough."""
    for i in range(22):
        put(tmp_path, str(i))
    for version in (0, 23, -1):
        with pytest.raises(BadRequest, match=r"it has \.\.\., 3, 4, .*, 22$"):
            commits.load(tmp_path, version)


def test_the_time_can_be_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH makes the commit a function of the data; nonsense in it is refused."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    put(tmp_path, "a")
    assert commits.read_commit(tmp_path, 1).time == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(BadRequest, match="soon"):
        put(tmp_path, "b")


def _edit(root: Path, number: int, changed: dict[str, Any]) -> None:
    path = commits.commit_path(root, number)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def _shard_json(path: str, **changed: Any) -> dict[str, Any]:
    return {"path": path, "format": "arrow", "rows": 2, "bytes": 1, "xxh3": None, "block_rows": 0, **changed}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": 3}, "renamed or replaced"),
        ({"parent": None}, "parent"),
        ({"removed": ["data/never"]}, "not there"),
        ({"added": [_shard_json("data/a")]}, "already there"),
        ({"added": [_shard_json("../../etc/passwd")]}, "leaves the dataset"),
        ({"added": [_shard_json("/etc/passwd")]}, "leaves the dataset"),
        ({"added": [_shard_json("_penstock/commits/00000000000000000001.json")]}, "_penstock"),
        ({"added": [_shard_json("x"), _shard_json("x")]}, "twice"),
        ({"added": [_shard_json("x", rows=-1)]}, "rows"),
        ({"added": [_shard_json("x", rows=2**60)]}, "rows"),
        ({"added": "everything"}, "list"),
        ({"added": [["x"]]}, "JSON object"),
        ({"schema": [{"name": "a", "kind": "pickle"}]}, "unknown field type 'pickle'"),
        ({"schema": []}, "schema"),
        ({"metadata": []}, "metadata"),
        ({"format_version": 99}, "upgrade"),
        ({"removed": [5]}, "path"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_hostile_commit_is_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    """Every lie in a commit is found when the dataset is opened, and the file is named."""
    put(tmp_path, "a")
    put(tmp_path, "b")
    _edit(tmp_path, 2, changed)
    with pytest.raises(BadData, match=told) as caught:
        commits.load(tmp_path)
    assert caught.value.path == str(commits.commit_path(tmp_path, 2))
    assert paths(tmp_path, 1) == ["a"]


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[" * 50_000, b"\x00" * 100, b'{"format_version": 1}'])
def test_a_file_that_is_no_commit_is_refused(tmp_path: Path, data: bytes) -> None:
    """Damage of any kind names the file."""
    put(tmp_path, "a")
    commits.commit_path(tmp_path, 1).write_bytes(data)
    with pytest.raises(BadData) as caught:
        commits.load(tmp_path)
    assert caught.value.path == str(commits.commit_path(tmp_path, 1))


def test_a_commit_over_the_cap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge file where a commit should be does not fill the memory, and one is not written either."""
    put(tmp_path, "a")
    monkeypatch.setattr(commits, "MAX_COMMIT_BYTES", 100)
    with pytest.raises(BadData, match="larger than the 100 bytes"):
        commits.load(tmp_path)
    monkeypatch.setattr(commits, "load", lambda *_: None)
    monkeypatch.setattr(commits, "list_versions", lambda _: [])
    with pytest.raises(BadRequest, match="larger shards"):
        put(tmp_path, "b")


def test_a_missing_commit_is_named(tmp_path: Path) -> None:
    """A history with a hole is not guessed at."""
    for name in "abc":
        put(tmp_path, name)
    commits.commit_path(tmp_path, 2).unlink()
    with pytest.raises(BadData, match="version 2, whose commit is missing"):
        commits.load(tmp_path)


def test_other_files_beside_the_commits_are_passed_over(tmp_path: Path) -> None:
    """Temporary files of writers and editors are no versions."""
    put(tmp_path, "a")
    for name in (".00000000000000000002.json.abc.tmp", "notes.txt", "2.json", ".lock"):
        (tmp_path / commits.COMMITS / name).write_text("x")
    assert commits.list_versions(tmp_path) == [1]


def test_a_commit_that_cannot_be_written_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the last step leaves the dataset as it was."""
    put(tmp_path, "a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="disk is full"):
        put(tmp_path, "b")
    assert paths(tmp_path) == ["a"]
    assert len(list((tmp_path / commits.COMMITS).iterdir())) == 1


def test_a_writer_that_always_loses_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the retry has an end, which says how often it tried."""
    monkeypatch.setattr(commits, "put_if_absent", lambda *_: False)
    with pytest.raises(StorageError, match="other writers were faster") as caught:
        put(tmp_path, "a")
    assert caught.value.attempts == 1000


def test_the_loser_retries_on_what_the_winner_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overwrite that lost takes away what stands when it lands; a create that lost is refused."""
    real = storage.put_if_absent
    put(tmp_path, "a")

    def lose_once(path: Path, data: bytes) -> bool:
        monkeypatch.setattr(commits, "put_if_absent", real)
        put(path.parents[2], "winner")
        return real(path, data)

    monkeypatch.setattr(commits, "put_if_absent", lose_once)
    assert [shard.path for shard in put(tmp_path, "b", "overwrite").shards] == ["data/b"]
    assert paths(tmp_path, 2) == ["a", "winner"]
    monkeypatch.setattr(commits, "put_if_absent", lose_once)
    with pytest.raises(AlreadyExists):
        put(tmp_path / "new", "c", "create")


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 130 versions, written with the flush left out, which only the wall clock misses."""
    root = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for i in range(130):
            put(root, str(i), "overwrite" if i == 70 else "append", metadata={"n": i})
    return root


def test_checkpoints_say_what_the_commits_say(long_history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version is the same with checkpoints and without."""
    assert sorted(path.name for path in (long_history / checkpoint_names.CHECKPOINTS).iterdir()) == [f"{n:020d}.arrow" for n in (64, 128)]
    versions = (1, 63, 64, 65, 71, 127, 128, 129, 130)
    fast = [commits.load(long_history, version) for version in versions]
    monkeypatch.setattr(commits, "newest_checkpoint", lambda *_: None)
    assert [commits.load(long_history, version) for version in versions] == fast


def test_opening_reads_few_commits(long_history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint on, at most 64 commits are read, and none before it is needed."""
    read: list[int] = []
    real = commits.read_commit

    def counted(root: Path, version: int) -> Commit:
        read.append(version)
        return real(root, version)

    monkeypatch.setattr(commits, "read_commit", counted)
    commits.load(long_history)
    assert read == [129, 130]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "swapped"])
def test_a_damaged_checkpoint_is_named_with_its_remedy(long_history: Path, damage: str) -> None:
    """It is refused, and deleting it, as the message says, is enough."""
    path = checkpoint_names.checkpoint_path(long_history, 128)
    data = path.read_bytes()
    at = data.index(b"data/100")
    other = checkpoint_names.checkpoint_path(long_history, 64).read_bytes()
    path.write_bytes(
        {"cut": data[:-100], "flip": data[:at] + b"d" + bytes([data[at + 1] ^ 1]) + data[at + 2 :], "empty": b"", "swapped": other}[damage]
    )
    try:
        with pytest.raises(BadData, match="delete it") as caught:
            commits.load(long_history)
        assert caught.value.path == str(path)
        path.unlink()
        assert commits.load(long_history).version == 130
    finally:
        path.write_bytes(data)


def test_a_checkpoint_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is published before; the checkpoint only makes opening faster."""

    def full(*_: object) -> None:
        raise StorageError("the disk is full", url="x")

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    monkeypatch.setattr(commits, "CHECKPOINT_EVERY", 1)
    assert put(tmp_path, "a").version == 1


def test_the_next_commit_sweeps_what_a_kill_left(tmp_path: Path) -> None:
    """A temporary file beside the commits is gone with the next one, and one beside the checkpoints with the next of those."""
    put(tmp_path, "a")
    left = tmp_path / commits.COMMITS / ".00000000000000000002.json.0123456789abcdef.tmp"
    left.write_bytes(b"half a commit")
    put(tmp_path, "b")
    assert not left.exists()
    old = tmp_path / checkpoint_names.CHECKPOINTS / ".x.arrow.tmp"
    old.parent.mkdir()
    old.write_bytes(b"half")
    checkpoint.write_checkpoint(tmp_path, commits.load(tmp_path))
    assert not old.exists()
