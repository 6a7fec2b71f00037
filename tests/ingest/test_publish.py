"""The end of a job: judged by its counts, published by one commit a dataset, and healed by doing it again after a cut at any step."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.raw import image_folder, rows_of, run, tree

from penstock.errors import BadData, StorageError
from penstock.ingest import publish as module
from penstock.ingest.job import Job
from penstock.ingest.publish import commit_name
from penstock.shards import commits
from penstock.shards.storage import put_if_absent

SPLITS = {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("after", range(1, 7))
def test_cut_at_each_step_of_publishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ended before or behind any move or commit of two splits, the job goes on to the tree of an undisturbed run; a reader sees all or nothing."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    image_folder(tmp_path / "raw", each=6)
    run(tmp_path / "raw", tmp_path / "whole", split=SPLITS)
    steps = iter(range(1, 100))

    def cut_at(name: str, place: object) -> None:
        real = getattr(place, name)

        def cut(*given: object, **named: object) -> object:
            if next(steps) == after:
                raise KeyboardInterrupt
            found = real(*given, **named)
            if next(steps) == after:
                raise KeyboardInterrupt
            return found

        patch.setattr(place, name, cut)

    with monkeypatch.context() as patch:
        cut_at("_moved", module)
        cut_at("commit", commits)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "raw", tmp_path / "out", split=SPLITS)
    for name in SPLITS:
        assert len(commits.list_versions(tmp_path / "out" / name)) in {0, 1}
    run(tmp_path / "raw", tmp_path / "out", split=SPLITS, resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_commit_left_half_done_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary of a commit that was published and then killed is gone after `--resume`, though nothing is left to commit."""
    image_folder(tmp_path / "raw", classes=1, each=2)

    def killed(path: Path, data: bytes) -> bool:
        put_if_absent(path, data)
        path.with_name(f".{path.name}.abc.tmp").write_bytes(data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commits, "put_if_absent", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "raw", tmp_path / "out")
    run(tmp_path / "raw", tmp_path / "out", resume=True)
    assert [path.name for path in (tmp_path / "out" / commits.COMMITS).iterdir()] == ["00000000000000000001.json"]
    assert len(rows_of(tmp_path / "out")) == 2


def test_staged_shard_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that somebody removed between its marker and its publishing is an error with the way on, and nothing is published."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    real = module._moved

    def steal(job: Job, *rest: object) -> object:
        for shard in job.path.glob("s1-*.arrow"):
            shard.unlink()
        return real(job, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "_moved", steal)
        with pytest.raises(StorageError, match=r"cannot publish the shard: .*s1-00000-000-00000\.arrow is gone; start again with --overwrite"):
            run(tmp_path / "raw", tmp_path / "out")
    assert commits.list_versions(tmp_path / "out") == []
    assert run(tmp_path / "raw", tmp_path / "out", overwrite=True).rows_out == 2


def test_too_much_set_aside_names_both_kinds(tmp_path: Path) -> None:
    """The refusal counts damaged structure and values apart, shows at most five reasons, and names the quarantine and the number to accept."""
    lines = ["a,b", *("1,x" for _ in range(20)), *("1,x,y" for _ in range(3)), *("oops,x" for _ in range(4))]
    (tmp_path / "t.csv").write_text("\n".join(lines[:21]) + "\n" * 2)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("\n".join(lines[:21]) + "\n")
    (tmp_path / "raw" / "b.csv").write_text("\n".join([lines[0], *lines[21:]]) + "\n")
    with pytest.raises(BadData) as caught:
        run(tmp_path / "raw", tmp_path / "out", max_bad=6)
    text = str(caught.value)
    assert "7 of 27 rows cannot be read (3 by damaged structure, 4 by their values), more than max_bad (6) allows; nothing was published." in text
    assert 3 <= text.count("\n  b.csv, row ") <= 5
    assert "_penstock/quarantine/" in text
    assert text.endswith("--resume --max-bad 7")
    assert run(tmp_path / "raw", tmp_path / "out", max_bad=7, resume=True).rows_out == 20


def test_commit_is_signed_with_its_version(tmp_path: Path) -> None:
    """The same job may commit twice, as append does: its name and the version make each commit's own."""
    job = Job(tmp_path, "f" * 32)
    assert commit_name(job, 3) == f"{'f' * 32}.3"
    (tmp_path / "t.csv").write_text("x\n1\n")
    first = run(tmp_path / "t.csv", tmp_path / "out")
    run(tmp_path / "t.csv", tmp_path / "out", append=True)
    assert [commits.read_commit(tmp_path / "out", version).job for version in (1, 2)] == [f"{first.job}.1", f"{first.job}.2"]
