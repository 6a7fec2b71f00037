"""Train a small network on a dataset of labelled images, on as many processes as torchrun starts; the demo's training script.

It is what a user writes: a `penstock.DataLoader`, DistributedDataParallel over gloo, and a checkpoint of model, optimiser and loader every few
steps, replaced atomically. Beside that each process notes which images it trained on, one line a batch, so that the demo can count them.

    torchrun --nproc-per-node 2 -m benchmarks.demo_train --data DATASET --held-out DATASET --folder FOLDER
    python -m benchmarks.demo_train ... --resume          # on one process, from the checkpoint of two
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import penstock as ps

SIDE_PX = 64
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line.

    Attributes:
        data: the dataset to train on.
        held_out: the dataset to measure accuracy on.
        folder: place of the checkpoint, the ledgers and the report.
        epochs: epochs in all, those before a resume included.
        global_batch: images of a step over all processes.
        num_workers: loader workers of each process.
        checkpoint_every: steps between checkpoints.
        resume: go on from the checkpoint.
    """

    data: str
    held_out: str
    folder: Path
    epochs: int
    global_batch: int
    num_workers: int
    checkpoint_every: int
    resume: bool


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int


class Net(nn.Module):
    """Four convolutions, a mean over the image, and a linear layer."""

    def __init__(self, classes: int) -> None:
        """Make a network for so many classes."""
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        blocks = [[nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()] for a, b in itertools.pairwise(widths)]
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return `[B, classes]` scores of `[B, 3, H, W]` images."""
        scores: Tensor = self.head(self.features(images).mean((2, 3)))
        return scores


def image_numbers(batch: dict[str, Any]) -> list[int]:
    """Return the number in each image's file name; a padded row of the last batch has none, since it was delivered before."""
    values, offsets = batch["path"]
    raw, ends = values.numpy().tobytes(), offsets.tolist()
    names = [raw[a:b].decode() for a, b in itertools.pairwise(ends)]
    valid = batch["valid"].tolist() if "valid" in batch else [True] * len(names)
    return [int(Path(name).stem) for name, real in zip(names, valid, strict=True) if real]


def make_loader(asked: Asked, world: World, dataset: ps.Dataset, *, train: bool) -> ps.DataLoader:
    """Return the loader of a dataset, augmented and shuffled for training."""
    t = ps.transforms
    augment = [t.RandomResizedCrop(SIDE_PX, scale=(0.6, 1.0)), t.RandomHorizontalFlip()] if train else [t.Resize(SIDE_PX), t.CenterCrop(SIDE_PX)]
    return ps.DataLoader(
        dataset,
        batch_size=asked.global_batch // world.size,
        shuffle=train,
        num_workers=asked.num_workers,
        seed=1,
        transforms={"image": [*augment, t.Normalize(MEAN, STD)]},
        tail="pad",
    )


def mean_loss(scores: Tensor, batch: dict[str, Any]) -> Tensor:
    """Return the loss over the rows that are not padding."""
    losses = cross_entropy(scores, batch["label"], reduction="none")
    weights = batch["valid"].to(losses.dtype) if "valid" in batch else torch.ones_like(losses)
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in one step: a kill leaves the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


