"""Asynchronous updates under bounded staleness, beside the synchronous all-reduce run on the same data: two loss curves in one picture.

Three workers of unlike speed train a small network. In the synchronous run they are ranks in step: each global batch waits for the slowest. In the asynchronous one a
fourth process holds the parameters, and each worker draws its next batch from a store (`tickets=`), computes a gradient, has the batch confirmed, and sends
the gradient; a batch that was given to somebody else meanwhile is not sent. Both see every sample of an epoch once, and say so by their ledgers.

    python examples/parameter_server.py --folder out [--epochs 3] [--max-staleness 4]
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image, ImageDraw
from torch import nn

import penstock as ps

PAUSES_S = (0.0, 0.004, 0.012)
"""What each worker's step takes longer than the fastest's."""

ROWS, FEATURES, CLASSES, BATCH = 6000, 20, 5, 40
SERVER = len(PAUSES_S)
RATE = 0.05
COLOURS = ("#2b2d42", "#0b7a75")
"""Of the synchronous curve and of the asynchronous one."""


def make_data(folder: Path) -> str:
    """Write a dataset of points around hidden centres, unless it is there."""
    path = folder / "points"
    if not path.exists():
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(CLASSES, FEATURES))
        with ps.Writer(path, fields={"x": ps.Array((FEATURES,), "float32"), "label": ps.Scalar("int64")}, shard_size="100KB") as writer:
            for n in range(ROWS):
                writer.write({"x": (centres[n % CLASSES] + rng.normal(size=FEATURES)).astype(np.float32), "label": n % CLASSES})
    return str(path)


def network() -> nn.Module:
    """Return the same network in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def flat(values: list[torch.Tensor]) -> torch.Tensor:
    """Return tensors end to end."""
    return torch.cat([value.reshape(-1) for value in values])


def load(model: nn.Module, parameters: torch.Tensor) -> None:
    """Put parameters, end to end, into a model."""
    torch.nn.utils.vector_to_parameters(parameters, model.parameters())


def gradient(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Return the gradient of a batch, end to end, and its loss."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(batch["x"]), batch["label"])
    loss.backward()
    return flat([p.grad for p in model.parameters() if p.grad is not None]), float(loss.detach())


def synchronous(rank: int, data: str, folder: str, epochs: int) -> None:
    """Be a rank in step with the others."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=len(PAUSES_S), timeout=timedelta(seconds=60))
    model = network()
    loader = ps.DataLoader(ps.Dataset(data), BATCH, shuffle=True, drop_last=True)
    curve, began = [], time.perf_counter()
    for _ in range(epochs):
        for batch in loader:
            grad, loss = gradient(model, batch)
            time.sleep(PAUSES_S[rank])
            told = torch.cat([grad, torch.tensor([loss])])
            dist.all_reduce(told)
            told /= len(PAUSES_S)
            load(model, flat([p.detach() for p in model.parameters()]) - RATE * told[:-1])
            curve.append((time.perf_counter() - began, float(told[-1])))
    finish(rank, folder, "sync", curve, loader.digest().to_json())


def asynchronous(rank: int, data: str, folder: str, epochs: int, max_staleness: int) -> None:
    """Be a worker that draws its batches, or, as the last rank, the server of the parameters."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/async", rank=rank, world_size=SERVER + 1, timeout=timedelta(seconds=60))
    model = network()
    workers = dist.new_group(list(range(SERVER)))
    if rank == SERVER:
        serve(model, folder)
        return
    store = dist.FileStore(f"{folder}/tickets", SERVER)  # of one machine; a TCPStore of several
    loader = ps.DataLoader(
        ps.Dataset(data), BATCH, shuffle=True, drop_last=True, tickets=ps.Tickets(store, deadline_s=30, max_staleness=max_staleness)
    )
    parameters = flat([p.detach() for p in model.parameters()])
    own = lead = 0
    for _ in range(epochs):
        for batch in loader:
            if own == 0:
                dist.barrier(workers)  # who comes later would count from the fastest
            counts = [store.add(f"worked on by {one}", 0) for one in range(SERVER)]
            if sum(counts) + 2 * SERVER < len(loader):  # as long as all have something to draw: who waits for the end of the epoch is not waited for
                lead = max(lead, own - min(counts))
            load(model, parameters)
            grad, loss = gradient(model, batch)
            time.sleep(PAUSES_S[rank])
            own = store.add(f"worked on by {rank}", 1)
            if not loader.confirm():
                continue
            dist.send(torch.cat([grad, torch.tensor([loss])]), SERVER)
            dist.recv(parameters, SERVER)
    dist.send(torch.full((parameters.numel() + 1,), float("nan")), SERVER)  # the end
    digest = loader.digest().to_json()
    loader.close()
    finish(rank, folder, "async", [], digest, lead)


