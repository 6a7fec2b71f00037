"""`penstock bench --rivals`: the side-by-side table of docs/benchmarks.md, run from a checkout of the repository.

Rivals, their data and their environments are no part of what is installed, so this only starts the program that the repository has for it; what that
prints goes through. It takes hours: the table's own page says how many.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadRequest, WorkerFailed

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, when this is a checkout."""

DATA = "demo_out/bench"
"""Where data are kept unless the user says otherwise, as for `make table`."""

PRUNE = "0.7"
"""As `make table` has it: a rival's settings slower than this part of its best are measured in the first round only."""

WARM = 3 / 4
"""Of the seconds of a measurement: most of its warm-up, in the table's own proportion."""

_STDERR = 2
"""Where the program's words go when standard output is for the result alone."""


class Files(NamedTuple):
    """What a measurement is written into.

    Attributes:
        report: the result as JSON.
        png: the chart.
        markdown: the tables; empty for none.
    """

    report: str
    png: str
    markdown: str = ""


TABLE = Files("penstock-rivals.json", "penstock-rivals.png", "penstock-rivals.md")
"""What the table is written into unless the user names other files."""


def rivals(*, data: str, rounds: int | None, seconds: float | None, workers: Sequence[int] | None, files: Files, quiet: bool) -> dict[str, Any]:
    """Run the table and return what it found; what is None is as the table itself has it.

    Args:
        data: folder for the data, made at the first time and kept.
        rounds: how often each configuration runs.
        seconds: least time of one measurement.
        workers: numbers of workers to try.
        files: for the result, which is written after every workload, so that an interrupted campaign keeps what it has, for the chart and the tables.
        quiet: keep standard output free.

    Raises:
        BadRequest: there is no checkout.
        WorkerFailed: the program ended without a result.
    """
    if not (ROOT / "benchmarks" / "table.py").is_file():
        raise BadRequest(
            "--rivals runs from a checkout of the repository, and this is an installed package; clone it, then `make rivals` and `make table` there"
        )
    report, png, markdown = (str(Path(file).resolve()) for file in files)
    command = [sys.executable, "-m", "benchmarks.table", "--data", str(Path(data).resolve()), "--prune", PRUNE]
    command += ["--json", report, "--png", png, "--markdown", markdown]
    command += [] if rounds is None else ["--rounds", str(rounds)]
    command += [] if seconds is None else ["--seconds", str(seconds), "--warm", str(seconds * WARM)]
    command += [] if workers is None else ["--workers", ",".join(map(str, workers))]
    code = subprocess.run(command, cwd=ROOT, stdout=_STDERR if quiet else None, check=False).returncode  # noqa: S603  (our own)
    if code or not Path(report).is_file():
        raise WorkerFailed(f"the table ended with code {code}; what went wrong stands above", stage="bench")
    found: dict[str, Any] = json.loads(Path(report).read_text(encoding="utf-8"))
    return found
