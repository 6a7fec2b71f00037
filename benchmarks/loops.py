"""The training-like loop that every configuration of `first_table` runs, whatever the loader.

It measures from the start of the process to the first batch, then, after one whole epoch, the rate over whole epochs until `seconds` have
passed. The loop takes one number out of every batch, so that a batch that was not really made would be noticed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

Make = Callable[[dict[str, Any]], Iterable[Any]]
"""Builds a loader from its configuration."""


def run(makers: dict[str, Make]) -> None:
    """Run the configuration on the command line with the maker it names, and print what was measured."""
    config = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    loader = makers[config["kind"]](config)
    first_batch_s = 0.0
    for batch in loader:
        first_batch_s = first_batch_s or time.time() - config["began"]
        float(batch["label"][0])
    samples, began = 0, time.perf_counter()
    while time.perf_counter() - began < config["seconds"]:
        for batch in loader:
            samples += len(batch["label"])
            float(batch["label"][0])
    print(json.dumps({"samples_per_s": samples / (time.perf_counter() - began), "first_batch_s": first_batch_s, "samples": samples}))
