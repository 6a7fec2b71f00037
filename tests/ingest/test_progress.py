"""Progress: a bar with rows, bytes, rate and time left on a terminal of 80 columns, plain lines elsewhere, nothing unasked."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from contracts.raw import image_folder
from contracts.terminal import on_a_terminal, penstock
from hypothesis import given
from hypothesis import strategies as st

from penstock.ingest import progress
from penstock.ingest.progress import Bar, Lines, Silent, shown
from penstock.ingest.report import human_bytes, human_count, human_share

BAR = re.compile(
    r"converting (?P<rows>[\d,]+) rows  (?P<done>[\d.]+)/(?P<all>[\d.]+) MB  [\d.]+[kMG]? rows/s  [\d.]+ [kMG]?B/s (?P<left>\d+:\d\d:\d\d|-:--:--)? "
)


@pytest.mark.parametrize("width", [80, 120])
def test_bar_on_a_terminal(tmp_path: Path, width: int) -> None:
    """A real run on a terminal shows every number whole, grows to the end, takes the bar away again, and leaves the report on standard output alone."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((400_000, 8)))
    seen = on_a_terminal("convert", tmp_path / "a.npy", tmp_path / "out", "--workers", 1, width=width)
    assert seen.code == 0, seen.raw
    assert seen.lines[0].startswith("planning")
    found = [match for line in seen.lines if (match := BAR.match(line))]
    assert found
    assert len(found) == len([line for line in seen.lines if line.startswith("converting")])
    assert re.fullmatch(r"\d:\d\d:\d\d", found[-1]["left"])  # at first nobody can tell
    rows = [int(match["rows"].replace(",", "")) for match in found]
    assert rows == sorted(rows)
    assert rows[-1] == 400_000
    assert found[-1]["done"] == found[-1]["all"] == "25.6"
    assert all(len(line) <= width for line in seen.lines)
    assert seen.raw.rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K"))
    assert "400,000 rows in" in seen.out
    assert "\x1b" not in seen.out


def test_plain_lines_on_a_pipe(tmp_path: Path) -> None:
    """A log gets lines without drawing codes: stage, rows, bytes, rates; `--quiet` gets none at all."""
    image_folder(tmp_path / "raw")
    told = penstock("convert", tmp_path / "raw", tmp_path / "a", "--workers", 0, "--shuffle", 3)
    assert told.returncode == 0
    lines = told.stderr.splitlines()
    pattern = r"(converting|shuffling): [\d,]+ rows, [\d.]+ k?B of [\d.]+ k?B, [\d,]+ rows/s, [\d.]+ [kM]?B/s(, \d+ s left)?"
    assert [bool(re.fullmatch(pattern, line)) for line in lines] == [True] * len(lines)
    assert {line.split(":")[0] for line in lines} == {"converting", "shuffling"}
    assert penstock("convert", tmp_path / "raw", tmp_path / "b", "--workers", 0, "--quiet").stderr == ""


def test_quiet_and_json_on_a_terminal(tmp_path: Path) -> None:
    """`--quiet` draws nothing on a terminal either."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    assert on_a_terminal("convert", tmp_path / "raw", tmp_path / "out", "--workers", 0, "--quiet", "--json").lines == []


def test_error_on_a_terminal_stands_below_the_bar(tmp_path: Path) -> None:
    """When a conversion fails the bar is gone and the message is whole."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    (tmp_path / "raw" / "class_0" / "bad.jpg").write_bytes(b"")
    seen = on_a_terminal("convert", tmp_path / "raw", tmp_path / "out", "--workers", 0, width=200)
    assert seen.code == 1
    assert any(line.startswith("penstock: ") for line in seen.lines)
    assert "--max-bad 1" in seen.raw
    assert seen.out == ""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        """Begin anywhere but at nought."""
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock in place of the machine's."""
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)  # type: ignore[attr-defined]
    return made


def test_lines_keep_their_distance(clock: Clock) -> None:
    """However often something is done, a line is written every five seconds, and one when a stage begins."""
    stream = io.StringIO()
    show = Lines(stream)
    show.stage("converting", 1000, 0)
    for _ in range(100):
        clock.now += 0.1
        show.add(1, 10)
    show.stage("shuffling", 1000, 0)
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["converting"] * (len(lines) - 1) + ["shuffling"]
    assert 3 <= len(lines) <= 5


def test_rates_and_time_left_are_of_this_run(clock: Clock) -> None:
    """What an earlier run had done counts as done and not for the rate: 200 bytes in 10 s leave 25 s for the last 500."""
    stream = io.StringIO()
    show = Lines(stream)
    show.stage("converting", 1000, 300)
    clock.now += 10.0
    show.add(50, 200)
    assert stream.getvalue().splitlines()[-1] == "converting: 50 rows, 500 B of 1.0 kB, 5 rows/s, 20 B/s, 25 s left"


def test_more_than_all_is_never_shown(clock: Clock) -> None:
    """A source that gives more bytes than were planned stops at all of them."""
    show = Lines(io.StringIO())
    show.stage("converting", 100, 0)
    clock.now += 10.0
    show.add(1, 1000)
    assert "100 B of 100 B" in show._stream.getvalue()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [Silent, Bar, Lines])
def test_showing_may_end_at_any_time(kind: type[Silent]) -> None:
    """Closing twice, before it started, and without a stage is fine for all of them: a conversion may fail anywhere."""
    for steps in ([], ["start"], ["start", "stage"], ["start", "stage", "add"]):
        show = kind() if kind is Silent else kind(io.StringIO())  # type: ignore[call-arg]
        for step in steps:
            getattr(show, step)(*{"start": (), "stage": ("x", 0, 0), "add": (1, 1)}[step])
        show.close()
        show.close()


def test_who_asks_on_a_pipe_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a terminal gets the bar, and nobody gets anything unasked or where standard error is closed."""
    assert type(shown(False)) is Silent
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())  # type: ignore[attr-defined]
    assert type(shown(True)) is Lines
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)  # type: ignore[attr-defined]
    assert type(shown(True)) is Bar
    monkeypatch.setattr("sys.stderr", None)
    assert type(shown(True)) is Silent


@given(st.floats(0, 1e18))
def test_numbers_for_a_person_are_short(count: float) -> None:
    """No size or rate has more than three digits before its point, and it is within a twentieth of what it stands for."""
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
    number, unit = human_bytes(count).split()
    assert len(number.split(".")[0]) <= 3 or unit == "PB"
    assert float(number) * scale[unit] == pytest.approx(count, rel=0.06, abs=0.5)
    if count < 1e12:
        assert len(human_count(count)) <= 6


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_share_is_in_one_unit(done: int, total: int) -> None:
    """Both numbers of a share have the unit of the whole, and all of it looks like all of it."""
    done = min(done, total)
    part, whole = human_share(done, total).split("/")
    assert whole == human_bytes(total)
    assert float(part) <= float(whole.split()[0])
    assert human_share(total, total) == f"{whole.split()[0]}/{whole}"
