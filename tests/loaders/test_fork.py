"""A process forked from the one that trains shares its descriptors, and must not disturb its workers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import penstock as ps

PROGRAM = """
import os, sys
import penstock as ps
loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=100, num_workers=2, persistent_workers=True)
batches = iter(loader)
first = next(batches)["label"].tolist()
child = os.fork()
if child == 0:
    sys.exit(0)  # runs the child's exit handlers, which close its copies
assert os.waitpid(child, 0)[1] == 0
rest = [n for batch in batches for n in batch["label"].tolist()]
assert first + rest == list(range(1003)), len(rest)
assert loader.stats().replaced_workers == 0, loader.stats()
assert [n for batch in loader for n in batch["label"].tolist()] == list(range(1003))
print("whole")
"""


def test_a_forked_child_leaves_the_workers_alone(rows: ps.Dataset) -> None:
    """A child that exits after a fork in mid-epoch ends no worker of its parent, whose epoch and next epoch are whole."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM), rows.path], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