@dataclass(kw_only=True)
class Training:
    """Everything that a step changes."""

    asked: Asked
    world: World
    loader: ps.DataLoader
    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ledger: IO[str]

    def epoch(self, number: int, say: Callable[[str], None]) -> tuple[int, float]:
        """Train to the end of an epoch, from wherever the loader stands in it; return the images this process saw and the seconds it took."""
        self.loader.set_epoch(number)
        start, images = time.perf_counter(), 0
        for batch in self.loader:
            state = self.loader.state_dict()
            numbers = image_numbers(batch)
            loss = mean_loss(self.model(batch["image"]), batch)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.schedule.step()
            images += len(numbers)
            self.ledger.write(json.dumps({"epoch": number, "samples": state["samples"], "images": numbers}) + "\n")
            self.ledger.flush()
            step = -(-state["samples"] // self.asked.global_batch)
            if self.world.rank == 0 and step % self.asked.checkpoint_every == 0:
                self.checkpoint(state)
            say(f"epoch {number} step {step} loss {loss.item():.3f}")
        return images, time.perf_counter() - start

    def checkpoint(self, loader_state: dict[str, Any]) -> None:
        """Save model, optimiser, schedule and the loader's place."""
        core = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        parts = {"model": core, "optimiser": self.optimiser, "schedule": self.schedule}
        save_checkpoint(self.asked.folder / "checkpoint.pt", {"loader": loader_state, **{name: part.state_dict() for name, part in parts.items()}})

    def accuracy(self, loader: ps.DataLoader) -> float:
        """Return the share of held-out images whose class is found, over all processes."""
        self.model.eval()
        counts = torch.zeros(2, dtype=torch.int64)
        with torch.no_grad():
            for batch in loader:
                valid = batch["valid"] if "valid" in batch else torch.ones(len(batch["label"]), dtype=torch.bool)
                right = self.model(batch["image"]).argmax(1) == batch["label"]
                counts += torch.stack([(right & valid).sum(), valid.sum()])
        if self.world.size > 1:
            dist.all_reduce(counts)
        return float(counts[0] / counts[1])


def prepare(asked: Asked, world: World, ledger: IO[str]) -> Training:
    """Return the training, new or as the checkpoint left it."""
    torch.manual_seed(1)
    # a core for each loader worker: threads that have to wait for a core spin, and take it from the worker
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.size - asked.num_workers))
    dataset = ps.Dataset(asked.data, columns=["image", "label", "path"])
    loader = make_loader(asked, world, dataset, train=True)
    model: nn.Module = Net(len(dataset.metadata["class_names"]["label"]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = asked.epochs * -(-len(dataset) // asked.global_batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=8e-3, total_steps=steps + 1)
    if asked.resume:
        saved = torch.load(asked.folder / "checkpoint.pt", weights_only=True)
        for name, part in (("model", model), ("optimiser", optimiser), ("schedule", schedule), ("loader", loader)):
            part.load_state_dict(saved[name])
    model = DistributedDataParallel(model) if world.size > 1 else model
    return Training(asked=asked, world=world, loader=loader, model=model, optimiser=optimiser, schedule=schedule, ledger=ledger)


def train(asked: Asked, world: World) -> None:
    """Train to the last epoch; after each, rank 0 writes a report into the run's folder, the last with the accuracy."""

    def say(text: str) -> None:
        if world.rank == 0:
            print(text, flush=True)

    def report(**figures: Any) -> None:
        if world.rank == 0:
            (asked.folder / f"report-{attempt}.json").write_text(json.dumps(figures))

    attempt = "resumed" if asked.resume else "first"
    with (asked.folder / f"ledger-{attempt}-{world.rank}.jsonl").open("w") as ledger:
        training = prepare(asked, world, ledger)
        start = training.loader.state_dict()
        figures: dict[str, Any] = {}
        for number in range(start["epoch"], asked.epochs):
            images, elapsed_s = training.epoch(number, say)
            figures = {
                "processes": world.size,
                "images_per_s": images * world.size / elapsed_s,
                "stats": training.loader.stats().to_json(),
                "from": start,
            }
            report(**figures)
        accuracy = training.accuracy(make_loader(asked, world, ps.Dataset(asked.held_out, columns=["image", "label"]), train=False))
        report(**figures, accuracy=accuracy)
        say(f"held-out accuracy {accuracy:.1%}")


def parse() -> Asked:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_train")
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--global-batch", type=int, default=64)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--resume", action="store_true")
    return Asked(**vars(parser.parse_args()))


def main() -> None:
    """Train as one process, or as one of those that torchrun started."""
    asked = parse()
    asked.folder.mkdir(parents=True, exist_ok=True)
    world = World(rank=int(os.environ.get("RANK", "0")), size=int(os.environ.get("WORLD_SIZE", "1")))
    if world.size > 1:
        dist.init_process_group("gloo")
    try:
        train(asked, world)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
