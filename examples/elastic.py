"""An elastic run: torchrun starts workers again when one is lost, and training goes on where the last checkpoint stands, without a sample lost or doubled.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 5 examples/elastic.py --folder out

or on each of two nodes, which share the folder, `torchrun --nnodes 1:2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT ...`. The variable gives each start a store of its own
to meet in: torchrun's shared one still holds the addresses of workers that are gone, and says nothing by which a start differs from the one before on all nodes
(TORCHELASTIC_RESTART_COUNT counts one node's failures).

Model, optimiser and loader are saved together every few steps, and beside them what each worker delivered since it was started; the checkpoint is the rename
of one file. `--lose-at 25` has the last worker kill itself at step 25, once, to show what happens. The global batch is the same on 1, 2, 3 or 4 workers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import penstock as ps

ROWS, FEATURES, GLOBAL_BATCH, EVERY = 3000, 16, 48, 10


START = uuid.uuid4().hex
"""Of this process: what it delivered since then stands under it."""


def make_data(folder: Path) -> str:
    """Write points on a noisy plane, unless they are there."""
    path = folder / "points"
    if not path.exists():
        rng = np.random.default_rng(0)
        plane = rng.normal(size=FEATURES)
        with ps.Writer(path, fields={"x": ps.Array((FEATURES,), "float32"), "y": ps.Scalar("float32")}, shard_size="50KB") as writer:
            for _ in range(ROWS):
                x = rng.normal(size=FEATURES)
                writer.write({"x": x.astype(np.float32), "y": float(x @ plane + rng.normal() * 0.1)})
    return str(path)


def join() -> None:
    """Join the other workers of this start."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        sys.exit(
            "this store outlives the workers, and after a restart it still holds the addresses of those that are gone: set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, on every node, and use --rdzv-backend c10d or --standalone"
        )
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))


def save(folder: Path, parts: dict[str, Any], digest: ps.Digest) -> None:
    """Write a checkpoint: first what each worker delivered, then, by the first of them, everything else and its name."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, digest.to_json())
    if dist.get_rank() == 0:
        before = torch.load(folder / "checkpoint.pt", weights_only=True)["ledgers"] if (folder / "checkpoint.pt").exists() else {}
        torch.save({**parts, "ledgers": {**before, START: told}}, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").rename(folder / "checkpoint.pt")
    dist.barrier()


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lose-at", type=int)
    asked = parser.parse_args()
    join()
    rank, world = dist.get_rank(), dist.get_world_size()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        make_data(asked.folder)
    dist.barrier()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(FEATURES, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = ps.DataLoader(ps.Dataset(asked.folder / "points"), GLOBAL_BATCH // world, shuffle=True)
    step, losses = 0, []
    if (asked.folder / "checkpoint.pt").exists():
        saved = torch.load(asked.folder / "checkpoint.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]
    if rank == 0:
        print(f"{world} workers, from step {step}: {loader!r}", flush=True)
    while loader.state_dict()["epoch"] < asked.epochs:
        for batch in loader:
            if asked.lose_at == step and rank == world - 1 and not (asked.folder / "lost").exists():
                (asked.folder / "lost").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            error = (model(batch["x"])[:, 0] - batch["y"]) ** 2
            loss = error[batch["valid"]].mean() if "valid" in batch else error.mean()
            loss.backward()
            optimizer.step()
            step += 1
            losses.append(float(loss.detach()))
            if step % EVERY == 0:
                parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict(), "step": step}
                save(asked.folder, parts, loader.digest())
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict(), "step": step}
    save(asked.folder, parts, loader.digest())
    if rank == 0:
        ledgers = torch.load(asked.folder / "checkpoint.pt", weights_only=True)["ledgers"]
        digests = [ps.Digest.from_json(told) for attempt in ledgers.values() for told in attempt]
        whole = digests[0].merge(*digests[1:])
        differences = whole.differences(loader.plan_digest(range(asked.epochs)))
        print(
            json.dumps({"steps": step, "starts": len(ledgers), "last_loss": losses[-1] if losses else None, "differences": differences}), flush=True
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
