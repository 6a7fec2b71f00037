"""The Trainer of Hugging Face Transformers: fed by our own loaders.

A Trainer builds torch loaders over datasets. `attach` gives it loaders instead, and a resume with `resume_from_checkpoint` begins where the checkpoint stands without
reading what lies before it.
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import Trainer

from ..errors import BadRequest
from ..loaders.loader import DataLoader
from .accelerate import prepare, skip_first_batches


def attach(trainer: Trainer, *, train: DataLoader[Any] | None = None, evaluation: DataLoader[Any] | None = None) -> None:
    """Have a Trainer train and evaluate with these loaders.

    Columns reach the model by their names, all of them: make the loader's columns the arguments of `forward`, with `Dataset(columns=)` or `map=`. A Trainer counts
    epochs and samples by its own `per_device_train_batch_size`.

    Args:
        trainer: made without `train_dataset`, or with one that is not read.
        train: what `trainer.train()` reads.
        evaluation: what `trainer.evaluate()` reads, when it is given no dataset; with `tail="ragged"` on one process, `"pad"` or `"drop"` on several.

    Raises:
        BadRequest: the Trainer counts with another batch size, or the loader is for another number of ranks.
    """
    if train is not None:
        if (size := trainer.args.train_batch_size) != train.batch_size:
            raise BadRequest(
                f"the Trainer counts with per_device_train_batch_size={size}, and the loader has batch_size={train.batch_size}: make them the same"
            )
        training = prepare(trainer.accelerator, train)
        trainer.get_train_dataloader = lambda: training  # type: ignore[method-assign]  # what a subclass would override
        sys.modules[Trainer.__module__].__dict__["skip_first_batches"] = (
            skip_first_batches  # what a resume calls; hands loaders that are not ours to Accelerate's
        )
    if evaluation is not None:
        evaluating, theirs = prepare(trainer.accelerator, evaluation), trainer.get_eval_dataloader

        def get_eval_dataloader(eval_dataset: Any = None) -> Any:
            return evaluating if eval_dataset is None else theirs(eval_dataset)

        trainer.get_eval_dataloader = get_eval_dataloader  # type: ignore[method-assign]  # likewise
