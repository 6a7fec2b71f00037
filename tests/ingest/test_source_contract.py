"""Every kind of source keeps the one contract of `ingest/source.py`, healthy and with each of its files spoiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.raw_sources import MAKERS
from contracts.sources import SPOILED, check_damage, check_source

from penstock.ingest.locate import KINDS
from penstock.ingest.plan import SOURCES
from penstock.ingest.report import Bad
from penstock.ingest.source import gather


def make(tmp_path: Path, kind: str) -> tuple[Path, list[dict[str, object]]]:
    """Return a source and its rows."""
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw", MAKERS[kind](tmp_path / "raw")


@pytest.mark.parametrize("kind", MAKERS)
def test_source_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    """Described the same each time, cut without loss, read the same however it is cut, any column alone."""
    check_source(*make(tmp_path, kind))


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "penstock"])
def test_damage_stays_in_its_file(tmp_path: Path, kind: str, how: str) -> None:
    """A file that is emptied, overwritten, cut or gone costs its own rows, with a reason, and no other's."""
    check_damage(*make(tmp_path, kind), how)


def test_every_kind_is_made_and_opened() -> None:
    """`--from` names exactly the sources there are, and each of them is among those that the contract is checked with."""
    assert set(SOURCES) == set(KINDS)
    assert {"csv", "tar", "files", "images", "parquet", "arrow", "hf", "penstock"} <= set(MAKERS)


def test_files_looked_at_one_by_one_are_gathered() -> None:
    """Runs keep the number of their file, its place and their size; a file set aside gives its reason and no run."""
    bad = Bad(source="b", key="b", row=None, reason="damaged", structure=True)
    looked_at: list[list[tuple[int, int, int, int]] | Bad] = [[(0, 5, 7, 50), (5, 6, 8, 10)], bad, [], [(0, 1, 0, 3)]]
    found = gather(iter(looked_at))
    assert found.spans.to_json() == [[0, 0, 5, 7], [0, 5, 6, 8], [3, 0, 1, 0]]
    assert found.sizes.tolist() == [50, 10, 3]
    assert found.bad == (bad,)
    assert len(gather([]).spans) == 0
