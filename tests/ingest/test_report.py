"""Counts add up, bounds mean what they say, and progress goes where it should."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.ingest.progress import Bar, Lines, Silent, shown
from penstock.ingest.report import Bad, Report, SplitReport, human_bytes, parse_max_bad

REPORT = Report(
    path="/out",
    job="j",
    rows_in=10,
    rows_out=7,
    rows_set_aside=2,
    rows_left_out=1,
    bytes_in=1000,
    bytes_out=900,
    shards=2,
    quarantine="/out/q",
    splits={
        "train": SplitReport(path="/out/train", version=1, rows=5, bytes=500, shards=1),
        "val": SplitReport(path="/out/val", version=1, rows=2, bytes=400, shards=1),
    },
    seconds=1.5,
)


def test_report_goes_through_json() -> None:
    """A report equals itself after JSON, whatever it took in seconds."""
    assert Report.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT
    assert replace(REPORT, seconds=9.0) == REPORT


def test_report_that_does_not_add_up_is_refused() -> None:
    """Rows in are rows out, set aside and left out; anything else is a lost row."""
    with pytest.raises(BadRequest, match="10 in, 8 out"):
        replace(REPORT, rows_out=8)


def test_report_for_a_person() -> None:
    """The text names rows, splits and where the reasons are."""
    text = str(REPORT)
    for part in ("10 rows in", "7 out", "2 set aside", "1 in no split", "train: 5 rows", "/out/q"):
        assert part in text


@pytest.mark.parametrize(
    ("given_", "rows", "structure", "samples", "allowed"),
    [
        (None, 1000, 0, 1, True),
        (None, 999, 0, 1, False),
        (None, 10**6, 1, 0, False),
        (0, 10, 0, 0, True),
        (0, 10**6, 0, 1, False),
        (3, 10, 2, 1, True),
        ("3", 10, 2, 2, False),
        ("50%", 10, 2, 3, True),
        (0.1, 10, 1, 0, True),
        ("0.1", 10, 1, 1, False),
    ],
)
def test_bounds(given_: float | str | None, rows: int, structure: int, samples: int, allowed: bool) -> None:
    """By default a thousandth of samples and no structure; a bound that is given holds for both."""
    assert parse_max_bad(given_).allows(rows, structure=structure, samples=samples) is allowed


@given(st.floats(0, 1, allow_nan=False))
def test_percent_and_fraction_agree(fraction: float) -> None:
    """A fraction and the same in percent allow about the same."""
    assert parse_max_bad(f"{fraction * 100}%").fraction == pytest.approx(parse_max_bad(float(fraction)).fraction)


@pytest.mark.parametrize("given_", ["x", "", "-1", 1.5, "200%", True])
def test_bounds_that_mean_nothing(given_: float | str) -> None:
    """Anything that is no count, fraction or percentage is refused by value."""
    with pytest.raises(BadRequest, match="max_bad"):
        parse_max_bad(given_)


def test_bad_names_its_place() -> None:
    """A reason for a person begins with the file and the row, when there is one."""
    assert str(Bad(source="a.csv", key="a.csv#3", row=3, reason="odd")) == "a.csv, row 3: odd"
    assert str(Bad(source="a.jpg", key="a.jpg", reason="odd")) == "a.jpg: odd"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1e16, "10.0 PB")])
def test_sizes_for_a_person(count: float, text: str) -> None:
    """Sizes have a unit that fits."""
    assert human_bytes(count) == text


@pytest.mark.parametrize("kind", [Bar, Lines])
def test_progress_shows_rows_bytes_and_rate(kind: type[Bar | Lines]) -> None:
    """A bar and plain lines both show rows, bytes done and in all, and the rates; more than all is never shown."""
    stream = io.StringIO()
    show = kind(stream)
    show.start()
    show.stage("converting", 2_000_000, 1_000_000)
    show.add(500, 5_000_000)
    show._last = 0.0  # type: ignore[union-attr]
    show.add(500, 0)
    show.close()
    show.close()
    text = stream.getvalue()
    if kind is Lines:
        assert "converting: 1,000 rows, 2.0 MB of 2.0 MB" in text
        assert "rows/s" in text


def test_progress_is_silent_unless_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody who did not ask sees anything, and standard output stays empty for those who did."""
    assert type(shown(False)) is Silent
    show = shown(True)
    show.start()
    show.stage("converting", 10, 0)
    show.add(1, 10)
    show.close()
    assert capsys.readouterr().out == ""
