"""Runs configurations against each other: each in a fresh process, all of them in turn, again and again, and tells the medians.

One program, the configuration's `module`, is started per measurement; it is handed its configuration as JSON on its command line and prints a JSON object
as its last line. Beside what it prints, the whole process tree's CPU seconds and its peak proportional set size are measured from outside. The
order of configurations turns by one in every round, so that none is always first after a pause or always behind a heavy neighbour.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from penstock.cli import bench_machine

Config = Mapping[str, Any]
"""A configuration: what the program is handed."""

ROOT = Path(__file__).resolve().parent.parent
"""Where programs find `benchmarks`; they run in an empty folder, since some write files where they are."""

LOOK_S = 0.1
"""Least seconds between two looks at a process tree's memory."""

WARM_S = 60.0
"""Seconds that importing a program may take."""

BLOCK_BYTES = 1 << 22
"""Read at once when nothing but the page cache wants it."""

GRACE_S = 5.0
"""Seconds that a program may take to end once it has told its result."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measurement.

    Attributes:
        told: what the program printed.
        cpu_s: CPU seconds of the process and all it started.
        peak_bytes: largest proportional set size of the tree that was seen.
        wall_s: seconds from start to end of the process.
    """

    told: dict[str, Any]
    cpu_s: float
    peak_bytes: int
    wall_s: float


def tree_bytes(pid: int) -> int:
    """Return the proportional set size of a process and all below it, in bytes; 0 once it is gone."""
    try:
        root = psutil.Process(pid)
        pids = [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in pids:
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it ended between the listing and the look
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it left: all of its session, which it does not share with this one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _watched(process: subprocess.Popen[bytes], out: Path, limit_s: float) -> int:
    """Wait for a process and return the peak of its tree's memory in bytes; looking takes a twentieth of one core at most."""
    peak, began, told_at, rest_s = 0, time.monotonic(), 0.0, LOOK_S
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rest_s)
            return peak
        looked = time.monotonic()
        peak = max(peak, tree_bytes(process.pid))
        now = time.monotonic()
        rest_s = max(LOOK_S, 20 * (now - looked))
        if not told_at and out.read_bytes().endswith(b"}\n"):
            told_at = now
        if (told_at and now - told_at > GRACE_S) or now - began > limit_s:
            _kill(process)


def _environment() -> dict[str, str]:
    """Return the environment of a program: it finds this folder, and may write bytecode, without which starts would measure Python's compiler."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}


def warm(config: Config) -> None:
    """Import a configuration's program, unmeasured: the first process of an environment finds its libraries on disk, the next one in memory.

    Otherwise whoever follows programs of other environments would begin a quarter of a second later than who follows one of its own.
    """
    with tempfile.TemporaryDirectory() as cwd, contextlib.suppress(subprocess.TimeoutExpired):
        command = [config.get("interpreter", sys.executable), "-W", "ignore", "-c", f"import {config['module']}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(), cwd=cwd, timeout=WARM_S, check=False)


def read_once(folders: Iterable[Path]) -> int:
    """Read every file in the folders, each once, so that it lies in the page cache; return how many bytes that were."""
    files = {path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}
    total = 0
    for path in sorted(files):
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                total += len(block)
    return total


def measure(config: Config, limit_s: float = 600.0) -> Run:
    """Run one configuration in a fresh process, by the interpreter that it names (this one by default), in an empty folder.

    A program that has told its result and does not end within `GRACE_S` is ended: some loaders leave threads or workers that wait for ever.

    Raises:
        RuntimeError: it failed; the message holds the end of what it wrote.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.time()
    command = [config.get("interpreter", sys.executable), "-W", "ignore", "-m", config["module"], json.dumps({**config, "began": began})]
    with tempfile.TemporaryDirectory() as folder:
        out, err, cwd = Path(folder, "out"), Path(folder, "err"), Path(folder, "cwd")
        cwd.mkdir()
        with out.open("wb") as told, err.open("wb") as words:
            process = subprocess.Popen(command, stdout=told, stderr=words, env=_environment(), cwd=cwd, start_new_session=True)
            try:
                peak = _watched(process, out, limit_s)
            finally:
                _kill(process)
        lines = out.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last_words = err.read_text(encoding="utf-8", errors="replace")[-3000:]
    wall_s = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told_it = bool(lines) and lines[-1].startswith("{") and lines[-1].endswith("}")
    if not told_it or process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{dict(config)} ended with code {process.returncode} after {wall_s:.0f} s:\n{last_words}")
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(told=json.loads(lines[-1]), cpu_s=cpu_s, peak_bytes=peak, wall_s=wall_s)


def turned(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in the order of a round."""
    first = turn % max(len(names), 1)
    return [*names[first:], *names[:first]]


def interleaved(configs: Mapping[str, Config], rounds: int) -> dict[str, list[Run]]:
    """Run every configuration `rounds` times, in turn."""
    runs: dict[str, list[Run]] = {name: [] for name in configs}
    for turn in range(rounds):
        for name in turned(list(configs), turn):
            runs[name].append(measure(configs[name]))
    return runs


def median(runs: Sequence[Run], key: str) -> float:
    """Return the median of a number that the program printed."""
    return statistics.median(float(run.told[key]) for run in runs)


def commit(root: Path = ROOT) -> dict[str, Any]:
    """Return the commit that is checked out and whether tracked files differ from it; nothing where this is no checkout of its own."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)  # noqa: S607  (the user's git)
        return done.stdout.strip() if done.returncode == 0 else ""

    # the prefix is empty, and so gone from the answer, where `root` is the top of the checkout
    if shutil.which("git") is None or git("rev-parse", "--show-prefix", "--is-inside-work-tree") != "true" or not git("rev-parse", "HEAD"):
        return {}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def machine() -> dict[str, Any]:
    """Return what a reader needs to repeat the measurement: date, cores, processor, versions, and the commit when this is a checkout."""
    return {**bench_machine.machine(), **commit()}
