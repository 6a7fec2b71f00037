"""`penstock convert` and the group it lives in: options, exit codes, what goes to which stream, and what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from contracts.raw import image_folder, rows_of

from penstock.cli.app import COMMANDS, command_function

MAIN = "import sys; from penstock.cli.app import main; main()"


def penstock(*arguments: object, program: str = MAIN) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


def test_version_is_fast_and_imports_little() -> None:
    """`--version` brings neither numpy nor pyarrow nor any command."""
    program = (
        "import sys, atexit; atexit.register(lambda: print(sorted(m for m in sys.modules if m in ('numpy', 'pyarrow', 'torch', 'penstock.cli.convert', 'penstock.ingest'))))\n"
        + MAIN
    )
    done = penstock("--version", program=program)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("penstock ")
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_function_with_help(name: str) -> None:
    """Each command's module holds a documented function of its name."""
    assert command_function(name).__doc__


def test_help_lists_the_commands() -> None:
    """`--help` names every command."""
    done = penstock("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout


def test_wrong_usage_is_exit_code_2() -> None:
    """An unknown command, a missing argument and an unknown option are usage errors."""
    for arguments in (("nothing",), ("convert",), ("convert", "a", "b", "--frobnicate")):
        done = penstock(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def test_conversion_with_json_report(tmp_path: Path) -> None:
    """The JSON report is all that stands on standard output; progress lines go to standard error."""
    image_folder(tmp_path / "raw")
    (tmp_path / "raw" / "class_0" / "bad.jpg").write_bytes(b"")
    done = penstock("convert", tmp_path / "raw", tmp_path / "out", "--json", "--workers", 1, "--max-bad", "10%", "--columns", "image, label")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows_in"], report["rows_out"], report["rows_set_aside"]) == (16, 15, 1)
    assert "converting" in done.stderr
    assert len(rows_of(tmp_path / "out")) == 15


def test_report_for_a_person_and_quiet(tmp_path: Path) -> None:
    """Without --json a summary is shown; --quiet leaves standard error empty."""
    image_folder(tmp_path / "raw")
    done = penstock(
        "convert", tmp_path / "raw", tmp_path / "out", "--quiet", "--workers", 0, "--split", "train=0.5", "--split", "val=50%", "--shuffle", 1
    )
    assert done.returncode == 0, done.stderr
    assert "15 rows in, 15 out, 0 set aside" in done.stdout
    assert "train:" in done.stdout
    assert done.stderr == ""


def test_error_is_one_message_and_exit_code_1(tmp_path: Path) -> None:
    """An error made on purpose is shown without a traceback, and with one under --debug."""
    done = penstock("convert", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("penstock: ")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    debug = penstock("--debug", "convert", tmp_path / "nowhere", tmp_path / "out")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert "NotADataset" in debug.stderr


def test_failure_by_bad_rows_and_resume(tmp_path: Path) -> None:
    """Above the bound: exit code 1 with the remedy, nothing published; the remedy works."""
    image_folder(tmp_path / "raw")
    (tmp_path / "raw" / "class_0" / "bad.jpg").write_bytes(b"")
    done = penstock("convert", tmp_path / "raw", tmp_path / "out", "--quiet", "--workers", 0)
    assert done.returncode == 1
    assert "class_0/bad.jpg" in done.stderr
    assert "--resume --max-bad 1" in done.stderr
    done = penstock("convert", tmp_path / "raw", tmp_path / "out", "--quiet", "--workers", 0, "--resume", "--max-bad", 1)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "out")) == 15
