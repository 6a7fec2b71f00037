"""Plain DistributedDataParallel: model, optimiser and loader in one checkpoint.

torchrun --nproc-per-node 2 examples/frameworks/ddp.py --folder out

Started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report
from torch.nn.parallel import DistributedDataParallel

import penstock as ps


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    dist.init_process_group("gloo")
    rank, path = dist.get_rank(), asked.folder / "checkpoint.pt"
    if rank == 0:
        make_data(asked.folder)
    dist.barrier()
    loader = ps.DataLoader(make_data(asked.folder), BATCH, shuffle=True, num_workers=1)
    model = DistributedDataParallel(Plane())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    account = Account(asked.folder, rank, asked.stop_at)
    step = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step = saved["step"]
    for epoch in range(step // len(loader), EPOCHS):
        loader.set_epoch(epoch)  # keeps the place of a loaded state
        for batch in loader:
            account.note(step, batch)
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
            step += 1
            if step % EVERY == 0 and rank == 0:
                parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict(), "step": step}
                torch.save(parts, path.with_suffix(".tmp"))
                path.with_suffix(".tmp").rename(path)
    dist.barrier()
    if rank == 0:
        print(report(asked.folder, len(loader)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
