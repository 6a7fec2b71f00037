"""A start from the beginning and one from a saved state, by the program of any loader that has `state_dict` and `load_state_dict`.

Run in a loader's own interpreter by `benchmarks.resume`, which hands over what to do: `save` delivers batches up to the middle of an epoch, writes the
loader's state to a file and tells the next batches; `start` and `resume` tell the seconds to the first batch, from the process's start and from when the imports were done.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from .loop import Config, look, values_of

BATCHES = 4
"""Batches behind the state that are compared."""

CALLS = 20
"""How often `state_dict()` is timed."""


def print_of(batch: Any) -> str:
    """Return the hash of a batch's values."""
    found = hashlib.blake2b(digest_size=8)
    for value in values_of(batch):
        found.update(memoryview(value.numpy() if hasattr(value, "numpy") else value).cast("B"))
    return found.hexdigest()


def saved(loader: Any, config: Config) -> dict[str, Any]:
    """Deliver batches up to the state, write it, and go on."""
    batches = iter(loader)
    for _ in range(config["at"]):
        next(batches)
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        state = loader.state_dict()
        took.append(time.perf_counter() - began)
    data = pickle.dumps(state)
    Path(config["state"]).write_bytes(data)
    return {
        "state_us": sorted(took)[CALLS // 2] * 1e6,
        "state_bytes": len(data),
        "next": [print_of(each) for each in itertools.islice(batches, BATCHES)],
    }


def begun(load: Any, config: Config) -> dict[str, Any]:
    """Start a loader, from the state if it is asked for, and tell when the first batch was there."""
    began = time.perf_counter()
    loader = load(config)
    if config["do"] == "resume":
        loader.load_state_dict(pickle.loads(Path(config["state"]).read_bytes()))  # noqa: S301 (our own file, written a minute ago)
    batches = iter(loader)
    first = next(batches)
    look(first)
    told = {"first_batch_s": time.time() - config["began"], "open_s": time.perf_counter() - began}
    return {**told, "next": [print_of(each) for each in (first, *itertools.islice(batches, BATCHES - 1))]}


def main() -> None:
    """Do what the configuration on the command line says; print what was measured as the last line."""
    config = json.loads(sys.argv[1])
    load = importlib.import_module(config["program"]).load
    print(json.dumps(saved(load(config), config) if config["do"] == "save" else begun(load, config)), flush=True)


if __name__ == "__main__":
    main()
