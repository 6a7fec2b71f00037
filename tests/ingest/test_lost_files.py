"""Files that are lost whole: their rows are counted where the file says how many, and where it does not, no fraction allows the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from contracts.raw import nothing_published, quarantine, run

from penstock.errors import BadData
from penstock.ingest.report import Report, parse_max_bad

ROWS = 40


def _parquet(path: Path, name: str) -> Path:
    pq.write_table(pa.table({name: list(range(ROWS))}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def _arrow(path: Path, name: str) -> Path:
    table = pa.table({name: list(range(ROWS))})
    with pa.ipc.new_file(str(path.with_suffix(".arrow")), table.schema) as out:
        out.write_table(table, max_chunksize=7)
    return path.with_suffix(".arrow")


def _csv(path: Path, name: str) -> Path:
    path.with_suffix(".csv").write_text(f"{name},t\n" + "".join(f'{i},"a\nb"\n' for i in range(ROWS)))
    return path.with_suffix(".csv")


def _npz(path: Path, name: str) -> Path:
    np.savez(path.with_suffix(".npz"), **{name: np.arange(ROWS)})  # type: ignore[arg-type]
    return path.with_suffix(".npz")


MAKERS = {"parquet": _parquet, "arrow": _arrow, "csv": _csv, "npz": _npz}


@pytest.mark.parametrize("kind", MAKERS)
def test_refused_file_counts_its_rows(tmp_path: Path, kind: str) -> None:
    """A file with other columns loses as many rows as it says it has, so a bound of a third refuses half of the source."""
    (tmp_path / "raw").mkdir()
    MAKERS[kind](tmp_path / "raw" / "a", "x")
    MAKERS[kind](tmp_path / "raw" / "b", "y")
    with pytest.raises(BadData, match=f"{ROWS} of {2 * ROWS} rows cannot be read") as caught:
        run(tmp_path / "raw", tmp_path / "out", max_bad="33%")
    assert "nobody can count" not in str(caught.value)
    report = run(tmp_path / "raw", tmp_path / "out", max_bad="50%", resume=True)
    assert (report.rows_in, report.rows_out, report.rows_set_aside, report.uncounted) == (2 * ROWS, ROWS, ROWS, 0)
    assert [(line["rows"], line["counted"]) for line in quarantine(tmp_path / "out")] == [(ROWS, True)]


def test_npy_cut_behind_its_header_counts_its_rows(tmp_path: Path) -> None:
    """A `.npy` whose data was cut short is lost with the rows that its header promises."""
    (tmp_path / "raw").mkdir()
    np.save(tmp_path / "raw" / "a.npy", np.zeros((3, 2)))
    np.save(tmp_path / "raw" / "b.npy", np.zeros((ROWS, 2)))
    whole = (tmp_path / "raw" / "b.npy").read_bytes()
    (tmp_path / "raw" / "b.npy").write_bytes(whole[:-100])
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=ROWS)
    assert (report.rows_out, report.rows_set_aside, report.uncounted) == (3, ROWS, 0)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npz"])
def test_file_that_tells_nothing_exceeds_any_fraction(tmp_path: Path, kind: str) -> None:
    """A file cut to its first bytes cannot be counted: every fraction refuses it, a number takes it as one row, and the report says so."""
    (tmp_path / "raw").mkdir()
    MAKERS[kind](tmp_path / "raw" / "a", "x")
    second = MAKERS[kind](tmp_path / "raw" / "b", "x")
    second.write_bytes(second.read_bytes()[:50])
    for bound in ("100%", 0.5):
        with pytest.raises(BadData, match="1 of them stand for files, or rests of files, whose rows nobody can count"):
            run(tmp_path / "raw", tmp_path / "out", max_bad=bound, resume=True)
        assert nothing_published(tmp_path / "out")
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=1, resume=True)
    assert (report.rows_in, report.rows_out, report.rows_set_aside, report.uncounted) == (ROWS + 1, ROWS, 1, 1)
    assert "1 of those set aside are files" in str(report)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_rest_of_a_cut_tar_exceeds_any_fraction(tmp_path: Path) -> None:
    """How many samples a tar had behind its cut is unknown, in few tars and in many."""
    (tmp_path / "raw").mkdir()
    for number in range(70):
        with webdataset.TarWriter(str(tmp_path / "raw" / f"{number:03d}.tar"), mtime=0) as out:
            for i in range(4):
                out.write({"__key__": f"{number}_{i}", "txt": "x" * 2000})
    cut = tmp_path / "raw" / "005.tar"
    cut.write_bytes(cut.read_bytes()[:6000])
    for source, name in ((tmp_path / "raw", "many"), (f"{tmp_path}/raw/00[0-9].tar", "few")):
        with pytest.raises(BadData, match="nobody can count"):
            run(source, tmp_path / name, max_bad="50%")
        assert run(source, tmp_path / name, max_bad=1, resume=True).uncounted == 1


@pytest.mark.parametrize(("bound", "allowed"), [(None, False), ("100%", False), (0.5, False), (1, True), (0, False)])
def test_bounds_of_the_uncounted(bound: Any, allowed: bool) -> None:
    """Only a number of rows allows what cannot be counted."""
    assert parse_max_bad(bound).allows(1000, structure=1, samples=0, uncounted=1) is allowed
