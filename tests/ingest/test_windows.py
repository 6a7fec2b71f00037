"""Large text walked window by window: the same records, cuts, counts, samples and strays as the whole at once, wherever the windows end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import quarantine, rows_of, run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData
from penstock.ingest import sources_text
from penstock.ingest import windows as windows_module
from penstock.ingest.records import Memory, Records, cuts, records, stray_quote
from penstock.ingest.windows import Unruly, count_lines, count_records, is_regular, walk, walk_cuts, walk_samples

Wild = st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b" ", b"\t"]), max_size=24).map(b"".join)
Values = st.sampled_from([b"", b"a", b'"b"', b'"a""b"', b'"\n"', b'"\r\n"', b'"",""', b'"a,\n"', b" ", b'""', b'""""'])
Lines = st.lists(st.lists(Values, min_size=1, max_size=3).map(b",".join), max_size=8)
Tame = st.builds(lambda lines, end, last: end.join(lines) + last, Lines, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"", b"\n", b"\r\n"]))
Texts = Wild | Tame
"""Any text, and text that is CSV more often than not, so that records, doubled quotes and quoted line breaks lie across edges."""

EDGES = (b" \n\t\t\n\r\r\n\r\n    \r\n", b'"a""b"\r\n"c\r\nd",e\r\n', b'"\n"\n', b'""""', b'a"b', b'"a"b\n', b'"', b"\r\n\r\n a\n", b'"a\nb" "c"\n')


def memory(data: bytes) -> Memory:
    """Return bytes as an array."""
    return np.frombuffer(data, np.uint8)


def windows(data: bytes) -> Iterator[int]:
    """Return every size of window that tells apart where its edges lie."""
    return iter(range(1, len(data) + 2))


def walked(data: bytes, delimiter: int | None, window: int) -> list[list[int]] | None:
    """Return (start, end, line) of the records that a walk finds."""
    try:
        return [row for found in walk(memory(data), delimiter=delimiter, window_bytes=window) for row in _rows(found)]
    except Unruly:
        return None


def _rows(found: Records) -> list[list[int]]:
    return np.stack([found.starts, found.ends, found.lines], 1).tolist()  # type: ignore[no-any-return]


def edges(test: Any) -> Any:
    """Add the texts with something at each place where a window may end."""
    for text in EDGES:
        test = example(data=text, delimiter=44)(test)
    return test


@settings(deadline=None, max_examples=150)
@given(data=Texts, delimiter=st.sampled_from([44, 9, None]))
@edges
def test_walk_finds_what_the_whole_shows(data: bytes, delimiter: int | None) -> None:
    """Records, their lines, whether they can be told apart, and their number are those of the whole text for every size of window."""
    whole = records(memory(data), delimiter=delimiter)
    lines = records(memory(data), delimiter=delimiter, quotes=False)
    assert lines is not None
    for window in windows(data):
        assert walked(data, delimiter, window) == (None if whole is None else _rows(whole))
        assert count_records(memory(data), delimiter=delimiter, window_bytes=window) == len(lines if whole is None else whole)
        assert count_lines(memory(data), window_bytes=window) == data.count(b"\n")
    assert is_regular(memory(data), delimiter) is (whole is not None)


@settings(deadline=None, max_examples=150)
@given(data=Texts, delimiter=st.sampled_from([44, None]), piece=st.integers(1, 30))
def test_cuts_are_those_of_the_whole(data: bytes, delimiter: int | None, piece: int) -> None:
    """Pieces begin and end at the same bytes and lines, and a text that cannot be cut is not cut, for every size of window."""
    whole = records(memory(data), delimiter=delimiter)
    wanted = None if whole is None else cuts(whole, len(data), piece)
    for window in windows(data):
        assert walk_cuts(memory(data), piece, delimiter=delimiter, window_bytes=window) == wanted


@settings(deadline=None, max_examples=150)
@given(data=Texts, places=st.tuples(st.integers(0, 30), st.integers(0, 30)), look=st.integers(1, 10))
def test_samples_are_those_of_the_whole(data: bytes, places: tuple[int, int], look: int) -> None:
    """The records behind a place are the same that a search in all of them gives, for every size of window."""
    whole = records(memory(data), delimiter=44)
    wanted: list[bytes] | None = None if whole is None else []
    for place in places if whole is not None and len(whole) else ():
        assert whole is not None
        assert wanted is not None
        low = min(int(np.searchsorted(whole.starts, place)), len(whole) - 1)
        high = max(int(np.searchsorted(whole.starts, place + look)), low + 1)
        wanted.append(data[whole.starts[low] : whole.ends[high - 1]])
    for window in windows(data):
        found = walk_samples(memory(data), places, look, delimiter=44, window_bytes=window)
        assert (None if found is None else [run.tobytes() for run in found]) == wanted


