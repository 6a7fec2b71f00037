"""A shard and what lies beside it are moved and removed together, by every room that moves shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import StorageError
from penstock.shards.staging import is_left, move_shard, remove_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Return a tar with its index, and a neighbour whose name begins alike."""
    for name in ("a.tar", "a.tar.idx", "a.tar.idxs"):
        (tmp_path / name).write_text(name)
    return tmp_path / "a.tar"


def names(folder: Path) -> list[str]:
    """Return what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def test_index_goes_with_its_shard(shard: Path) -> None:
    """Both files take the new name, over what a kill left there; nothing else is touched."""
    goal = shard.with_name("b.tar")
    goal.write_text("old")
    move_shard(shard, goal)
    assert names(shard.parent) == ["a.tar.idxs", "b.tar", "b.tar.idx"]
    assert (goal.read_text(), goal.with_name("b.tar.idx").read_text()) == ("a.tar", "a.tar.idx")


@pytest.mark.parametrize("moved", [[], ["a.tar.idx"], ["a.tar.idx", "a.tar"]], ids=str)
def test_move_can_be_done_again(shard: Path, moved: list[str]) -> None:
    """A move that was cut at any step is finished by doing it again."""
    for name in moved:
        shard.with_name(name).rename(shard.with_name(name.replace("a.", "b.")))
    move_shard(shard, shard.with_name("b.tar"))
    assert names(shard.parent) == ["a.tar.idxs", "b.tar", "b.tar.idx"]


def test_shard_in_neither_place_is_an_error(tmp_path: Path) -> None:
    """Nothing to move and nothing moved is told with the name that is missing."""
    with pytest.raises(StorageError, match="cannot move the shard") as caught:
        move_shard(tmp_path / "a.tar", tmp_path / "b.tar")
    assert "b.tar" in str(caught.value)


def test_removing_takes_both_and_may_find_neither(shard: Path) -> None:
    """A shard is removed with its index; removing it again is fine."""
    remove_shard(shard)
    remove_shard(shard)
    assert names(shard.parent) == ["a.tar.idxs"]


@pytest.mark.parametrize("there", ["a.tar", "a.tar.idx"])
def test_half_a_shard_is_left(shard: Path, there: str) -> None:
    """What a cut left of a shard counts as left, whichever of the two it is, and a neighbour's name does not."""
    assert is_left(shard)
    remove_shard(shard)
    assert not is_left(shard)
    shard.with_name(there).write_text("x")
    assert is_left(shard)


def test_index_is_removed_first(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that is cut leaves the tar, never an index that belongs to no file."""
    real = Path.unlink

    def cut(path: Path, *, missing_ok: bool = False) -> None:
        if path == shard:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", cut)
    with pytest.raises(KeyboardInterrupt):
        remove_shard(shard)
    assert names(shard.parent) == ["a.tar", "a.tar.idxs"]
