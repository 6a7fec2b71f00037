"""The program behind the configurations of `strain`: one experiment on one loader with its defaults, told as a JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import penstock as ps

from .rivals.augmentation import MEAN, SIDE, STD
from .rivals.loop import descendants, tree_cpu_s

Experiment = Callable[[dict[str, Any]], dict[str, Any]]
"""Runs one configuration and returns what it found."""

SLACK = 1.5
"""How much longer the slow consumer's step is than the loader's time for a batch."""

WARM_S = 1.5
"""Least seconds that a loader is iterated before a slow consumer is measured."""

LEAST_STEP_S = 0.005
"""Of the slow consumer: below that nobody trains."""


def loader_of(config: dict[str, Any], **options: Any) -> ps.DataLoader:
    """Return the loader over the configuration's dataset; images are augmented."""
    if config.get("images"):
        ops = [ps.transforms.RandomResizedCrop(SIDE), ps.transforms.RandomHorizontalFlip(), ps.transforms.Normalize(MEAN, STD)]
        options["transforms"] = {"image": ops}
    dataset = ps.Dataset(config["data"])
    workers = config["workers"]
    return ps.DataLoader(dataset, batch_size=config["batch_size"], shuffle=True, num_workers=workers, persistent_workers=workers > 0, **options)


def burn(seconds: float) -> None:
    """Use the processor for so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def uneven(config: dict[str, Any]) -> dict[str, Any]:
    """Measure the rate where each sample costs `cost_s`, and every `every`-th `factor` times that; and note the order."""
    cost_s, every, factor = config["cost_s"], config["every"], config["factor"]

    def work(row: dict[str, Any]) -> dict[str, Any]:
        burn(cost_s * factor if every and int(row["label"]) % every == 0 else cost_s)
        return {"label": row["label"]}

    loader = loader_of(config, map=work)
    batches = iter(loader)
    next(batches)  # the workers are up
    order, samples, began = 0, 0, time.perf_counter()
    for batch in batches:
        samples += len(batch["label"])
        order = zlib.crc32(batch["label"].numpy().tobytes(), order)
    took_s = time.perf_counter() - began
    loader.close()
    return {"samples_per_s": samples / took_s, "order": order}


def paced(batches: Iterator[Any], step_s: float) -> tuple[float, float, int]:
    """Take batches with a pause between them, as a device works; return the part of the time that was waited, the longest wait in seconds, and the steps."""
    waited_s = longest_s = 0.0
    steps = 0
    held: Any = next(batches)
    began = time.perf_counter()
    while True:
        time.sleep(step_s)
        asked = time.perf_counter()
        held = next(batches, None)
        if held is None:
            return waited_s / (time.perf_counter() - began), longest_s, steps
        took_s = time.perf_counter() - asked
        waited_s, longest_s, steps = waited_s + took_s, max(longest_s, took_s), steps + 1


def ready(batch: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Yield a batch so many times, from arrays that lie ready: what any loader written in Python has to do."""
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    return ({name: torch.from_numpy(array) for name, array in arrays.items()} for _ in range(count))


def consumer(config: dict[str, Any]) -> dict[str, Any]:
    """Measure what part of its time a consumer waits whose step takes longer than the loader needs for a batch, and with batches that lie ready.

    A core that was at rest for some milliseconds takes tens of microseconds for the first thing it is asked, which is seen with either.
    """
    loader = loader_of(config)
    until = time.perf_counter() + WARM_S
    while time.perf_counter() < until:  # workers are up
        for batch in loader:
            del batch  # one that is kept for later would have others copied
    began, batches = time.perf_counter(), 0
    for batch in loader:
        del batch
        batches += 1
    step_s = max(SLACK * (time.perf_counter() - began) / batches, LEAST_STEP_S)
    waiting, longest_s, steps = paced(iter(loader), step_s)
    present, _, _ = paced(ready(next(iter(loader)), steps + 1), step_s)
    loader.close()
    return {"waiting": waiting, "waiting_when_ready": present, "step_s": step_s, "longest_wait_s": longest_s, "steps": steps}


def tree_memory() -> dict[str, int]:
    """Return the proportional set size of this process and those below it, in bytes: its own and shared memory, and pages of mapped files."""
    total = {"Pss_Anon": 0, "Pss_File": 0, "Pss_Shmem": 0}
    for pid in (os.getpid(), *descendants(os.getpid())):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) * 1024
    return {"memory_bytes": total["Pss_Anon"] + total["Pss_Shmem"], "mapped_bytes": total["Pss_File"]}


def handover(config: dict[str, Any]) -> dict[str, Any]:
    """Measure the processor time of this process and of the workers for a batch, and of this process for 1,000 samples."""
    loader = loader_of(config)
    for _ in loader:
        pass
    parent_s, tree_s, batches, samples = time.process_time(), tree_cpu_s(), 0, 0
    for _ in range(config["epochs"]):
        for _ in loader:
            batches += 1
        samples += loader.stats().samples
    parent_s, tree_s = time.process_time() - parent_s, tree_cpu_s() - tree_s
    loader.close()
    work_s = max(tree_s - parent_s, 0.0)  # the tree's is counted in ticks
    return {"parent_s": parent_s / batches, "work_s": work_s / batches, "parent_s_per_1000": 1000 * parent_s / samples}


def memory(config: dict[str, Any]) -> dict[str, Any]:
    """Take the memory in the middle of each epoch, of which there are `epochs` of at most `batches` batches."""
    loader = loader_of(config)
    taken = []
    for _ in range(config["epochs"]):
        middle = min(len(loader), config["batches"]) // 2
        for number, batch in enumerate(loader):
            if number == middle:
                taken.append(tree_memory())
            del batch  # as in `consumer`
            if number == config["batches"]:
                break
    loader.close()
    return {"epochs": taken, **taken[-1]}


EXPERIMENTS: dict[str, Experiment] = {"uneven": uneven, "consumer": consumer, "handover": handover, "memory": memory}
"""By name."""


def main() -> None:
    """Run the configuration on the command line, and print what it found as the last line."""
    config = json.loads(sys.argv[1])
    print(json.dumps(EXPERIMENTS[config["experiment"]](config)), flush=True)


if __name__ == "__main__":
    main()
