"""What a blank line is, from the file to the rows: nothing at all in CSV, nothing but space in JSON Lines. No row goes, and none comes, uncounted."""

from __future__ import annotations

from pathlib import Path

import pytest
from contracts.raw import quarantine, rows_of, run

from penstock.errors import BadData
from penstock.ingest import sources_text


def test_a_row_of_empty_texts_between_tabs_is_kept(tmp_path: Path) -> None:
    """A line of two tabs is a row of three empty texts, and is counted."""
    (tmp_path / "e.tsv").write_text("a\tb\tc\nx\ty\tz\n\t\t\nq\tr\ts\n\n")
    report = run(tmp_path / "e.tsv", tmp_path / "out")
    assert (report.rows_in, report.rows_out) == (3, 3)
    assert [tuple(row.values()) for row in rows_of(tmp_path / "out")] == [("x", "y", "z"), ("", "", ""), ("q", "r", "s")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_value_of_spaces_is_kept(tmp_path: Path, end: str) -> None:
    """In a CSV of one column a line of spaces or of a tab is a value; a line without a byte is none."""
    (tmp_path / "one.csv").write_bytes(end.join(["a", "x", "   ", "", "\t", "y", " "]).encode())
    report = run(tmp_path / "one.csv", tmp_path / "out")
    assert (report.rows_in, report.rows_out) == (5, 5)
    assert [row["a"] for row in rows_of(tmp_path / "out")] == ["x", "   ", "\t", "y", " "]


@pytest.mark.parametrize("pipe", ["", '5" pipe\n'])
def test_rows_of_spaces_are_cut_and_counted_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: str) -> None:
    """Runs that end anywhere, and a file that cannot be cut, keep each value of spaces."""
    monkeypatch.setattr(sources_text, "PIECE_BYTES", 50)
    values = [" " * (number % 5) or "x" for number in range(500)]
    (tmp_path / "one.csv").write_text("a\n" + pipe + "\n".join(values) + "\n")
    report = run(tmp_path / "one.csv", tmp_path / "out")
    assert report.rows_in == report.rows_out == 500 + bool(pipe)
    assert [row["a"] for row in rows_of(tmp_path / "out")][bool(pipe) :] == values


def test_spaces_where_two_values_belong_are_named(tmp_path: Path) -> None:
    """A line of spaces in a CSV of two columns is one value, as the parser has it: set aside by its line, not passed over."""
    (tmp_path / "two.csv").write_text("a,b\n1,2\n  \n3,4\n")
    with pytest.raises(BadData, match="line 3: 1 values where the header names 2"):
        run(tmp_path / "two.csv", tmp_path / "out")


def test_a_lost_file_counts_its_values_of_spaces(tmp_path: Path) -> None:
    """What a file with a quote that never closes would have had counts its lines of spaces as well."""
    (tmp_path / "a.csv").write_text("a\nx\n")
    (tmp_path / "b.csv").write_text('a\nx\n \n\n"y\n')
    report = run(str(tmp_path / "*.csv"), tmp_path / "out", max_bad=5)
    assert (report.rows_out, report.rows_set_aside) == (1, 3)


@pytest.mark.parametrize("space", [" " * 3, " " * 100, "\t \r" * 5000], ids=len)
def test_lines_of_space_are_no_json(tmp_path: Path, space: str) -> None:
    """A line of any number of spaces between, before and behind documents is passed over, and line numbers stay right."""
    (tmp_path / "t.jsonl").write_text(f'{space}\n{{"a": 1}}\n{space}\n{{"a": null}}\n{{"a": 2}}\n{space}')
    report = run(tmp_path / "t.jsonl", tmp_path / "out", max_bad=1)
    assert (report.rows_in, [row["a"] for row in rows_of(tmp_path / "out")]) == (3, [1, 2])
    assert quarantine(tmp_path / "out")[0]["row"] == 4
