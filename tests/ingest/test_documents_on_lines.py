"""Each line of JSON Lines holds exactly one document, whatever a parser would take from it; other lines are set aside by their number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from contracts.raw import quarantine, rows_of, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.errors import BadData

GOOD = ['{"a": 1}', ' {"a":2}\t', '{"a":\t3 }\r']
BLANK = ["", " " * 100, "\t\r"]
BAD = [
    '{"a":2}{"a":7}',
    '{"a":2} {"a":7}',
    '{"a":',
    "4}",
    '{"a":5}}',
    "null",
    '{"a":6}null',
    'null{"a":6}',
    '{"a":1}\r{"a":2}',
    "{}",
    "7",
    '{"a":[{',
    "}]}",
]


def write(path: Path, lines: list[str]) -> Path:
    """Write lines as they are and return the path."""
    path.write_bytes("\n".join(lines).encode())
    return path


def test_two_documents_on_a_line_are_one_bad_row(tmp_path: Path) -> None:
    """Beside a blank line the number of rows would be right; the line is set aside, and neither of its documents becomes a row."""
    path = write(tmp_path / "t.jsonl", ['{"a":1}', " " * 100, '{"a":2}{"a":7}', '{"a":3}'])
    with pytest.raises(BadData, match="row 3: line 3: more than one JSON document, the next at character 8; write one object a line"):
        run(path, tmp_path / "out")
    report = run(path, tmp_path / "out", resume=True, max_bad=1)
    assert (report.rows_in, report.rows_set_aside) == (3, 1)
    assert [row["a"] for row in rows_of(tmp_path / "out")] == [1, 3]
    assert [line["row"] for line in quarantine(tmp_path / "out")] == [3]


def test_a_document_over_two_lines_does_not_make_up_for_two_on_one(tmp_path: Path) -> None:
    """Three lines that a parser takes for three rows are three bad rows when no line is a document."""
    path = write(tmp_path / "t.jsonl", ['{"a":0}', '{"a":', "1}", '{"a":2}{"a":7}', '{"a":3}'])
    report = run(path, tmp_path / "out", max_bad=3)
    assert [row["a"] for row in rows_of(tmp_path / "out")] == [0, 3]
    assert [line["row"] for line in quarantine(tmp_path / "out")] == [2, 3, 4]
    assert report.rows_in == 5


def test_a_null_is_a_bad_line_and_not_the_end_of_the_worker(tmp_path: Path) -> None:
    """A run that begins with `null`, which kills the process in pyarrow's parser, has that line named like any other."""
    report = run(write(tmp_path / "t.jsonl", ["null", '{"a":1}', "null"]), tmp_path / "out", max_bad=2)
    assert report.rows_out == 1
    assert [(line["row"], "a JSON null" in line["reason"]) for line in quarantine(tmp_path / "out")] == [(1, True), (3, True)]


def test_braces_and_line_breaks_in_text_tell_nothing_apart(tmp_path: Path) -> None:
    """Text that looks like the edge of a document stays text, in lines that end as on Windows too."""
    values = ["}\n{", "}{", "} {", "\n", "}\r\n{"]
    for end in ("\n", "\r\n", "  \n", "\n\n \n\t"):
        (tmp_path / "t.jsonl").write_bytes("".join(json.dumps({"a": value}) + end for value in values).encode())
        run(tmp_path / "t.jsonl", tmp_path / "out", overwrite=True)
        assert [row["a"] for row in rows_of(tmp_path / "out")] == values


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(GOOD + BLANK + BAD), max_size=8))
@example(BAD + GOOD)
def test_rows_are_the_lines_that_are_one_document(tmp_path: Path, lines: list[str]) -> None:
    """Of good, blank and bad lines in any order the rows are those of the good ones, and the numbers set aside those of the bad ones."""
    lines = ['{"a":0}', *lines]
    out = tmp_path / "out"
    report = run(write(tmp_path / "t.jsonl", lines), out, max_bad=100, overwrite=True)
    assert [row["a"] for row in rows_of(out)] == [int(re.sub(r"\D", "", line)) for line in lines if line in GOOD or line == '{"a":0}']
    bad = [number for number, line in enumerate(lines, 1) if line in BAD]
    assert report.rows_set_aside == len(bad)
    assert not bad or [line["row"] for line in quarantine(out)] == bad
