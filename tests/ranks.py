"""Starts a program as the ranks of one gloo group, and hears what each says last."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

LEAVE = """
sys.stdout.flush()
os._exit(0)  # torch's threads are not always gone by the end of the interpreter, which then calls std::terminate
"""
"""The end of every such program, which has imported `os` and `sys`."""


def run_ranks(world: int, program: str, *arguments: str) -> list[Any]:
    """Run a program in so many processes; return what each printed as its last line, in JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program + LEAVE, *arguments],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]
    told = []
    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err.decode()[-3000:]
        told.append(json.loads(out.decode().splitlines()[-1]))
    return told
