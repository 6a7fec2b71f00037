"""What the examples of frameworks share: points on a noisy plane, a model of it, and an account of which rows were trained on.

Every example trains on two ranks, writes a checkpoint every `EVERY` steps, and goes on from the last one when it is started again. `--stop-at 37` has all ranks kill
themselves there, inside the second of three epochs, to show that. At the end the account says whether each epoch saw every row exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import penstock as ps

ROWS, FEATURES, BATCH, EPOCHS, EVERY = 403, 16, 8, 3, 10


class Plane(nn.Module):
    """A plane through the points."""

    def __init__(self) -> None:
        """Begin with the same plane on every rank."""
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(FEATURES, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error over the rows of a batch that are no padding."""
        error: torch.Tensor = (self.linear(batch["x"])[:, 0] - batch["y"]) ** 2
        return (error * batch["valid"]).sum() / batch["valid"].sum().clamp(min=1) if "valid" in batch else error.mean()


class Account:
    """Which rows each step was given, a line per step in a file per rank; a step done again after a kill counts as it was done last."""

    def __init__(self, folder: Path, rank: int, stop_at: int | None) -> None:
        """Go on in the file of a rank."""
        self._path = folder / "account" / f"rank{rank}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stop_at = stop_at

    def note(self, step: int, batch: dict[str, Any]) -> None:
        """Write down the rows of a step, counted over all epochs; or die in it, if that was asked for."""
        if step == self._stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rows, valid = np.asarray(batch["row"]), np.asarray(batch.get("valid", np.ones(len(batch["row"]), bool)))
        with self._path.open("a") as out:
            out.write(json.dumps([step, rows[valid].tolist()]) + "\n")


def report(folder: Path, steps_per_epoch: int) -> str:
    """Return, in JSON, how many steps were done, by how many ranks, and how many rows were not seen exactly once in each epoch."""
    steps: dict[int, list[int]] = {}
    paths = sorted((folder / "account").glob("*.jsonl"))
    for path in paths:
        last = dict(json.loads(line) for line in path.read_text().splitlines())
        for step, rows in last.items():
            steps.setdefault(step, []).extend(rows)
    wrong = []
    for epoch in range(EPOCHS):
        seen = [row for step, rows in steps.items() if step // steps_per_epoch == epoch for row in rows]
        wrong.append(int((np.bincount(np.array(seen, np.int64), minlength=ROWS) != 1).sum()))
    return json.dumps({"steps": len(steps), "ranks": len(paths), "not_once": wrong})


def arguments(*flags: str) -> Any:
    """Return what the command line asks for, these flags among it."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of data, checkpoints and the account")
    parser.add_argument("--stop-at", type=int, help="the step in which all ranks kill themselves")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


def make_data(folder: Path) -> ps.Dataset:
    """Return the points; the first rank writes them, unless they are there, and the rename of one folder hands them to the others."""
    path, rank = folder / "points", int(os.environ.get("RANK", "0"))
    if rank == 0 and not path.exists():
        rng = np.random.default_rng(0)
        plane = rng.normal(size=FEATURES)
        fields = {"x": ps.Array((FEATURES,), "float32"), "y": ps.Scalar("float32"), "row": ps.Scalar("int64")}
        with ps.Writer(folder / "points.new", fields=fields, shard_size="10KB") as writer:
            for row in range(ROWS):
                x = rng.normal(size=FEATURES)
                writer.write({"x": x.astype(np.float32), "y": float(x @ plane + rng.normal() * 0.1), "row": row})
        (folder / "points.new").rename(path)
    return ps.Dataset(path)
