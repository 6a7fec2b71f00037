"""Ranks that are killed at a chosen step, again and again: a process that imported torch once and forks each round's ranks.

Reads one JSON object a line: folder, dataset, round, world, size, workers, options, and for each rank the step at which it kills itself, or null. Answers each with a
line when all ranks of the round have ended. A rank adds up numbers with the others at every step, and every three steps all of them write down what
they delivered, upon which the first one writes the state: that rename is the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import penstock as ps

EVERY = 3
"""Steps between checkpoints."""

STEPS = 40
"""Steps after which a rank that is not killed ends its round."""

ROUND_S = 60.0


def run(told: dict[str, Any], rank: int) -> None:
    """Be a rank."""
    folder = Path(told["folder"])
    world, number = told["world"], told["round"]
    place = f"file://{folder / f'rendezvous{number}'}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world, timeout=timedelta(seconds=20))
    options = {"shuffle": True, "tail": "pad", "num_workers": told["workers"], "output": "numpy", **told["options"]}
    loader = ps.DataLoader(ps.Dataset(told["dataset"]), told["size"], **options)
    state = folder / "state.json"
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text())["state"])
    step, seen = 0, []
    while True:
        for batch in loader:
            epoch = loader.state_dict()["epoch"]
            seen += [[epoch, label] for label, valid in zip(batch["label"].tolist(), batch["valid"].tolist(), strict=True) if valid]
            if step == told["kills"][rank]:
                os.kill(os.getpid(), signal.SIGKILL)
            dist.all_reduce(torch.ones(1))
            step += 1
            if step % EVERY == 0 or step == STEPS:
                written = {"digest": loader.digest().to_json(), "seen": seen}
                (folder / f"round{number}.rank{rank}.step{step}.json").write_text(json.dumps(written))
                dist.barrier()
                if rank == 0:
                    temporary = folder / "state.tmp"
                    temporary.write_text(json.dumps({"state": loader.state_dict(), "round": number, "step": step, "world": world}))
                    temporary.rename(state)
                dist.barrier()
            if step == STEPS:
                dist.destroy_process_group()
                return


def wait(pids: list[int]) -> list[int]:
    """Return how each ended; those that hang are killed."""
    deadline = time.monotonic() + ROUND_S
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def main() -> None:
    """Do the rounds."""
    for line in sys.stdin:
        told = json.loads(line)
        pids = []
        for rank in range(told["world"]):
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    run(told, rank)
                    code = 0
                except (RuntimeError, ps.PenstockError):  # another rank was killed
                    code = 3
                finally:
                    os._exit(code)
            pids.append(pid)
        sys.stdout.write(json.dumps(wait(pids)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