def stray(data: bytes) -> tuple[int, str] | None:
    """Return what `stray_quote` should: byte by byte, as one would tell it."""
    ends = b",\n\r"
    at = 0
    while at < len(data):
        if data[at] != 34 or (at and data[at - 1] not in ends):
            at += 1
            continue
        opened = at
        at += 1
        while at < len(data):
            if data[at] == 34 and data[at + 1 : at + 2] == b'"':
                at += 2
            elif data[at] == 34 and (at + 1 == len(data) or data[at + 1] in ends or b"\n" not in data[opened:at]):
                break
            elif data[at] == 34:
                return opened, "is closed on another line, inside a value"
            else:
                at += 1
        else:
            return opened, "is never closed"
        at += 1
    return None


@settings(deadline=None, max_examples=150)
@given(data=Texts)
def test_stray_quotes_are_those_of_the_whole(data: bytes) -> None:
    """The quote that takes other records into its value, and why, is what a look at byte after byte says, for every size of window."""
    for window in windows(data):
        assert stray_quote(memory(data), 44, window_bytes=window) == stray(data)


@pytest.mark.parametrize(
    ("text", "delimiter"), [(b'{"a": 1}\n', None), (b'1,"a ""b"" c",2\n', 44), (b"\n", None), (b'"', 44), (b'5",\n', 44)], ids=repr
)
def test_memory_does_not_grow_with_the_file(text: bytes, delimiter: int | None) -> None:
    """A text of 64 windows is cut, sampled, counted and searched for strays with what two windows need, whatever it is made of."""
    window = 2**13
    data = memory(text * (64 * window // len(text)))
    tracemalloc.start()
    try:
        walk_cuts(data, 2**16, delimiter=delimiter, window_bytes=window)
        walk_samples(data, (0, len(data) // 2), window, delimiter=delimiter, window_bytes=window)
        count_records(data, delimiter=delimiter, window_bytes=window)
        if delimiter is not None:
            stray_quote(data, delimiter, window_bytes=window)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 130 * window


def test_json_lines_are_regular_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quotes hold no line break nothing is walked to say that records can be told apart."""

    def walked_all(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(windows_module, "walk", walked_all)
    assert is_regular(memory(b'{"a": 1}\n"' * 9), None)
    with pytest.raises(AssertionError):
        is_regular(memory(b"a,b\n"), 44)


def test_walk_of_a_real_file_names_lines_and_looks_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV of many windows and pieces keeps the lines of its bad records right, and its last value decides the type of its column."""
    lines = [f'{number},"a\n""b"' for number in range(120_000)]
    lines[56_789] = "1,2,3"
    (tmp_path / "t.csv").write_text("i,t\n" + "\n".join(lines) + "\n0.5,x\n")
    monkeypatch.setattr(sources_text, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(sources_text, "_LOOK_BYTES", 200_000)
    report = run(tmp_path / "t.csv", tmp_path / "out", max_bad=1)
    assert (report.rows_in, report.rows_set_aside) == (120_001, 1)
    assert quarantine(tmp_path / "out")[0]["row"] == 2 + 2 * 56_789


def test_file_too_large_to_be_read_whole_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the parser's size with quotes inside values is planned from its first lines and lost by name, with its lines counted."""
    (tmp_path / "a.csv").write_text("i,t\n" + '1,5" pipe\n' * 5000)
    (tmp_path / "b.csv").write_text("i,t\n" + "2,x\n" * 10)
    monkeypatch.setattr(sources_text, "_MAX_PARSE_BYTES", 20_000)
    monkeypatch.setattr(sources_text, "_LOOK_BYTES", 995)
    report = run(str(tmp_path / "*.csv"), tmp_path / "out", max_bad=5000)
    assert (report.rows_out, report.rows_set_aside) == (10, 5000)
    assert "cannot be cut into records; quote such values" in quarantine(tmp_path / "out")[0]["reason"]


def test_first_line_longer_than_the_look_decides_by_all_that_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that cannot be cut and has no line break where it is looked at, the types come from all of that, not from its first byte."""
    (tmp_path / "a.csv").write_text("i,t\n" + '1.5,5" pipe' + "x" * 30_000 + "\n")
    (tmp_path / "b.csv").write_text("i,t\n" + "2.5,x\n" * 10)
    monkeypatch.setattr(sources_text, "_MAX_PARSE_BYTES", 20_000)
    monkeypatch.setattr(sources_text, "_LOOK_BYTES", 995)
    assert [len(part) for part in sources_text.samples(memory(b'1.5,5" pipe' + b"x" * 30_000), 44)] == [995]
    assert [len(part) for part in sources_text.samples(memory(b'1,5" pipe\n' * 3000), 44)] == [990]
    report = run(str(tmp_path / "*.csv"), tmp_path / "out", max_bad=1)
    assert (report.rows_out, report.rows_set_aside) == (10, 1)
    assert [row["i"] for row in rows_of(tmp_path / "out")] == [2.5] * 10


def test_large_file_of_blank_lines_holds_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is looked at in places only, and has nothing but blank lines, has no sample to give and is refused as one without rows."""
    monkeypatch.setattr(sources_text, "_LOOK_BYTES", 4)
    (tmp_path / "t.jsonl").write_bytes(b"\n" * 100)
    with pytest.raises(BadData, match="the source holds no record"):
        run(tmp_path / "t.jsonl", tmp_path / "out")
