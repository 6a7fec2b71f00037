"""FSDP2 over a DeviceMesh: the loader reads its place off the mesh, and torch.distributed.checkpoint saves it beside the shards of the model.

torchrun --nproc-per-node 2 examples/frameworks/fsdp2.py --folder out

Started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

import shutil
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import penstock as ps


class Training:
    """What a checkpoint holds; torch.distributed.checkpoint asks it for its state and hands that back."""

    def __init__(self, model: Any, optimizer: Any, loader: ps.DataLoader) -> None:
        """Hold the parts."""
        self.model, self.optimizer, self.loader, self.step = model, optimizer, loader, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "loader": self.loader.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give every part its state."""
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        self.step = state["step"]


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("fsdp",))
    rank = dist.get_rank()
    if rank == 0:
        make_data(asked.folder)
    dist.barrier()
    loader = ps.DataLoader(make_data(asked.folder), BATCH, shuffle=True, num_workers=1, topology=mesh)
    model = fully_shard(Plane(), mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    account = Account(asked.folder, rank, asked.stop_at)
    training = Training(model, optimizer, loader)
    if saved := sorted(asked.folder.glob("step-*")):
        dcp.load({"training": training}, checkpoint_id=saved[-1])
    for epoch in range(training.step // len(loader), EPOCHS):
        loader.set_epoch(epoch)  # keeps the place of a loaded state
        for batch in loader:
            account.note(training.step, batch)
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
            training.step += 1
            if training.step % EVERY == 0:
                new = asked.folder / "unfinished"
                dcp.save({"training": training}, checkpoint_id=new)
                if rank == 0:
                    for old in asked.folder.glob("step-*"):
                        shutil.rmtree(old)
                    new.rename(asked.folder / f"step-{training.step:06}")
                dist.barrier()
    dist.barrier()
    if rank == 0:
        print(report(asked.folder, len(loader)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
