"""The group of commands through typer's own runner: every option reaches `convert`, refusals are one line, and no value is misread."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import image_folder, rows_of
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import penstock as ps
from penstock.cli import convert as command
from penstock.cli.app import COMMANDS, app
from penstock.cli.show import spread
from penstock.cli.values import MOST_CHARACTERS, line, summary
from penstock.ingest.convert import convert as library


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each argument of `ps.convert` has its option, and arrives with the value that was typed."""
    seen: dict[str, Any] = {}

    def noted(*places: object, **options: object) -> str:
        seen.update(options, places=places)
        return "report"

    monkeypatch.setattr(command, "run", noted)
    text = "--format tar --shard-size 1MB --workers 3 --shuffle -5 --split a=0.5 --split b=50% --split-key user --resize-short 9 --max-pixels 8"
    more = "--reencode webp:7 --max-bad 1% --overwrite --check header --from csv --quiet --tokenize t.json --text-column body --end-token E --no-special-tokens"
    told = run("convert", "src", "dst", *text.split(), *more.split(), "--columns", " a, b ,")
    assert (told.exit_code, told.stdout) == (0, "report\n"), told.stderr
    assert seen == {
        "places": ("src", "dst"),
        "format": "tar",
        "shard_size": "1MB",
        "workers": 3,
        "shuffle": -5,
        "split": ["a=0.5", "b=50%"],
        "split_key": "user",
        "resize_short": 9,
        "max_pixels": 8,
        "reencode": "webp:7",
        "columns": ["a", "b"],
        "tokenize": "t.json",
        "text_column": "body",
        "end_token": "E",
        "special_tokens": False,
        "max_bad": "1%",
        "append": False,
        "overwrite": True,
        "resume": False,
        "check": "header",
        "progress": False,
        "kind": "csv",
    }
    assert {*seen, "src", "dst"} - {"places"} == set(inspect.signature(library).parameters)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--append", "--resume"), "append and resume contradict each other"),
        (("--format", "zip"), "format: 'zip'"),
        (("--split", "a"), "split: 'a' lacks '=FRACTION'"),
        (("--columns", ","), "must name one or more columns"),
        (("--from", "zip"), "kind: 'zip'"),
        (("--reencode", "gif"), "reencode: 'gif'"),
        (("--max-bad", "-1"), "max_bad: '-1'"),
        (("--shard-size", "0"), "shard_size"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    """What the library refuses is one line on standard error, exit code 1, and no destination."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    told = run("convert", tmp_path / "raw", tmp_path / "out", *arguments)
    assert (told.exit_code, told.stdout) == (1, "")
    assert len(told.stderr.splitlines()) == 1
    assert told.stderr.startswith("penstock: ")
    assert reason in told.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("--workers", "-1"), ("--resize-short", "0"), ("--shuffle", "x"), ("--max-pixels", "1.5")])
def test_wrong_usage_names_the_option(arguments: tuple[str, str]) -> None:
    """A value that typer refuses is exit code 2 with the option's name."""
    told = run("convert", "a", "b", *arguments)
    assert told.exit_code == 2
    assert arguments[0] in told.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name: str) -> None:
    """`--help` of each command names each of its options."""
    told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert told.exit_code == 0
    assert "--json" in told.stdout


def test_ctrl_c_is_130_and_debug_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt is one line and exit code 130."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    told = run("convert", tmp_path, tmp_path / "out")
    assert (told.exit_code, told.stdout, told.stderr) == (130, "", "penstock: interrupted\n")


def test_json_of_a_conversion_is_its_report(tmp_path: Path) -> None:
    """`--json` says the very numbers that the report of `ps.convert` has."""
    image_folder(tmp_path / "raw")
    told = run("convert", tmp_path / "raw", tmp_path / "out", "--workers", 0, "--quiet", "--json")
    report = json.loads(told.stdout)
    again = library(tmp_path / "raw", tmp_path / "out", workers=0, resume=True)
    assert {**report, "seconds": 0.0} == {**again.to_json(), "seconds": 0.0}
    assert len(rows_of(tmp_path / "out")) == report["rows_out"]


@given(st.integers(0, 10**9), st.integers(1, 200))
def test_rows_shown_are_spread_over_all(rows: int, count: int) -> None:
    """Rows to show are distinct, in order, begin with the first, and lie at even distances."""
    found = spread(rows, count)
    assert len(found) == min(rows, count)
    assert found == sorted(set(found))
    assert not found or (found[0] == 0 and found[-1] < rows)
    if len(found) > 2:
        steps = np.diff(found)
        assert steps.max() - steps.min() <= 1


@given(st.text(max_size=300))
def test_text_is_one_short_line(value: str) -> None:
    """Whatever a text holds, it is shown on one line, cut with its length when it is long, and whole in JSON."""
    shown = line(ps.Text(), value)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= MOST_CHARACTERS + len("... (300 characters)")
    assert summary(ps.Text(), value) == value


@given(st.integers(-3, 6))
def test_label_has_its_class_name_or_none(value: int) -> None:
    """A number that is no place in the list of names is shown as it is, a negative one too."""
    names = ["cat", "dog"]
    told = summary(ps.Scalar("int64"), value, names)
    assert told == ({"value": value, "name": names[value]} if 0 <= value < 2 else value)
    assert line(ps.Scalar("int64"), value, names) == (f"{value} ({names[value]})" if 0 <= value < 2 else str(value))
