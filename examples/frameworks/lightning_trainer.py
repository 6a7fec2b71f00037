"""Lightning's Trainer: nothing to be told; its checkpoints hold the loader's state, also in mid-epoch.

torchrun --nproc-per-node 2 examples/frameworks/lightning_trainer.py --folder out

Started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report

import penstock as ps


class Points(lightning.LightningModule):
    """The plane, as Lightning has it trained."""

    def __init__(self, asked: Any) -> None:
        """Make the plane."""
        super().__init__()
        self.plane = Plane()
        self._asked = asked

    def setup(self, stage: str) -> None:
        """Open the account of this rank; the first one writes the data before the others look for them."""
        del stage
        if self.trainer.is_global_zero:
            make_data(self._asked.folder)
        self.trainer.strategy.barrier()
        self._account = Account(self._asked.folder, self.trainer.global_rank, self._asked.stop_at)

    def train_dataloader(self) -> ps.DataLoader:
        """Return the loader, which knows of its ranks from torch.distributed."""
        return ps.DataLoader(make_data(self._asked.folder), BATCH, shuffle=True, num_workers=1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a step."""
        del batch_idx
        self._account.note(self.global_step, batch)
        loss: torch.Tensor = self.plane(batch)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    last = asked.folder / "checkpoints" / "last.ckpt"
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_epochs=EPOCHS,
        callbacks=[ModelCheckpoint(last.parent, save_last=True, every_n_train_steps=EVERY)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Points(asked), ckpt_path=last if last.exists() else None)
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        print(report(asked.folder, int(trainer.num_training_batches)), flush=True)


if __name__ == "__main__":
    main()
