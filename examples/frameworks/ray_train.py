"""Ray Train: workers that were lost are started again by Ray and go on from the last reported checkpoint.

    python examples/frameworks/ray_train.py --folder out

`prepare_data_loader` is left out: it would keep the engine, but reads a batch ahead of the loop, so that the loader's state would count one too many.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report
from ray.train.torch import TorchTrainer, prepare_model

import penstock as ps


def train(asked: dict[str, Any]) -> None:
    """Train on one worker of those that Ray started, or go on."""
    folder, rank = Path(asked["folder"]), ray.train.get_context().get_world_rank()
    loader = ps.DataLoader(ps.Dataset(folder / "points"), BATCH, shuffle=True, num_workers=1)
    model = prepare_model(Plane())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    checkpoint, step, stop_at = ray.train.get_checkpoint(), 0, asked["stop_at"]
    if checkpoint is not None:
        with checkpoint.as_directory() as saved_in:
            saved = torch.load(Path(saved_in) / "checkpoint.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        step, stop_at = saved["step"], None
    account = Account(folder, rank, stop_at)
    for epoch in range(step // len(loader), EPOCHS):
        loader.set_epoch(epoch)  # keeps the place of a loaded state
        for batch in loader:
            account.note(step, batch)
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
            step += 1
            if step % EVERY == 0:
                with tempfile.TemporaryDirectory() as new:
                    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict(), "step": step}
                    torch.save(parts, Path(new) / "checkpoint.pt")
                    ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(new) if rank == 0 else None)


def main() -> None:
    """Train on two workers, with one more start of them if they are lost."""
    asked = arguments()
    make_data(asked.folder)
    own = tempfile.mkdtemp(prefix="ray-")  # of sockets, whose paths must be short
    try:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=own, log_to_driver=False)
        trainer = TorchTrainer(
            train,
            train_loop_config={"folder": str(asked.folder.absolute()), "stop_at": asked.stop_at},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(
                name="run", storage_path=str((asked.folder / "ray").absolute()), failure_config=ray.train.FailureConfig(max_failures=1)
            ),
        )
        trainer.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(own, ignore_errors=True)
    print(report(asked.folder, -(-len(ps.Dataset(asked.folder / "points")) // (2 * BATCH))), flush=True)


if __name__ == "__main__":
    main()
