"""CSV: what a column is, judged by all of its values; what is a value and what is absent; headers, quotes and delimiters."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from contracts.raw import quarantine, rows_of, run
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadData

Texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"), max_size=8)  # type: ignore[arg-type]
Cells = st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), Texts)


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(Cells, min_size=1, max_size=12), lines=st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], lines: str) -> None:
    """Whole numbers to the last digit, fractions bit for bit, truth values, and any text, quotes and line breaks in it included."""
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=lines, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["i", "f", "b", "t"])
        writer.writerows([(i, f, str(b).lower(), f"t{t}") for i, f, b, t in rows])
    run(folder / "t.csv", folder / "out")
    found = rows_of(folder / "out")
    assert [(row["i"], row["b"], row["t"]) for row in found] == [(i, b, f"t{t}") for i, _, b, t in rows]
    assert [row["f"] for row in found] == [f for _, f, _, _ in rows]


def fields(tmp_path: Path, text: str) -> dict[str, Any]:
    """Return the fields and rows of a CSV."""
    (tmp_path / "t.csv").write_text(text)
    run(tmp_path / "t.csv", tmp_path / "out")
    return dict(ps.Dataset(str(tmp_path / "out")).fields)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (["1", "-2"], ps.Scalar("int64")),
        (["9223372036854775807", "-9223372036854775808"], ps.Scalar("int64")),
        (["1", "2.5"], ps.Scalar("float64")),
        (["1e400", "1e20", "inf", "nan"], ps.Scalar("float64")),
        (["true", "False"], ps.Scalar("bool")),
        (["2024-01-02", "2024-01-03"], ps.Text()),
        (["1", "x"], ps.Text()),
        (["true", "yes"], ps.Text()),
    ],
)
def test_type_of_a_column(tmp_path: Path, values: list[str], field: ps.Field) -> None:
    """A column is the narrowest of whole number, number, truth value and text that holds each of its values."""
    assert fields(tmp_path, "a\n" + "\n".join(values) + "\n") == {"a": field}


def test_whole_numbers_too_large_are_text(tmp_path: Path) -> None:
    """Identifiers of 20 digits that differ in the last stay apart: as float64 they would be one number."""
    ids = ["12345678901234567890", "12345678901234567891", "7"]
    assert fields(tmp_path, "id,x\n" + "".join(f"{one},1.5\n" for one in ids)) == {"id": ps.Text(), "x": ps.Scalar("float64")}
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ids


def test_not_a_number_is_a_number(tmp_path: Path) -> None:
    """`nan` in a column of numbers is kept; an empty value and `NA` are absent, and set aside by their lines."""
    (tmp_path / "t.csv").write_text("a,b\n1.5,x\nnan,x\n-NaN,x\n,x\nNA,x\n")
    report = run(tmp_path / "t.csv", tmp_path / "out", max_bad=2)
    found = [row["a"] for row in rows_of(tmp_path / "out")]
    assert found[0] == 1.5
    assert [math.isnan(value) for value in found[1:]] == [True, True]
    assert report.rows_set_aside == 2
    assert [(line["row"], "null" in line["reason"]) for line in quarantine(tmp_path / "out")] == [(5, True), (6, True)]


def test_words_for_absent_are_words_in_text(tmp_path: Path) -> None:
    """In a column of text `NA`, `null` and an empty value are what they are."""
    assert fields(tmp_path, "t,n\nNA,1\nnull,2\n,3\nnan,4\nx,5\n")["t"] == ps.Text()
    assert [row["t"] for row in rows_of(tmp_path / "out")] == ["NA", "null", "", "nan", "x"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a CSV file of 0 bytes without a header line"),
        ("\n\n", "a CSV file of 2 bytes without a header line"),
        ("a,a\n1,2\n", r"line 1: the header \['a', 'a'\] has a name twice or an empty one"),
        ("a,,c\n1,2,3\n", r"line 1: the header \['a', '', 'c'\] has a name twice or an empty one"),
        ('"a,b\n1,2\n', "line 1: a quote that opens in the header is never closed"),
        (b"\xff,b\n1,2\n", "line 1: the header cannot be read: 'utf-8' codec"),
    ],
)
def test_header_that_is_none(tmp_path: Path, text: str | bytes, reason: str) -> None:
    """A header that is missing, doubled, has an empty name or is not UTF-8 is refused by the file's path."""
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadData, match=rf"t\.csv: {reason}"):
        run(tmp_path / "t.csv", tmp_path / "out")


