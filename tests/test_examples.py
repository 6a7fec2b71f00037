"""The examples run as their first lines say, and show what they claim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: str) -> str:
    """Run a program; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_a_parameter_server_under_bounded_staleness(tmp_path: Path) -> None:
    """The asynchronous run and the synchronous one see every sample once, the fast worker takes more batches of the former, and both curves are drawn."""
    told = run(sys.executable, str(EXAMPLES / "parameter_server.py"), "--folder", str(tmp_path), "--epochs", "2", "--max-staleness", "8")
    assert told.count("every sample once: True") == 2
    shares = json.loads(told.split("async:")[1].split("batches of each worker: ")[1].split(" of epoch")[0])
    assert sum(shares) == 150
    assert shares[0] >= shares[2]
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size == (900, 500)


def test_an_elastic_run_loses_and_regains_a_worker(tmp_path: Path) -> None:
    """Under torchrun a worker kills itself at step 25; both are started again from step 20, and the ledgers of both starts add up to the plan's."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    told = run(*torchrun, str(EXAMPLES / "elastic.py"), "--folder", str(tmp_path), "--lose-at", "25")
    assert "from step 0" in told
    assert "from step 20" in told
    report = json.loads(told.splitlines()[-1])
    assert report["steps"] == 2 * 63
    assert report["starts"] == 2
    assert report["differences"] == []
