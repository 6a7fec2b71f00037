"""Accelerate: `prepare` of penstock.integrations keeps the engine, and `save_state` carries the loader's state.

    torchrun --nproc-per-node 2 examples/frameworks/accelerate_loop.py --folder out

Started again, it goes on from the last checkpoint. With `--skip` by the number of steps and `skip_first_batches`, which reads nothing of what it skips.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report

import penstock as ps


class Steps:
    """How many steps were done, kept in the checkpoint."""

    count = 0

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take a count."""
        self.count = state["count"]


def main() -> None:
    """Train, or go on."""
    asked = arguments("--skip")
    accelerator = Accelerator(cpu=True, project_config=ProjectConfiguration(str(asked.folder), automatic_checkpoint_naming=True, total_limit=2))
    with accelerator.main_process_first():
        dataset = make_data(asked.folder)
    model, steps = Plane(), Steps()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
    loader = ps.DataLoader(dataset, BATCH, shuffle=True, num_workers=1)
    loader = ps.integrations.accelerate.prepare(accelerator, loader)
    per_epoch = len(loader)
    accelerator.register_for_checkpointing(steps)
    account = Account(asked.folder, accelerator.process_index, asked.stop_at)
    if any((asked.folder / "checkpoints").glob("checkpoint_*")):
        accelerator.load_state()
        accelerator.project_configuration.iteration = steps.count // EVERY
        if asked.skip:
            loader.set_epoch(steps.count // per_epoch)
            accelerator.skip_first_batches(loader, steps.count % per_epoch)
    for _ in range(steps.count // per_epoch, EPOCHS):
        for batch in loader:
            account.note(steps.count, batch)
            optimizer.zero_grad()
            accelerator.backward(model(batch))
            optimizer.step()
            steps.count += 1
            if steps.count % EVERY == 0:
                accelerator.save_state()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(report(asked.folder, per_epoch), flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
