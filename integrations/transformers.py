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
from ..loaders.work import VALID
from .accelerate import prepare, skip_first_batches


def attach(trainer: Trainer, *, train: DataLoader[Any] | None = None, evaluation: DataLoader[Any] | None = None, valid: bool = False) -> None:
    """Have a Trainer train and evaluate with these loaders.

    Columns reach the model by their names, all of them: make the loader's columns the arguments of `forward`, with `Dataset(columns=)` or `map=`. The Trainer counts
    by its own batch sizes, which must be the loaders'; what it is told of samplers, workers and last batches (`dataloader_num_workers`, `dataloader_drop_last`, `even_batches` and
    so on) is for loaders that it makes itself, and means nothing here.

    Args:
        trainer: made without `train_dataset`, or with one that is not read.
        train: what `trainer.train()` reads.
        evaluation: what `trainer.evaluate()` reads in place of the `eval_dataset` that the Trainer was made with; give it `evaluation.dataset` where it asks for one.
        valid: whether the column that marks the padding of a padded batch reaches the model or `compute_loss`; else it is left out, and rows that repeat count like others.

    Raises:
        BadRequest: the Trainer counts with another batch size or looks for one by itself, or `accelerate.prepare` refuses the loader.
    """
    if trainer.args.auto_find_batch_size:
        raise BadRequest("auto_find_batch_size=True makes loaders anew with smaller batches, and these have theirs: find one, and leave it out")
    if train is not None:
        training = _prepared(trainer, train, trainer.args.train_batch_size, "per_device_train_batch_size", valid)
        trainer.get_train_dataloader = lambda: training  # type: ignore[method-assign]  # what a subclass would override
        sys.modules[Trainer.__module__].__dict__["skip_first_batches"] = (
            skip_first_batches  # what a resume calls; hands loaders that are not ours to Accelerate's
        )
    if evaluation is not None:
        evaluating = _prepared(trainer, evaluation, trainer.args.eval_batch_size, "per_device_eval_batch_size", valid)
        theirs = trainer.get_eval_dataloader

        def get_eval_dataloader(eval_dataset: Any = None) -> Any:
            return evaluating if eval_dataset is None or eval_dataset is trainer.eval_dataset else theirs(eval_dataset)

        trainer.get_eval_dataloader = get_eval_dataloader  # type: ignore[method-assign]  # likewise


def _prepared(trainer: Trainer, loader: DataLoader[Any], size: int, name: str, valid: bool) -> Any:
    if size != loader.batch_size:
        raise BadRequest(
            f"the Trainer counts with batches of {size} ({name}, times the GPUs of one process), and the loader has batch_size={loader.batch_size}: make them the same"
        )
    prepared = prepare(trainer.accelerator, loader)
    prepared.leaves_out = () if valid else (VALID,)
    return prepared
