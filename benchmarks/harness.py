"""Runs configurations against each other: each in a fresh process, all of them in turn, again and again, and tells the medians.

One program, the configuration's `module`, is started per measurement; it is handed its configuration as JSON on its command line and prints a JSON object
as its last line. Beside what it prints, the whole process tree's CPU seconds and its peak proportional set size are measured from outside. The
order of configurations turns by one in every round, so that none is always first after a pause or always behind a heavy neighbour.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

Config = Mapping[str, Any]
"""A configuration: what the program is handed."""


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


def measure(config: Config, limit_s: float = 600.0) -> Run:
    """Run one configuration in a fresh process.

    Raises:
        RuntimeError: it failed; the message holds the end of what it wrote.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.time()
    command = [sys.executable, "-W", "ignore", "-m", config["module"], json.dumps({**config, "began": began})]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # without bytecode, starts measure Python's compiler
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        out, err = process.communicate(timeout=limit_s)
    finally:
        done.set()
        watcher.join()
        process.kill()
    wall_s = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise RuntimeError(f"{dict(config)} ended with code {process.returncode}:\n{err[-3000:]}")
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(told=json.loads(out.strip().splitlines()[-1]), cpu_s=cpu_s, peak_bytes=peak, wall_s=wall_s)


def interleaved(configs: Mapping[str, Config], rounds: int) -> dict[str, list[Run]]:
    """Run every configuration `rounds` times, in turn."""
    names = list(configs)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(measure(configs[name]))
    return runs


def median(runs: Sequence[Run], key: str) -> float:
    """Return the median of a number that the program printed."""
    return statistics.median(float(run.told[key]) for run in runs)


def spread(runs: Sequence[Run], key: str) -> str:
    """Return the range of a number that the program printed, as text."""
    values = [float(run.told[key]) for run in runs]
    return f"{min(values):,.4g} to {max(values):,.4g}"


def machine() -> dict[str, Any]:
    """Return what a reader needs to repeat the measurement: date, cores, processor, versions."""
    model = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines() if line.startswith("model name")]
    names = ("penstock", "torch", "numpy", "pyarrow", "numba", "simplejpeg", "pillow")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": model[0] if model else platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }
