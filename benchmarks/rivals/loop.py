"""The loop behind every configuration of the side-by-side table, whatever the loader; needs the standard library alone.

A program hands `run` two functions: one that writes the loader's own format from the source, and one that returns the loader. The loop tells the
seconds from the start of the process to the first batch, then runs until the first epoch is over or `warm_s` have passed. It measures from there: once
`seconds` have passed, until it is as far in an epoch as where it began, so whole epochs' worth of batches with an epoch's start for each. A loader that
is not there after twice `seconds` is measured up to then, over part of an epoch, with the start of one only if that came by. So epoch starts count as
often as they occur, and a slow loader does not hold up the campaign. Beside the rate it tells the CPU seconds of the process tree in the measured time,
and how many epochs' starts were in it. Each batch is counted, and one in sixteen looked into, so that a batch that was not really made would be noticed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Load = Callable[[Config], Iterable[Any]]
"""Builds a loader: an iterable of batches, one epoch at every `iter`."""
Make = Callable[[str, Path, Path], None]
"""Writes a workload's data, of which source it is given, into an empty folder in the loader's own format."""

LOOK = 16
"""One batch in so many is looked into."""


def values_of(batch: Any) -> list[Any]:
    """Return a batch's arrays, whether it is a dict or a tuple; DALI's iterator and others wrap either in a list of one."""
    if isinstance(batch, list) and len(batch) == 1 and not hasattr(batch[0], "shape"):
        batch = batch[0]
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


def look(batch: Any) -> None:
    """Take a number out of each array of a batch."""
    for value in values_of(batch):
        item = value[len(value) - 1]
        while getattr(item, "ndim", 0):
            item = item[-1]
        float(item)


def rows_in(batch: Any) -> int:
    """Return the samples of a batch."""
    if isinstance(batch, dict):
        for value in batch.values():
            return len(value)
    return len(values_of(batch)[0])


def descendants(pid: int) -> list[int]:
    """Return the processes below one, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(child) for child in task.read_text(encoding="ascii").split()]
        except OSError:  # the thread ended between the listing and the look
            continue
        found += [one for child in below for one in (child, *descendants(child))]
    return found


def tree_cpu_s() -> float:
    """Return the CPU seconds that this process, those below it, and those below it that ended have used."""
    ticks = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended between the listing and the look
            continue
        ticks += sum(int(number) for number in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def epochs(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of epoch after epoch, and None behind each epoch."""
    while True:
        yield from loader
        yield None


def warmed(stream: Iterator[Any], warm_s: float) -> int:
    """Take batches until the first epoch is over or so many seconds have passed; return how many batches of its epoch were taken, 0 at its end."""
    until, place = time.perf_counter() + warm_s, 1
    while next(stream) is not None:
        place += 1
        if time.perf_counter() >= until:
            return place
    return 0


def measure(loader: Iterable[Any], config: Config) -> dict[str, float]:
    """Return what the loop tells of a loader."""
    stream = epochs(loader)
    look(next(stream))
    first_batch_s = time.time() - config["began"]
    first = place = warmed(stream, config["warm_s"])
    samples = batches = starts = 0
    cpu_s, began = tree_cpu_s(), time.perf_counter()
    least, most = began + config["seconds"], began + 2 * config["seconds"]
    while True:
        batch = next(stream)
        if batch is None:
            place, starts = 0, starts + 1
        else:
            place += 1
            samples += rows_in(batch)
            batches += 1
            if batches % LOOK == 0:
                look(batch)
        now = time.perf_counter()
        if now >= most or (now >= least and place == first and starts):
            break
    took_s = time.perf_counter() - began
    cpu_s = tree_cpu_s() - cpu_s
    rate = samples / took_s
    return {
        "samples_per_s": rate,
        "first_batch_s": first_batch_s,
        "samples": samples,
        "window_cpu_s": cpu_s,
        "window_s": took_s,
        "epoch_starts": starts,
    }


def run(make: Make, load: Load) -> None:
    """Make the data, or run the loop, as the configuration on the command line says; print what was measured as the last line."""
    config = json.loads(sys.argv[1])
    told: dict[str, Any] = {}
    if "make" in config:
        make(config["kind"], Path(config["source"]), Path(config["make"]))
    else:
        told = {**measure(load(config), config)}
        told["versions"] = {name: metadata.version(name) for name in config["packages"]}
    print(json.dumps(told), flush=True)
