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

import pytest

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
    """Both ranks die in step 37 of 52, 7 steps behind a checkpoint of the framework's own; started again, each epoch had every row exactly once."""
    installed(*needs)
    died = run(tmp_path, name, "--stop-at", "37", *arguments)
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr, died.stderr[-3000:]
    done = run(tmp_path, name, *arguments)
    assert report(done) == {"steps": 52, "ranks": 2, "not_once": [0, 0]}
    assert "another loader reads the rows" not in done.stderr


@pytest.mark.parametrize(("name", "needs"), [("jax_loop", "jax"), ("tensorflow_loop", "tensorflow")])
def test_numpy_batches_feed_other_frameworks(tmp_path: Path, name: str, needs: str) -> None:
    """One process, killed in mid-epoch and started again from a state in JSON: every row exactly once an epoch."""
    installed(needs)
    died = run(tmp_path, name, "--stop-at", "37", ranks=1)
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    assert report(run(tmp_path, name, ranks=1)) == {"steps": 52, "ranks": 1, "not_once": [0, 0]}


def test_ray_starts_lost_workers_again(tmp_path: Path) -> None:
    """Both of Ray's workers die in mid-epoch; it starts them again from the last checkpoint reported, and every row was seen exactly once an epoch."""
    installed("ray")
    assert report(run(tmp_path, "ray_train", "--stop-at", "37", ranks=1)) == {"steps": 52, "ranks": 2, "not_once": [0, 0]}
