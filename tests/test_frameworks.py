"""The examples of frameworks: killed in mid-epoch and started again, every row is trained on exactly once an epoch, by our engine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps

EXAMPLES = Path(__file__).parents[1] / "examples" / "frameworks"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(folder: Path, name: str, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run an example on a folder; return how it ended."""
    launch = TORCHRUN if ranks > 1 else ()
    quiet = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, *launch, str(EXAMPLES / f"{name}.py"), "--folder", str(folder), *arguments]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **quiet}, start_new_session=True, cwd=folder
    )
    try:
        out, err = started.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, started.returncode, out, err)


def report(done: subprocess.CompletedProcess[str]) -> Any:
    """Return what a whole run said last."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def account(folder: Path, rank: int) -> list[list[int]]:
    """Return the rows that a rank was given in each step, as it was done last."""
    lines = (folder / "account" / f"rank{rank}.jsonl").read_text().splitlines()
    steps = dict(json.loads(line) for line in lines)
    return [steps[step] for step in sorted(steps)]


def unbroken(folder: Path, rank: int, ranks: int) -> list[list[int]]:
    """Return the rows that a rank is given in each step of three epochs by a loader that nothing happens to."""
    loader = ps.DataLoader(ps.Dataset(folder / "points"), 16 // ranks, shuffle=True, topology=(rank, ranks), output="numpy")
    valid = [(batch["row"], batch.get("valid", np.ones(len(batch["row"]), bool))) for _ in range(3) for batch in loader]
    return [rows[there].tolist() for rows, there in valid]


def installed(*names: str) -> None:
    """Skip a test of what is not installed; `make test` installs all of it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize(
    ("name", "needs", "arguments"),
    [
        ("ddp", (), ()),
        ("fsdp2", (), ()),
        ("lightning_trainer", ("lightning",), ()),
        ("lightning_fabric", ("lightning",), ()),
        ("accelerate_loop", ("accelerate",), ()),
        ("accelerate_loop", ("accelerate",), ("--skip",)),
        ("hf_trainer", ("accelerate", "transformers"), ()),
    ],
)
def test_two_ranks_killed_and_started_again_see_every_row_once(tmp_path: Path, name: str, needs: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Both ranks die in step 37 of 78, inside the second epoch, behind a checkpoint of the framework's own; started again, each rank was given in each step what it is given without a kill."""
    installed(*needs)
    died = run(tmp_path, name, "--stop-at", "37", *arguments)
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr, died.stderr[-3000:]
    done = run(tmp_path, name, *arguments)
    assert report(done) == {"steps": 78, "ranks": 2, "not_once": [0, 0, 0]}
    assert [account(tmp_path, rank) for rank in range(2)] == [unbroken(tmp_path, rank, 2) for rank in range(2)]
    assert "another loader reads the rows" not in done.stderr


@pytest.mark.parametrize(("name", "needs"), [("jax_loop", "jax"), ("tensorflow_loop", "tensorflow")])
def test_numpy_batches_feed_other_frameworks(tmp_path: Path, name: str, needs: str) -> None:
    """One process, killed in mid-epoch and started again from a state in JSON: every row exactly once an epoch."""
    installed(needs)
    died = run(tmp_path, name, "--stop-at", "37", ranks=1)
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    assert report(run(tmp_path, name, ranks=1)) == {"steps": 78, "ranks": 1, "not_once": [0, 0, 0]}
    assert account(tmp_path, 0) == unbroken(tmp_path, 0, 1)


def test_ray_starts_lost_workers_again(tmp_path: Path) -> None:
    """Both of Ray's workers die in mid-epoch; it starts them again from the last checkpoint reported, and every row was seen exactly once an epoch."""
    installed("ray")
    assert report(run(tmp_path, "ray_train", "--stop-at", "37", ranks=1)) == {"steps": 78, "ranks": 2, "not_once": [0, 0, 0]}
    assert [account(tmp_path, rank) for rank in range(2)] == [unbroken(tmp_path, rank, 2) for rank in range(2)]
