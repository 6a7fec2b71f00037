"""Does loading cost a GPU anything? A training step fed by the loader beside the same step on a batch that lies on the device, and the bus beside pinned copies.

python -m benchmarks.gpu --data DIR [--rounds 5] [--steps 50] [--batch-size 256] [--workers 8] [--json FILE]

Images are stored decoded at 256 pixels, so that processors keep up; they cross as bytes and are finished on the device. The step is ResNet-50's, in bfloat16, channels last. Rounds take turns. The copy is
that of a batch from the ring's own memory, beside one of as many bytes that torch pinned; both are timed by events. Then the waits of the host in next() are counted that torch can tell of.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import penstock as ps
from penstock import transforms as t

from .harness import machine
from .images import make_image
from .resnet import RESNET_50, resnet

STORED, CROP = 256, 224
AUGMENT = [t.RandomResizedCrop(CROP), t.RandomHorizontalFlip(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), t.ToLayout("CHW")]
BOUNDS = {"fed over resident": 0.98, "copy over pinned copy": 0.90}


def make_data(folder: Path, rows: int) -> ps.Dataset:
    """Return so many decoded images with labels, made once."""
    path = folder / f"gpu-{rows}"
    if not path.exists():
        with ps.Writer(folder / "gpu.new", fields={"image": ps.Array((STORED, STORED, 3), "uint8"), "label": ps.Scalar("int64")}) as writer:
            for row in range(rows):
                _, picture, label = make_image(0, row % 256)  # as many as differ enough; the device does the same work for each
                writer.write({"image": np.asarray(picture.convert("RGB").resize((STORED, STORED))), "label": label})
        (folder / "gpu.new").rename(path)
    return ps.Dataset(path)


class Training:
    """A network and its step."""

    def __init__(self, device: torch.device, blocks: tuple[int, ...], width: int) -> None:
        """Put it on the device."""
        self.device = device
        self.model = resnet(blocks, width=width).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has it
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.loss = nn.CrossEntropyLoss()

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Take a step; nothing waits for its result."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.loss(self.model(batch["image"].to(memory_format=torch.channels_last)), batch["label"])
        loss.backward()
        self.optimizer.step()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def endless(loader: ps.DataLoader) -> Iterator[Any]:
    """Yield one epoch's batches after the other's."""
    while True:
        yield from loader


def rate(training: Training, batches: Iterator[Any], steps: int) -> float:
    """Return steps a second, the first three left out."""
    for _ in range(3):
        training.step(next(batches))
    training.wait()
    began = time.perf_counter()
    for _ in range(steps):
        training.step(next(batches))
    training.wait()
    return steps / (time.perf_counter() - began)


def copies(loader: ps.DataLoader, device: torch.device, rounds: int) -> list[float]:
    """Return for each round how fast a batch crosses from the ring, over how fast as many bytes cross from memory that torch pinned."""
    host = ps.DataLoader(loader.dataset, loader.batch_size, num_workers=1, drop_last=True, output="numpy")
    from penstock.loaders.device import register  # noqa: PLC0415  (CUDA only)

    array = next(iter(host))["image"]
    address, size = array.ctypes.data // 4096 * 4096, -(-array.nbytes // 4096) * 4096
    let_go = register(device, address, size)
    sources = (torch.from_numpy(array), torch.empty(array.nbytes, dtype=torch.uint8).pin_memory())
    found = []
    for _ in range(rounds):
        took = [timed(lambda source=source: source.to(device, non_blocking=True)) for source in sources]  # type: ignore[misc]  # a default is how a loop's value is kept
        found.append(took[1] / took[0])
    let_go()
    return found


def timed(copy: Callable[[], torch.Tensor]) -> float:
    """Return the milliseconds of a copy, as the median of 10 by the device's clock."""
    took = []
    for _ in range(10):
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        copy()
        end.record()
        end.synchronize()
        took.append(float(begin.elapsed_time(end)))
    return statistics.median(took)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios of all rounds."""
    device = torch.device(asked.device)
    dataset = make_data(asked.data, asked.rows)
    loader = ps.DataLoader(
        dataset,
        asked.batch_size,
        shuffle=True,
        num_workers=asked.workers,
        persistent_workers=True,
        drop_last=True,
        transforms={"image": AUGMENT},
        device=asked.device,
        normalize_on="device",
    )
    training = Training(device, RESNET_50 if asked.width == 64 else (1, 1, 1, 1), asked.width)
    batches = endless(loader)
    resident = next(batches)
    rounds: list[dict[str, float]] = []
    for turn in range(asked.rounds):
        rates = {}
        for which in ("resident", "fed") if turn % 2 == 0 else ("fed", "resident"):
            rates[which] = rate(training, iter(lambda: resident, None) if which == "resident" else batches, asked.steps)
        rounds.append(rates)
    found: dict[str, Any] = {
        "images_per_s": {which: asked.batch_size * statistics.median(each[which] for each in rounds) for which in ("resident", "fed")},
        "fed over resident": [each["fed"] / each["resident"] for each in rounds],
    }
    if device.type == "cuda":
        found["copy over pinned copy"] = copies(loader, device, asked.rounds)
        found["waits of the host in next()"] = waits(batches)
    loader.close()
    return found


def waits(batches: Iterator[Any]) -> int:
    """Return in how many of 20 calls the host waited for the device."""
    count = 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for _ in range(20):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                next(batches)
            count += any("synchroniz" in str(each.message) for each in told)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return count


def show(found: dict[str, Any]) -> None:
    """Print what was found, and what was asked for."""
    table = Table("figure", "median", "range", "asked for")
    for name, bound in BOUNDS.items():
        if name in found:
            low, high = min(found[name]), max(found[name])
            table.add_row(name, f"{statistics.median(found[name]):.3f}", f"{low:.3f} to {high:.3f}", f"{bound:.2f}")
    if "waits of the host in next()" in found:
        table.add_row("waits of the host in 20 next()", str(found["waits of the host in next()"]), "", "0")
    for which, value in found["images_per_s"].items():
        table.add_row(f"images/s, {which}", f"{value:,.0f}", "", "")
    Console().print(table)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description="A training step fed by the loader beside one on a resident batch.")
    parser.add_argument("--data", type=Path, required=True, help="folder for the data, kept for the next time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="channels of the network's first stage; 64 is ResNet-50, others are a small network")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.data.mkdir(parents=True, exist_ok=True)
    with torch.cuda.device(asked.device) if asked.device != "cpu" else nullcontext():
        found = measure(asked)
    show(found)
    if asked.json is not None:
        name = torch.cuda.get_device_name() if asked.device != "cpu" else "cpu"
        asked.json.write_text(json.dumps({"machine": machine(), "device": name, **found}, indent=1))


if __name__ == "__main__":
    main()
