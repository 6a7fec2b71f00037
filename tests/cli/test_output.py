"""Standard output as a file that is full, a reader that went away, or closed: told in one line or not at all, and never taken for another trouble."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from contracts.raw import rows_of
from contracts.terminal import MAIN, penstock
from typer.testing import CliRunner

import penstock as ps
from penstock.cli import convert as command
from penstock.cli.app import app
from penstock.cli.output import HeardOutput, OutputLost

FULL = ["penstock: cannot write the output: No space left on device; send it somewhere else"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return a dataset of one row."""
    with ps.Writer(tmp_path / "ds", {"n": ps.Scalar()}) as writer:
        writer.write({"n": 1})
    return tmp_path / "ds"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a CSV of two rows."""
    (tmp_path / "t.csv").write_text("x\n1\n2\n")
    return tmp_path / "t.csv"


def shell(redirected: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell, with a redirection."""
    line = f'exec "$0" "$@" {redirected}'
    return subprocess.run(["sh", "-c", line, sys.executable, "-c", MAIN, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("convert", "--help"), ("inspect", "DS"), ("inspect", "DS", "--json"), ("verify", "DS")]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_full_disk_is_one_line_whatever_wrote(dataset: Path, arguments: tuple[str, ...], buffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the standard output is one line with exit code 1, and no traceback, for commands, help and version, buffered or not."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    told = shell(">/dev/full", *(dataset if one == "DS" else one for one in arguments))
    assert (told.returncode, told.stderr.splitlines()) == (1, FULL)


def test_debug_shows_where_the_output_was_lost(dataset: Path) -> None:
    """`--debug` asks for the traceback of this error too."""
    told = shell(">/dev/full", "--debug", "inspect", dataset)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].endswith("OutputLost: [Errno 28] No space left on device")
    assert "Exception ignored" not in told.stderr


def test_reader_that_has_seen_enough(dataset: Path) -> None:
    """A pipe that nobody reads any more ends the command with exit code 1 and without a word."""
    told = shell("| true", "inspect", dataset, "--json")
    assert told.stderr == ""
    with subprocess.Popen([sys.executable, "-c", MAIN, "inspect", str(dataset)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        assert running.stderr.read() == b""
    assert running.returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_keep_nothing_from_being_done(tmp_path: Path, table: Path, closed: str) -> None:
    """Without a standard output, or any stream at all, a conversion is done, exit code 0, and no file takes a stream's place."""
    told = shell(closed, "convert", table, tmp_path / "out", "--workers", 1)
    assert told.returncode == 0, told.stderr
    assert "Error" not in told.stderr
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [1, 2]
    assert penstock("verify", tmp_path / "out").returncode == 0


def test_name_too_long_is_told_as_that(tmp_path: Path, table: Path) -> None:
    """An error of the file system is not taken for trouble with the output: it is told with its file and what to do, source or destination."""
    long = tmp_path / ("a" * 300)
    for arguments, doing in (((table, long), "look at the destination"), ((long, tmp_path / "out"), "look at the source")):
        told = penstock("convert", *arguments)
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.splitlines() == [f"penstock: {long}: cannot {doing}: the name is too long for the file system: use a shorter path"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            FileNotFoundError(errno.ENOENT, "gone", "/raw/x"),
            "/raw/x: cannot run the command: it does not exist (any more): restore it, or check the path",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "cannot run the command: Broken pipe (errno 32)"),
        (OSError("no number"), "cannot run the command: no number (errno None)"),
    ],
)
def test_other_errors_of_the_system_are_one_line(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    """Whatever the system refuses a command is one line that says so, a broken pipe of a command's own too."""

    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command, "run", refused)
    told = CliRunner().invoke(app, ["convert", "a", "b"])
    assert (told.exit_code, told.stdout, told.stderr) == (1, "", f"penstock: {said}\n")
    assert CliRunner().invoke(app, ["--debug", "convert", "a", "b"]).exception is error or isinstance(error, BrokenPipeError)


def test_output_before_an_error_is_kept(dataset: Path, tmp_path: Path) -> None:
    """What a command wrote before it failed reaches its reader: here the problems of a damaged dataset, as JSON, with exit code 1."""
    (shard,) = (dataset / "data").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1])
    with (tmp_path / "told.json").open("w") as file:
        told = subprocess.run([sys.executable, "-c", MAIN, "verify", "--json", str(dataset)], stdout=file, check=False)
    assert told.returncode == 1
    assert json.loads((tmp_path / "told.json").read_text())["ok"] is False


class _Refusing(io.RawIOBase):
    """A file that takes nothing until it is told to."""

    takes = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self.takes:
            raise OSError(errno.EIO, "Input/output error")
        return len(data)


@pytest.mark.parametrize("text", ["x\n", "x" * 100_000], ids=["buffered", "written at once"])
def test_each_failure_of_the_stream_is_told_as_lost(text: str) -> None:
    """A write or a flush that fails raises `OutputLost` with the system's reason, which nobody takes for an `OSError`."""
    file = _Refusing()
    stream = HeardOutput(io.BufferedWriter(file), encoding="utf-8")  # type: ignore[type-var]
    with pytest.raises(OutputLost) as caught:
        _written_out(stream, text)
    assert caught.value.error.errno == errno.EIO
    assert not isinstance(caught.value, OSError)
    file.takes = True
    stream.close()


def _written_out(stream: HeardOutput, text: str) -> None:
    stream.write(text)
    stream.flush()