def serve(model: nn.Module, folder: str) -> None:
    """Apply gradients as they come, and answer each with the parameters."""
    parameters = flat([p.detach() for p in model.parameters()])
    told = torch.empty(parameters.numel() + 1)
    curve, began, working = [], time.perf_counter(), SERVER
    while working:
        worker = dist.recv(told)
        if torch.isnan(told[-1]):
            working -= 1
            continue
        parameters -= RATE / SERVER * told[:-1]
        dist.send(parameters, worker)
        curve.append((time.perf_counter() - began, float(told[-1])))
    finish(SERVER, folder, "async", curve, None)


def finish(rank: int, folder: str, name: str, curve: list[tuple[float, float]], digest: dict[str, Any] | None, lead: int = 0) -> None:
    """Write down what a process has to say."""
    Path(folder, f"{name}{rank}.json").write_text(json.dumps({"curve": curve, "digest": digest, "lead": lead}))
    dist.barrier()
    dist.destroy_process_group()


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw losses over seconds, smoothed over 30 batches."""
    image = Image.new("RGB", (900, 500), "white")
    pen = ImageDraw.Draw(image)
    longest = max(curve[-1][0] for curve in curves.values())
    highest = max(loss for curve in curves.values() for _, loss in curve[:30])
    for number, (name, curve) in enumerate(curves.items()):
        losses = np.convolve([loss for _, loss in curve], np.ones(30) / 30, "valid")
        seconds = [second for second, _ in curve][29:]
        colour = COLOURS[number]
        pen.line([(60 + 800 * s / longest, 450 - 400 * y / highest) for s, y in zip(seconds, losses, strict=True)], colour, 3)
        pen.text((600, 40 + 20 * number), f"{name}: {curve[-1][0]:.1f} s, last loss {losses[-1]:.3f}", colour)
    pen.text((60, 465), f"seconds, 0 to {longest:.1f}; loss 0 to {highest:.2f}; three workers of unlike speed, the same samples", "black")
    image.save(path)


def main() -> None:
    """Run both, compare what they delivered, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-staleness", type=int, default=4)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    data = make_data(asked.folder)
    for stale in [*asked.folder.glob("*sync*"), *asked.folder.glob("tickets*")]:
        stale.unlink()
    mp.spawn(synchronous, (data, str(asked.folder), asked.epochs), nprocs=len(PAUSES_S))
    mp.spawn(asynchronous, (data, str(asked.folder), asked.epochs, asked.max_staleness), nprocs=SERVER + 1)
    curves = {}
    for name, leader in (("sync", 0), ("async", SERVER)):
        told = [json.loads(path.read_text()) for path in sorted(asked.folder.glob(f"{name}*.json"))]
        digests = [ps.Digest.from_json(one["digest"]) for one in told if one["digest"]]
        whole = digests[0].merge(*digests[1:])
        positions = ROWS // BATCH * BATCH if name == "async" else ROWS // (BATCH * len(PAUSES_S)) * BATCH * len(PAUSES_S)
        once = all(whole.samples(epoch) == positions and len(whole.epochs[epoch]) == 1 for epoch in range(asked.epochs))
        print(
            f"{name}: {asked.epochs} epochs, every sample once: {once}; batches of each worker: {[one.samples(0) // BATCH for one in digests]} of epoch 0"
        )
        if name == "async":
            print(
                f"async: most batches by which a worker was ahead of the slowest when it was given one in epoch 0: {max(one['lead'] for one in told)}"
            )
        curves[name] = [tuple(point) for point in told[leader]["curve"]]
    draw(curves, asked.folder / "losses.png")
    print(f"wrote {asked.folder / 'losses.png'}")


if __name__ == "__main__":
    main()
