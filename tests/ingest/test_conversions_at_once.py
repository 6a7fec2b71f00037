"""Two writers of one destination at once: what was asked is done to what stands by then, or refused, and no shard is left that no version names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contracts.raw import image_folder, rows_of

import penstock as ps
from penstock.errors import AlreadyExists, BadRequest
from penstock.ingest import convert as conversions
from penstock.ingest import publish as publishing
from penstock.ingest.convert import convert
from penstock.ingest.publish import judge
from penstock.shards import commits
from penstock.shards.manifest import Commit

PROGRAM = "import sys; from penstock.cli.app import main; main()"


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Return a CSV of two rows."""
    (tmp_path / "t.csv").write_text("x\n1\n2\n")
    return tmp_path / "t.csv"


def other_writer(monkeypatch: pytest.MonkeyPatch, root: Path, mode: str, field: ps.Field | None = None) -> None:
    """Let another writer publish a row right before a conversion does."""

    def late(*given: object) -> None:
        judge(*given)  # type: ignore[arg-type]
        with ps.Writer(str(root), {"x": field or ps.Scalar("int64")}, mode=mode) as writer:
            writer.write({"x": 7 if field is None else "seven"})

    monkeypatch.setattr(conversions, "judge", late)


def orphans(root: Path) -> set[str]:
    """Return the files of shards that no version names."""
    named = {shard.path for version in commits.list_versions(root) for shard in commits.read_commit(root, version).added}
    return {path.relative_to(root).as_posix() for path in (root / "data").iterdir()} - named


def xs(root: Path) -> list[int]:
    """Return the values of the rows."""
    return [row["x"] for row in rows_of(root)]


@pytest.mark.parametrize("before", [False, True])
def test_overwrite_takes_what_stands_by_then(tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """A version made meanwhile is overwritten too, whether or not something stood when the conversion began."""
    root = tmp_path / "out"
    if before:
        convert(numbers, root, workers=0)
    other_writer(monkeypatch, root, "append" if before else "create")
    report = convert(numbers, root, workers=0, shard_size="1MB", overwrite=True)
    assert xs(root) == [1, 2]
    assert report.splits[""].version == len(commits.list_versions(root)) == 2 + before
    assert commits.read_commit(root, 2 + before).operation == "overwrite"
    assert not orphans(root)


def test_overwrite_of_nothing_creates(tmp_path: Path, numbers: Path) -> None:
    """Where nothing stands `overwrite` makes the first version, and it is signed as what it is."""
    convert(numbers, tmp_path / "out", workers=0, overwrite=True)
    assert commits.read_commit(tmp_path / "out", 1).operation == "create"


def test_append_goes_behind_what_stands_by_then(tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that another appended meanwhile stay in front."""
    root = tmp_path / "out"
    convert(numbers, root, workers=0)
    other_writer(monkeypatch, root, "append")
    assert convert(numbers, root, workers=0, append=True).splits[""].version == 3
    assert xs(root) == [1, 2, 7, 1, 2]
    assert not orphans(root)


@pytest.mark.parametrize(("append", "kind"), [(False, AlreadyExists), (True, BadRequest)])
def test_refused_loser_leaves_nothing(
    tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch, append: bool, kind: Callable[..., BadRequest]
) -> None:
    """A conversion that cannot be published beside what another made removes its shards and its job, says so, and can be asked for again."""
    root = tmp_path / "out"
    if append:
        convert(numbers, root, workers=0)
    with monkeypatch.context() as patch:
        other_writer(patch, root, "overwrite" if append else "create", ps.Text() if append else None)
        with pytest.raises(BadRequest, match="Another writer was faster: what this conversion made was removed") as raised:
            convert(numbers, root, workers=0, append=append)
    assert type(raised.value) is kind
    assert not orphans(root)
    assert not (root / "_penstock" / "jobs").exists()
    convert(numbers, root, workers=0, overwrite=True)
    assert xs(root) == [1, 2]


def test_loser_reads_only_what_is_newer(tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refused conversion may remove is asked of the versions behind the one that stood when it began, not of the whole history."""
    root = tmp_path / "out"
    read: list[int] = []
    convert(numbers, root, workers=0)
    convert(numbers, root, workers=0, append=True)
    real, remove = commits.read_commit, publishing._remove_unnamed

    def noted(folder: Path, version: int) -> Commit:
        read.append(version)
        return real(folder, version)

    def watched(*given: Any, **named: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(commits, "read_commit", noted)
            remove(*given, **named)

    monkeypatch.setattr(publishing, "_remove_unnamed", watched)
    other_writer(monkeypatch, root, "overwrite", ps.Text())
    with pytest.raises(BadRequest, match="Another writer was faster"):
        convert(numbers, root, workers=0, append=True)
    assert read == [3]
    assert not orphans(root)


def test_refusal_that_is_nobody_s_doing_can_be_resumed(tmp_path: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a commit is refused though nobody else wrote, the work is kept for `--resume`."""
    with monkeypatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "yesterday")
        with pytest.raises(BadRequest, match="SOURCE_DATE_EPOCH"):
            convert(numbers, tmp_path / "out", workers=0)
    assert convert(numbers, tmp_path / "out", workers=0, resume=True).rows_out == 2
    assert not orphans(tmp_path / "out")


def test_overwrite_beside_a_running_conversion(tmp_path: Path) -> None:
    """For real: of two processes each ends well or is refused, and every shard on disk is named by a version."""
    image_folder(tmp_path / "raw", classes=2, each=30, height=320, width=400)
    running = []
    for options in (("400KB",), ("500KB", "--overwrite")):
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "convert",
            str(tmp_path / "raw"),
            str(tmp_path / "out"),
            "--quiet",
            "--workers",
            "1",
            "--shard-size",
        ]
        running.append(subprocess.Popen([*command, *options], env={**os.environ}, stderr=subprocess.PIPE, text=True))
        time.sleep(0.2)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert 0 in [process.returncode for process in running], said
    assert len(rows_of(tmp_path / "out")) == 60
    assert not orphans(tmp_path / "out")