def test_file_with_another_header_is_lost_whole(tmp_path: Path) -> None:
    """Of two files with unlike headers the first decides; the other is one line in the quarantine, with both headers and its rows."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "raw" / "b.csv").write_text("y,x\n1,2\n3,4\n")
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=2)
    assert (report.rows_out, report.rows_set_aside) == (1, 2)
    (line,) = quarantine(tmp_path / "out")
    assert (line["source"], line["rows"]) == ("b.csv", 2)
    assert line["reason"] == "line 1: columns ['y', 'x'], unlike ['x', 'y'] of the first file; convert such files apart"


def test_quoted_header_with_a_line_break(tmp_path: Path) -> None:
    """A header's name may hold a comma and a line break, and the lines of bad records are still counted right."""
    (tmp_path / "t.csv").write_text('"a,\nb",c\n1,2\n3\n')
    report = run(tmp_path / "t.csv", tmp_path / "out", max_bad=1)
    assert rows_of(tmp_path / "out") == [{"a,\nb": 1, "c": 2}]
    assert quarantine(tmp_path / "out")[0]["row"] == 4
    assert report.rows_in == 2


def test_quarantine_shows_the_record(tmp_path: Path) -> None:
    """What cannot be a row is shown as it stands in the file, with the parser's own reason, cut at eighty bytes."""
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},x\n" for i in range(2000)) + f"1,2,{'z' * 200}\n")
    run(tmp_path / "t.csv", tmp_path / "out", max_bad=1)
    (line,) = quarantine(tmp_path / "out")
    assert line["reason"] == f"line 2002: 3 values where the header names 2 columns: {('1,2,' + 'z' * 76).encode()!r}"
    assert line["structure"] is True


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ('id,text\n1,"hello\n2,b\n3,c\n', 2, "is never closed"),
        ('id,text\n1,"a\nb"\n2,"c""d"\n3,"hello\n4,b\n', 5, "is never closed"),
        ('id,text\n1,5" pipe\n2,"hello\n3,c""\n', 3, "is never closed"),
        ('id,text\n1,"hello\n2,"b"\n3,c\n', 2, "is closed on another line, inside a value"),
    ],
)
def test_quote_that_is_never_closed(tmp_path: Path, text: str, line: int, fault: str) -> None:
    """A quote that swallows the records behind it is damaged structure, named by the file and the line where it opens; no row is lost in silence."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadData, match=rf"t\.csv, row {line}: line {line}: the quote that opens here {fault}"):
        run(tmp_path / "t.csv", tmp_path / "out")
    assert not (tmp_path / "out" / "data").exists()


def test_file_with_an_open_quote_is_lost_whole(tmp_path: Path) -> None:
    """Beside a good file it is one line of the quarantine that stands for all of its lines."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("id,text\n1,x\n")
    (tmp_path / "raw" / "b.csv").write_text('id,text\n1,"hello\n2,b\n3,c\n')
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=3)
    assert (report.rows_in, report.rows_out, report.rows_set_aside) == (4, 1, 3)
    (bad,) = quarantine(tmp_path / "out")
    assert (bad["source"], bad["row"], bad["rows"], bad["structure"]) == ("b.csv", 2, 3, True)


def test_quotes_inside_values_are_text(tmp_path: Path) -> None:
    """A quote that opens no value takes nothing with it, and a header with a line break is read although such a quote stands below."""
    (tmp_path / "t.csv").write_text('id,"te\nxt"\n1,5" pipe\n2,"a\nb"\n3,"c"d\n')
    assert run(tmp_path / "t.csv", tmp_path / "out").rows_out == 3
    assert [row["te\nxt"] for row in rows_of(tmp_path / "out")] == ['5" pipe', "a\nb", "cd"]
