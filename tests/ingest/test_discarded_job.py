"""A conversion killed while it was publishing and then discarded: its shards go, what a version names stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contracts.raw import image_folder, rows_of, run

import penstock as ps
from penstock.ingest import convert as conversions
from penstock.ingest import publish as module
from penstock.shards import commits


def killed(monkeypatch: pytest.MonkeyPatch, place: object, name: str, src: Path, out: Path, **options: Any) -> None:
    """Run a conversion that ends, without cleaning up, in the place of a call."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, name, die)
        with pytest.raises(KeyboardInterrupt):
            run(src, out, **options)


def shards(root: Path) -> set[str]:
    """Return the files of all shards below a folder, by relative path."""
    return {path.relative_to(root).as_posix() for path in root.glob("**/data/*")}


def named(root: Path) -> set[str]:
    """Return the shards, and the indexes of tars, that the versions below a folder name."""
    roots = [path.parent.parent for path in root.glob("**/_penstock/commits")]
    paths = [one / shard.path for one in roots for v in commits.list_versions(one) for shard in commits.read_commit(one, v).added]
    return {path.relative_to(root).as_posix() for shard in paths for path in (shard, shard.with_name(f"{shard.name}.idx")) if path.exists()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return an image folder that makes several shards."""
    image_folder(tmp_path / "raw", each=8, height=160, width=200, quality=95)
    return tmp_path / "raw"


SMALL = {"shard_size": 60_000}
SPLIT = {"split": {"a": 0.5, "b": 0.5}}


@pytest.mark.parametrize("again", [{}, {"shard_size": 10**6}], ids=["the same command", "other settings"])
@pytest.mark.parametrize("options", [{}, {"format": "tar"}, {"shuffle": 3}, SPLIT], ids=str)
def test_moved_shards_of_a_discarded_job_go(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], again: dict[str, Any]
) -> None:
    """`--overwrite` behind a kill between moving and committing leaves exactly the shards that its own version names."""
    out = tmp_path / "out"
    killed(monkeypatch, commits, "commit", source, out, **SMALL, **options)
    assert len(shards(out)) > 2
    for path in sorted((source / "class_0").iterdir())[1:]:
        path.unlink()
    run(source, out, overwrite=True, **{**SMALL, **again}, **options)
    assert shards(out) == named(out)
    assert len(rows_of(out / "a") + rows_of(out / "b") if "split" in options else rows_of(out)) == 17


def test_kill_between_two_moves(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the shards that were moved before a kill in the middle of them go, and a stranger's file in `data/` stays."""
    real, calls = module._moved, iter(range(100))

    def cut(*given: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_moved", cut)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out", **SMALL)
    assert len(shards(tmp_path / "out")) == 2
    (tmp_path / "out" / "data" / "notes.txt").write_text("mine")
    run(source, tmp_path / "out", overwrite=True)
    assert shards(tmp_path / "out") == named(tmp_path / "out") | {"data/notes.txt"}


def test_kill_inside_a_move(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the index of a tar and the tar itself, the job gives way and the index goes with it; resumed, it is finished."""
    real = Path.replace

    def cut(path: Path, goal: Path) -> Path:
        if goal.parent.name == "data" and goal.suffix == ".tar":
            raise KeyboardInterrupt
        return real(path, goal)

    for out, again in ((tmp_path / "anew", {"overwrite": True, "shard_size": 10**6}), (tmp_path / "on", {"resume": True, **SMALL})):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", cut)
            with pytest.raises(KeyboardInterrupt):
                run(source, out, format="tar", **SMALL)
        assert len(shards(out)) == 1
        run(source, out, format="tar", **again)
        assert shards(out) == named(out)
        assert len(rows_of(out)) == 24


@pytest.mark.parametrize("again", [{}, {"columns": ["image"]}], ids=["the same command", "other settings"])
def test_committed_shards_of_a_discarded_job_stay(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: dict[str, Any]) -> None:
    """A job killed right behind its commit gives way, but its version can still be read, also when it was of an append."""
    out = tmp_path / "out"
    run(source, out, **SMALL)
    killed(monkeypatch, conversions, "keep_report", source, out, append=True, **SMALL)
    assert len(ps.Dataset(str(out), version=2)) == 48
    run(source, out, overwrite=True, **SMALL, **again)
    assert [len(rows_of(out, version=version)) for version in (1, 2, 3)] == [24, 48, 24]
    assert shards(out) == named(out)


def test_one_split_committed_and_the_other_not(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two splits the one that was committed before the kill keeps its shards and its version."""
    real, calls = commits.commit, iter(range(100))

    def cut(*given: Any, **named_: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*given, **named_)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "commit", cut)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out", **SMALL, **SPLIT)
    rows = len(rows_of(tmp_path / "out" / "a"))
    run(source, tmp_path / "out", overwrite=True, **SPLIT)
    assert len(rows_of(tmp_path / "out" / "a", version=1)) == rows
    assert shards(tmp_path / "out") == named(tmp_path / "out")


def test_job_that_cannot_be_understood_takes_nothing_with_it(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job with a damaged plan nobody can say what it moved: its folder goes, files in `data/` stay."""
    killed(monkeypatch, commits, "commit", source, tmp_path / "out", **SMALL)
    moved = shards(tmp_path / "out")
    (plan,) = (tmp_path / "out").glob("_penstock/jobs/*/plan.json")
    plan.write_text("{}")
    run(source, tmp_path / "out", overwrite=True)
    assert moved <= shards(tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 24
