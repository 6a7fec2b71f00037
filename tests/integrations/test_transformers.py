"""The Trainer of Hugging Face, fed by our loaders: what it is refused, what it evaluates with, and how it skips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import penstock as ps

transformers = pytest.importorskip("transformers")

from ranks import run_ranks  # noqa: E402  (only where it is installed)

from penstock.integrations.transformers import attach  # noqa: E402  (only where it is installed)


class Line(torch.nn.Module):
    """A line through points, which notes the rows it was given."""

    def __init__(self) -> None:
        """Begin at nothing."""
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1))
        self.given: list[list[int]] = []

    def forward(self, x: torch.Tensor, return_loss: bool = True) -> dict[str, torch.Tensor]:
        """Return the loss; the Trainer looks for the second argument where there are no labels."""
        del return_loss
        self.given.append(x.int().tolist())
        return {"loss": ((self.slope * x - x) ** 2).mean(), "logits": self.slope * x}


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 24 points."""
    path: Path = tmp_path_factory.mktemp("points") / "d"
    with ps.Writer(path, fields={"x": ps.Scalar("float32")}) as writer:
        for i in range(24):
            writer.write({"x": float(i)})
    return ps.Dataset(path)


def trainer_in(folder: Path, model: Any, **options: Any) -> Any:
    """Return a quiet trainer."""
    told = {"use_cpu": True, "report_to": "none", "logging_strategy": "no", "disable_tqdm": True, "per_device_train_batch_size": 4, **options}
    return transformers.Trainer(model, transformers.TrainingArguments(str(folder), **told))


def test_a_resume_reads_only_what_is_left(points: ps.Dataset, tmp_path: Path) -> None:
    """Stopped behind step 8 of 2 epochs of 6 and resumed from that checkpoint: the same rows in the same steps as without the stop, none of those before it."""
    whole = Line()
    trainer = trainer_in(tmp_path / "whole", whole, num_train_epochs=2, save_strategy="no")
    attach(trainer, train=ps.DataLoader(points, 4, shuffle=True))
    trainer.train()
    assert len(whole.given) == 12
    first = Line()
    trainer = trainer_in(tmp_path / "cut", first, num_train_epochs=2, max_steps=8, save_steps=4)
    attach(trainer, train=ps.DataLoader(points, 4, shuffle=True))
    trainer.train()
    assert first.given == whole.given[:8]
    rest = Line()
    trainer = trainer_in(tmp_path / "cut", rest, num_train_epochs=2, save_strategy="no")
    loader = ps.DataLoader(points, 4, shuffle=True, num_workers=1)
    attach(trainer, train=loader)
    trainer.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert rest.given == whole.given[8:]
    assert loader.stats().batches == 4


def test_evaluation_takes_the_loader_unless_it_is_given_a_dataset(points: ps.Dataset, tmp_path: Path) -> None:
    """trainer.evaluate() reads our loader and tells the mean over its rows; a dataset that it is given is read as the Trainer does."""
    model = Line()
    trainer = trainer_in(tmp_path, model, per_device_eval_batch_size=10)
    attach(trainer, evaluation=ps.DataLoader(points, 10))
    told = trainer.evaluate()
    assert [len(rows) for rows in model.given] == [10, 10, 4]
    assert told["eval_loss"] == pytest.approx(sum(x * x for x in range(24)) / 24)
    model.given.clear()
    trainer.evaluate([{"x": torch.tensor(1.0)}] * 3)
    assert model.given == [[1, 1, 1]]


def test_evaluation_during_training_reads_the_loader(points: ps.Dataset, tmp_path: Path) -> None:
    """With eval_strategy='steps' the Trainer asks for an eval_dataset when it is made; ours is read in its place, between steps of training."""
    model = Line()
    options = {"eval_strategy": "steps", "eval_steps": 3, "max_steps": 6, "save_strategy": "no", "per_device_eval_batch_size": 12}
    told = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, per_device_train_batch_size=4, **options)
    trainer = transformers.Trainer(model, told, eval_dataset=points)
    evaluation = ps.DataLoader(points, 12)
    attach(trainer, train=ps.DataLoader(points, 4), evaluation=evaluation)
    trainer.train()
    assert [len(rows) for rows in model.given] == [4, 4, 4, 12, 12, 4, 4, 4, 12, 12]
    assert evaluation.stats().batches == 2


PADDED = """
import json, os, sys
import torch, transformers
import penstock as ps
class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(1))
    def forward(self, x, return_loss=True):
        return {"loss": ((self.slope * x - x) ** 2).mean(), "logits": self.slope * x}
told = transformers.TrainingArguments(sys.argv[2], use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
    per_device_train_batch_size=5, per_device_eval_batch_size=5, num_train_epochs=1, learning_rate=0.0)
trainer = transformers.Trainer(Line(), told)
ds = ps.Dataset(sys.argv[1])
ps.integrations.transformers.attach(trainer, train=ps.DataLoader(ds, 5), evaluation=ps.DataLoader(ds, 5))
trainer.train()
told = trainer.evaluation_loop(trainer.get_eval_dataloader(), "rows", prediction_loss_only=False)
print(json.dumps([trainer.state.global_step, told.predictions.tolist()]))
"""


def test_on_two_ranks_a_plain_model_gets_its_columns_only(points: ps.Dataset, tmp_path: Path) -> None:
    """Padded batches on two ranks reach a forward that knows nothing of padding, and an evaluation counts every row once."""
    for steps, predicted in run_ranks(2, PADDED, str(points.path), str(tmp_path)):
        assert steps == 3
        assert sorted(predicted) == list(range(24))


def test_a_trainer_that_counts_otherwise_is_refused(points: ps.Dataset, tmp_path: Path) -> None:
    """A loader of another batch size than the Trainer counts with is refused, with both numbers; so is a Trainer that looks for a batch size by itself."""
    with pytest.raises(ps.BadRequest, match=r"batches of 4 \(per_device_train_batch_size, .* batch_size=6"):
        attach(trainer_in(tmp_path, Line()), train=ps.DataLoader(points, 6))
    with pytest.raises(ps.BadRequest, match=r"batches of 8 \(per_device_eval_batch_size, .* batch_size=6"):
        attach(trainer_in(tmp_path, Line()), evaluation=ps.DataLoader(points, 6))
    with pytest.raises(ps.BadRequest, match="auto_find_batch_size"):
        attach(trainer_in(tmp_path, Line(), auto_find_batch_size=True), train=ps.DataLoader(points, 4))
