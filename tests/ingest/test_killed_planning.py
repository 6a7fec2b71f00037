"""A conversion killed while it is planned: what was asked is not forgotten, and never reported as done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contracts.raw import rows_of, run, tree

from penstock.errors import AlreadyExists, BadData
from penstock.ingest import convert as module


def killed(monkeypatch: pytest.MonkeyPatch, place: str, src: Path, out: Path, **options: Any) -> None:
    """Begin a conversion that ends, without cleaning up, where it calls `place`."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, place, die)
        with pytest.raises(KeyboardInterrupt):
            run(src, out, **options)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a CSV file that has been converted to `out` once and holds another row since."""
    (tmp_path / "t.csv").write_text("x\n1\n")
    run(tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "t.csv").write_text("x\n2\n3\n")
    return tmp_path / "t.csv"


@pytest.mark.parametrize("place", ["make_plan", "check_source", "_begin"])
@pytest.mark.parametrize(("option", "expected"), [("overwrite", [2, 3]), ("append", [1, 2, 3])])
def test_resume_does_what_was_asked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, option: str, expected: list[int]
) -> None:
    """`--resume` after a kill in planning overwrites or appends, although the same settings made the version that stands."""
    killed(monkeypatch, place, source, tmp_path / "out", **{option: True})
    report = run(source, tmp_path / "out", resume=True)
    assert report.rows_out == 2
    assert [row["x"] for row in rows_of(tmp_path / "out")] == expected
    assert not list((tmp_path / "out" / "_penstock").glob("jobs*"))
    assert run(source, tmp_path / "out", resume=True) == report


def test_asking_again_works_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill in planning the same command, or another, begins anew: nothing was done yet."""
    killed(monkeypatch, "make_plan", source, tmp_path / "out", append=True)
    run(source, tmp_path / "out", overwrite=True)
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [2, 3]


def test_overwrite_of_an_unfinished_job_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overwrite killed while planning replaces the unfinished job of the same settings, whose plan was of an older source."""
    (tmp_path / "t.csv").write_text("x\n1\n")
    killed(monkeypatch, "_stage", tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "t.csv").write_text("x\n2\n3\n")
    killed(monkeypatch, "make_plan", tmp_path / "t.csv", tmp_path / "out", overwrite=True)
    run(tmp_path / "t.csv", tmp_path / "out", resume=True)
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [2, 3]


def test_version_that_came_between_is_not_overwritten(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked holds for the version that stood then; one that came after it is kept, with the way on."""
    killed(monkeypatch, "make_plan", source, tmp_path / "out", overwrite=True)
    run(source, tmp_path / "out", append=True, columns=["x"])
    with pytest.raises(AlreadyExists, match=r"versions \[1\] stood there when this overwrite was asked for, and \[2\] stand there now"):
        run(source, tmp_path / "out", resume=True)


def test_refused_plan_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """A source that cannot be understood is an error that was told, and leaves the destination as it was."""
    before = tree(tmp_path / "out")
    source.write_text("")
    with pytest.raises(BadData):
        run(source, tmp_path / "out", overwrite=True)
    assert tree(tmp_path / "out") == before
