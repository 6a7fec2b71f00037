"""Lightning's Fabric: nothing to be told; the loader goes into `fabric.save` like model and optimiser.

torchrun --nproc-per-node 2 examples/frameworks/lightning_fabric.py --folder out

Started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric import Fabric
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report

import penstock as ps


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    with fabric.rank_zero_first():
        dataset = make_data(asked.folder)
    model = Plane()
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.01))
    loader = fabric.setup_dataloaders(ps.DataLoader(dataset, BATCH, shuffle=True, num_workers=1))
    account = Account(asked.folder, fabric.global_rank, asked.stop_at)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader, "step": 0}
    path = asked.folder / "checkpoint.ckpt"
    if path.exists():
        fabric.load(path, state)
    for _ in range(state["step"] // len(loader), EPOCHS):
        for batch in loader:
            account.note(state["step"], batch)
            optimizer.zero_grad()
            fabric.backward(model(batch))
            optimizer.step()
            state["step"] += 1
            if state["step"] % EVERY == 0:
                fabric.save(path.with_suffix(".tmp"), state)
                if fabric.is_global_zero:
                    path.with_suffix(".tmp").rename(path)
                fabric.barrier()
    fabric.barrier()
    if fabric.is_global_zero:
        print(report(asked.folder, len(loader)), flush=True)


if __name__ == "__main__":
    main()
