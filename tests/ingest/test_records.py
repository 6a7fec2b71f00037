"""Where text can be cut: the fast way to find records equals Python's own csv module."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ingest.records import Memory, cuts, find_all, quotes_are_regular, records, stray_quote

Cells = st.lists(st.lists(st.text('ab ,"\n', max_size=6), min_size=2, max_size=2), max_size=30)


def memory(data: bytes) -> Memory:
    """Return bytes as an array."""
    return np.frombuffer(data, np.uint8)


def written(rows: list[list[str]]) -> bytes:
    """Return rows as the csv module writes them, values quoted."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


@given(Cells)
def test_records_equal_the_csv_module_s(rows: list[list[str]]) -> None:
    """Each record found alone parses to the row that was written, and begins on the line that the csv module counts."""
    data = written(rows)
    found = records(memory(data), delimiter=44)
    assert found is not None
    assert len(found) == len(rows)
    reader = csv.reader(io.StringIO(data.decode(), newline=""))
    line = 0
    for index, row in enumerate(rows):
        alone = data[found.starts[index] : found.ends[index]].decode()
        assert next(csv.reader(io.StringIO(alone, newline=""))) == row
        assert found.lines[index] == line
        next(reader)
        line = reader.line_num


@given(Cells, st.integers(1, 60))
def test_cuts_cover_the_text(rows: list[list[str]], piece: int) -> None:
    """Runs of records follow each other from the first byte to the last, begin at records, and know their lines."""
    data = written(rows)
    found = records(memory(data), delimiter=44)
    assert found is not None
    runs = cuts(found, len(data), piece)
    assert [start for start, _, _ in runs] == [0, *[stop for _, stop, _ in runs[:-1]]][: len(runs)]
    if runs:
        assert runs[-1][1] == len(data)
    for start, stop, line in runs:
        again = records(memory(data[start:stop]), delimiter=44)
        assert again is not None
        assert (again.lines + line).tolist() == found.lines[(found.starts >= start) & (found.starts < stop)].tolist()


@given(st.lists(st.sampled_from(["x", "", "  ", "\t", '{"a": 1}', "\r"]), max_size=20), st.booleans())
def test_blank_lines_are_no_records(lines: list[str], ended: bool) -> None:
    """Lines of nothing but blanks are passed over, and the line numbers of the others stay right."""
    data = ("\n".join(lines) + ("\n" if ended else "")).encode()
    found = records(memory(data))
    assert found is not None
    assert found.lines.tolist() == [number for number, text in enumerate(lines) if text.strip()]


@pytest.mark.parametrize("space", [b" " * 65, b" " * 100, b"\t" * 200_000, b" \r" * 70, b" " * 99 + b"\r"], ids=len)
def test_blank_lines_of_any_length_are_no_records(space: bytes) -> None:
    """However long a line of spaces is it is blank; with one other byte anywhere in it, it is a record."""
    found = records(memory(b"a\n" + space + b"\nb\n" + space))
    assert found is not None
    assert found.lines.tolist() == [0, 2]
    for at in (0, 1, len(space) // 3, len(space) // 2, len(space) - 2, len(space) - 1):
        found = records(memory(b"a\n" + space[:at] + b"x" + space[at + 1 :] + b"\nb"))
        assert found is not None
        assert found.lines.tolist() == [0, 1, 2]


def parsed(data: bytes, columns: int) -> int:
    """Return how many rows pyarrow finds in CSV without a header; values of one column, or all empty in more."""
    reading = pa.csv.ReadOptions(column_names=[f"c{number}" for number in range(columns)], use_threads=False, block_size=len(data) + 1)
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    return int(pa.csv.read_csv(pa.BufferReader(data), reading, parsing).num_rows) if data.strip(b"\r\n") else 0


Rows = st.sampled_from(["x", "", " ", "   ", "\t", " \t ", '""', '" "', '"\n"', '"\r\n\r\n"', " x "])


@settings(deadline=None)
@given(st.lists(st.tuples(Rows, st.sampled_from(["\n", "\r\n", "\r\r\n"]))), Rows, st.integers(1, 3))
def test_records_of_csv_are_the_rows_that_the_parser_finds(lines: list[tuple[str, str]], last: str, columns: int) -> None:
    """Only a line without a byte is blank in CSV: a value of spaces, in one column or beside others, is a row, as pyarrow has it."""
    beside = "," * (columns - 1)
    data = ("".join((row + beside if row else row) + end for row, end in lines) + (last and last + beside)).encode()
    found = records(memory(data), delimiter=44)
    assert found is not None
    assert len(found) == parsed(data, columns)


@given(st.lists(st.sampled_from([b"\t\t", b"", b"\t", b" ", b"a\tb"])))
def test_empty_values_between_tabs_are_rows(lines: list[bytes]) -> None:
    """A line of tabs is a row of empty values where tabs stand between values."""
    data = b"\n".join(lines)
    found = records(memory(data), delimiter=9)
    assert found is not None
    assert found.lines.tolist() == [number for number, line in enumerate(lines) if line]


@pytest.mark.parametrize(
    ("text", "regular"),
    [
        (b'a,"b"\n', True),
        (b'"a""b",c\n', True),
        (b'"a\r\nb","c"\r\n', True),
        (b'a,5" pipe\n', False),
        (b'5" and 6" pipe\n', False),
        (b'"open\n', False),
        (b'"a"b,c\n', False),
        (b"", True),
    ],
)
def test_quotes_around_whole_values(text: bytes, regular: bool) -> None:
    """Quotes are regular when they stand around whole values or are doubled inside; only then are records cut."""
    data = memory(text)
    assert quotes_are_regular(data, find_all(data, 34), 44) is regular
    assert (records(data, delimiter=44) is not None) is regular


@given(Cells)
def test_what_is_closed_has_no_stray_quote(rows: list[list[str]]) -> None:
    """Text that the csv module wrote has no stray quote; without its last one the last value is the one that is named."""
    data = written(rows)
    assert stray_quote(memory(data), 44) is None
    if rows:
        last = len(data) - 2
        found = stray_quote(memory(data[:last] + b"\n"), 44)
        value = len(rows[-1][-1].replace('"', '""'))
        assert found == (last - value - 1, "is never closed")
