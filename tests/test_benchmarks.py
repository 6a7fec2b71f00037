"""Each benchmark runs, small, so that none rots; its numbers are not looked at."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks import first_table, harness


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make both data sets in both forms, small."""
    return first_table.make_data(tmp_path_factory.mktemp("data"), count=40, rows=2000)


def test_the_first_table_is_complete(data: dict[str, str]) -> None:
    """Every loader runs on its data in a process of its own, and the summary has every row and ratio."""
    every = first_table.configurations(data, seconds=0.01)
    assert len(every) == 12
    chosen = {name: config for name, config in every.items() if config["workers"] == 0}
    runs = harness.interleaved(chosen, rounds=1)
    doubled = {name.replace("0 workers", f"{w} workers"): each for name, each in runs.items() for w in first_table.WORKERS}
    found = first_table.summary(doubled)
    assert set(found["medians"]) == set(every)
    assert set(found["ratios"]) >= {"best rate of images", "best rate of rows", "time to first batch of images, 2 workers"}
    first_table.show(found)


def test_a_configuration_that_fails_says_why() -> None:
    """A program that ends badly is an error with its last words, not a number."""
    config: dict[str, Any] = {"module": "benchmarks.loop_torch", "kind": "rows", "workers": 0, "data": "/nowhere", "batch_size": 1, "seconds": 0}
    with pytest.raises(RuntimeError, match="/nowhere"):
        harness.measure(config)


def test_memory_of_a_process_tree_is_seen() -> None:
    """The proportional set size of this process is not zero, and that of a process that is gone is."""
    assert harness.tree_bytes(os.getpid()) > 1e6
    assert harness.tree_bytes(2**22 + 1) == 0
