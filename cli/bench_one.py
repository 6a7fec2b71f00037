"""The program behind one measurement of `penstock bench`: a fresh process that builds the loader, runs it and prints what it measured as JSON.

It is given its configuration as JSON on its command line. Nothing is imported before `main`: torch is what the loader brings. An error of ours is printed as
`{"error": what loaders.faults tells of it}`, so that it arrives as what it is, and the exit code is then 1.
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import time
from typing import Any

from ..errors import BadRequest, PenstockError, WorkerFailed
from ..loaders.faults import describe

STAGE = "bench"
"""Where an error is said to have happened that does not know."""


def find(place: str) -> Any:
    """Return the object at `FILE.py:NAME` or `package.module:NAME`, and what it returns when it can be called.

    Raises:
        BadRequest: there is no such file, module or name.
    """
    home, _, name = place.rpartition(":")
    if not home or not name:
        raise BadRequest(f"--transforms {place!r} is not FILE.py:NAME or package.module:NAME")
    try:
        found = runpy.run_path(home)[name] if home.endswith(".py") else getattr(importlib.import_module(home), name)
        return found() if callable(found) else found
    except PenstockError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever a user's file or function raises)
        raise BadRequest(
            f"--transforms {place!r}: {type(error).__name__}: {error}; name a dict from column to a list of ops, or a function"
        ) from None


def measure(told: dict[str, Any]) -> dict[str, float]:
    """Run the loader of a configuration for some seconds, behind a first batch and a pass that warms it; return what was measured."""
    front = importlib.import_module(__package__.rpartition(".")[0])
    workers = told["workers"]
    loader = front.DataLoader(
        front.Dataset(told["path"], columns=told["columns"]),
        batch_size=told["batch_size"],
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        transforms={} if told["transforms"] is None else find(told["transforms"]),
    )
    first_batch_s = 0.0
    warm_until = time.perf_counter() + told["seconds"]
    for _ in loader:
        first_batch_s = first_batch_s or time.time() - told["began"]
        if time.perf_counter() > warm_until:
            break
    if not first_batch_s:
        raise BadRequest(f"{told['path']} has no rows; there is nothing to measure")
    samples, wait_s, began, cpu_s = 0, 0.0, time.perf_counter(), time.process_time()
    while (elapsed_s := time.perf_counter() - began) < told["seconds"]:
        for _ in loader:
            if (elapsed_s := time.perf_counter() - began) >= told["seconds"]:
                break
        stats = loader.stats()
        samples += stats.samples
        wait_s += stats.wait_s
    cpu_s = time.process_time() - cpu_s
    loader.close()
    return {"samples_per_s": samples / elapsed_s, "first_batch_s": first_batch_s, "waiting": wait_s / elapsed_s, "parent_cpu": cpu_s / elapsed_s}


def main() -> None:
    """Measure the configuration on the command line."""
    try:
        print_line(measure(json.loads(sys.argv[1])))
    except PenstockError as error:
        told = describe(error, STAGE)
        if isinstance(error, WorkerFailed):  # the worker's own words, or none; this process adds nothing to them
            told["traceback"] = error.traceback
        print_line({"error": told})
        raise SystemExit(1) from None


def print_line(told: dict[str, Any]) -> None:
    """Write a JSON object as the last line of output."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
