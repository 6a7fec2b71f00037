"""The examples run as their first lines say, and show what they claim."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: str, **variables: str) -> str:
    """Run a program; return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_a_parameter_server_under_bounded_staleness(tmp_path: Path) -> None:
    """The asynchronous run and the synchronous one see every sample once, the fast worker takes more batches of the former, up to the bound, and both curves are drawn."""
    told = run(sys.executable, str(EXAMPLES / "parameter_server.py"), "--folder", str(tmp_path), "--epochs", "2", "--max-staleness", "8")
    assert told.count("every sample once: True") == 2
    shares = json.loads(told.split("async:")[1].split("batches of each worker: ")[1].split(" of epoch")[0])
    assert sum(shares) == 150
    assert shares[0] > shares[2]
    lead = int(told.split("when it was given one in epoch 0: ")[1].split()[0])
    assert 1 <= lead <= 8
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size == (900, 500)
        found = {colour: count for count, colour in picture.convert("RGB").crop((60, 50, 590, 450)).getcolors(1 << 20) or []}  # left of their names
    assert found[0x2B, 0x2D, 0x42] > 100
    assert found[0x0B, 0x7A, 0x75] > 100


def elastic(*options: str) -> list[str]:
    """Return the command of the elastic run, but for where it writes."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--max-restarts",
        "2",
        *options,
        str(EXAMPLES / "elastic.py"),
        "--lose-at",
        "25",
        "--folder",
    ]


def check_elastic(told: str) -> None:
    """Hold what an elastic run printed against what it claims."""
    assert "2 workers, from step 0" in told
    assert "2 workers, from step 20" in told
    report = json.loads(told.splitlines()[-1])
    assert report["steps"] == 2 * 63
    assert report["starts"] == 2
    assert report["differences"] == []


def test_an_elastic_run_loses_and_regains_a_worker(tmp_path: Path) -> None:
    """Under torchrun a worker kills itself at step 25; both are started again from step 20, and the ledgers of both starts add up to the plan's."""
    check_elastic(run(*elastic("--standalone", "--nproc-per-node", "2"), str(tmp_path), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"))


def test_an_elastic_run_on_two_nodes_loses_and_regains_a_worker(tmp_path: Path) -> None:
    """Two agents of torchrun with a worker each: the one whose worker is lost counts a restart, and all go on from step 20 as on one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    command = elastic("--nnodes", "2", "--nproc-per-node", "1", "--monitor-interval", "0.3", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting)
    told: list[str] = []
    nodes = [threading.Thread(target=lambda: told.append(run(*command, str(tmp_path), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"))) for _ in range(2)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert len(told) == 2
    check_elastic("".join(sorted(told, key=len)))  # the first rank says everything


def test_an_elastic_run_in_a_store_that_outlives_it_is_refused(tmp_path: Path) -> None:
    """Without the variable that gives each start a store of its own the workers end at once, and say which one it is."""
    command = [*elastic("--standalone", "--nproc-per-node", "1", "--max-restarts", "0"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode != 0
    assert "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.stderr
