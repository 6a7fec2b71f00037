"""The Trainer of Hugging Face Transformers: `attach` feeds it with our loader, and `resume_from_checkpoint` reads nothing of what was trained on.

torchrun --nproc-per-node 2 examples/frameworks/hf_trainer.py --folder out

Started again, it goes on from the last checkpoint.
"""

from __future__ import annotations

from typing import Any

import torch
from points import BATCH, EPOCHS, EVERY, Account, Plane, arguments, make_data, report
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import penstock as ps


class PointsTrainer(Trainer):
    """A Trainer that keeps an account of its rows."""

    account: Account

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
        """Return the loss of a step."""
        self.account.note(self.state.global_step, inputs)
        loss: torch.Tensor = model(inputs)
        return loss


def main() -> None:
    """Train, or go on."""
    asked = arguments()
    training = TrainingArguments(
        str(asked.folder / "checkpoints"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        save_steps=EVERY,
        save_total_limit=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
    )
    with training.main_process_first():
        dataset = make_data(asked.folder)
    trainer = PointsTrainer(Plane(), training)
    trainer.account = Account(asked.folder, training.process_index, asked.stop_at)
    loader = ps.DataLoader(dataset, BATCH, shuffle=True, num_workers=1)
    ps.integrations.transformers.attach(trainer, train=loader, valid=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(training.output_dir))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        print(report(asked.folder, len(loader)), flush=True)


if __name__ == "__main__":
    main()
