"""`penstock bench --rivals`: the side-by-side table of docs/benchmarks.md, run from a checkout of the repository.

Rivals, their data and their environments are no part of what is installed, so this only starts the program that the repository has for it; what that
prints goes through. It takes hours: the table's own page says how many.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BadRequest, WorkerFailed

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root, when this is a checkout."""

DATA = "demo_out/bench"
"""Where data are kept unless the user says otherwise, as for `make table`."""

PRUNE = "0.7"
"""As `make table` has it: a rival's settings slower than this part of its best are measured in the first round only."""

_STDERR = 2
"""Where the program's words go when standard output is for the result alone."""


def rivals(
    *, data: str, rounds: int, seconds: float, workers: Sequence[int] | None, report: str | None, png: str | None, quiet: bool
) -> dict[str, Any]:
    """Run the table and return what it found.

    Args:
        data: folder for the data, made at the first time and kept.
        rounds: how often each configuration runs.
        seconds: least time of one measurement.
        workers: numbers of workers to try; the table's own without.
        report: file for the result, written after every workload, so that an interrupted campaign keeps what it has.
        png: file for the chart.
        quiet: keep standard output free.

    Raises:
        BadRequest: there is no checkout.
        WorkerFailed: the program ended without a result.
    """
    if not (ROOT / "benchmarks" / "table.py").is_file():
        raise BadRequest(
            "--rivals runs from a checkout of the repository, and this is an installed package; clone it, then `make rivals` and `make table` there"
        )
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "table.json") if report is None else Path(report).resolve()
        command = [sys.executable, "-m", "benchmarks.table", "--data", str(Path(data).resolve()), "--prune", PRUNE, "--json", str(told)]
        command += ["--rounds", str(rounds), "--seconds", str(seconds), "--warm", str(seconds * 3 / 4)]
        command += [] if workers is None else ["--workers", ",".join(map(str, workers))]
        command += [] if png is None else ["--png", str(Path(png).resolve())]
        code = subprocess.run(command, cwd=ROOT, stdout=_STDERR if quiet else None, check=False).returncode  # noqa: S603  (our own)
        if code or not told.is_file():
            raise WorkerFailed(f"the table ended with code {code}; what went wrong stands above", stage="bench")
        found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    return found
