"""The harness behind every benchmark, and what `make` starts; each benchmark's own tests run it, small."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness, table
from benchmarks.rivals.registry import ALL, LOADERS

ROOT = Path(__file__).resolve().parent.parent


def test_a_configuration_that_fails_says_why() -> None:
    """A program that ends badly is an error with its last words, not a number."""
    config: dict[str, Any] = {"module": "benchmarks.ours", "kind": "W4", "workers": 0, "data": "/nowhere", "batch_size": 1, "seconds": 0, "warm_s": 0}
    with pytest.raises(RuntimeError, match="/nowhere"):
        harness.measure(config)


def test_configurations_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs once a round, each round begins one further on, and what is told is the median of its rounds."""
    ran: list[str] = []

    def measure(config: harness.Config) -> harness.Run:
        ran.append(config["module"])
        return harness.Run(told={"n": len(ran)}, cpu_s=0, peak_bytes=0, wall_s=0)

    monkeypatch.setattr(harness, "measure", measure)
    runs = harness.interleaved({name: {"module": name} for name in "abc"}, rounds=3)
    assert "".join(ran) == "abcbcacab"
    assert [harness.median(runs[name], "n") for name in "abc"] == [6, 4, 5]


def test_the_commit_is_told_with_what_was_changed_since(tmp_path: Path) -> None:
    """A checkout tells its commit and whether tracked files differ; a folder inside another's checkout, and one without commits, tell none."""

    def git(*words: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", "-C", str(tmp_path), *names, *words], capture_output=True, text=True, check=True).stdout.strip()

    assert harness.commit(tmp_path) == {}
    git("init")
    assert harness.commit(tmp_path) == {}
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "made").write_text("what a benchmark wrote")
    assert harness.commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert harness.commit(tmp_path / "inside") == {}
    (tmp_path / "file").write_text("two")
    assert harness.commit(tmp_path)["dirty"]


def test_the_machine_tells_what_a_reader_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is among it in a checkout; elsewhere there is the version that is installed."""
    monkeypatch.setattr(harness, "commit", lambda: {"commit": "abc", "dirty": True})
    assert harness.machine()["commit"] == "abc"
    monkeypatch.setattr(harness, "commit", dict)
    told = harness.machine()
    assert "commit" not in told
    assert told["versions"]["penstock"]


def recipe(target: str) -> list[str]:
    """Return the words that `make` hands to the table for a target."""
    makefile = (ROOT / "Makefile").read_text()
    line = re.search(rf"^{target}:.*\n(?:\t.*\n)*?\t.*-m benchmarks\.table (.*)", makefile, re.MULTILINE)
    assert line, f"make {target} does not start the table"
    return shlex.split(line[1])


def test_make_starts_the_table_as_it_takes_it() -> None:
    """`make bench` asks for ours and every way of torch's on workloads that exist, and `make table` for all."""
    asked = table.parsed(recipe("bench"))
    assert {loader.name for loader in table.chosen(asked)} == {loader.name for loader in LOADERS if loader.name.startswith(("Penstock", "torch"))}
    assert set(asked.workloads.split(",")) <= set(ALL)
    asked = table.parsed(recipe("table"))
    assert tuple(table.chosen(asked)) == LOADERS
    assert tuple(asked.workloads.split(",")) == ALL


def test_memory_of_a_process_tree_is_seen() -> None:
    """The proportional set size of this process is not zero, and that of a process that is gone is."""
    assert harness.tree_bytes(os.getpid()) > 1e6
    assert harness.tree_bytes(2**22 + 1) == 0
