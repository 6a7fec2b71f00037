"""One loader, torch's or ours, over a dataset of the user's own, for a few seconds: a program of `benchmarks.dropin`."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

ROWS = 20_000


class Columns(Dataset[Any]):
    """Rows of eight small tensors."""

    def __init__(self) -> None:
        """Make them."""
        self.columns = {f"x{n}": torch.rand(ROWS, 4 + n) for n in range(8)}

    def __len__(self) -> int:
        """Return how many."""
        return ROWS

    def __getitem__(self, row: int) -> Any:
        """Return one."""
        return {name: column[row] for name, column in self.columns.items()}


class Pictures(Dataset[Any]):
    """Rows of 3 x 224 x 224 bytes: 36.75 MiB in a batch of 256."""

    def __init__(self) -> None:
        """Make a few, which are rows again and again."""
        self.pictures = torch.randint(0, 256, (512, 3, 224, 224), dtype=torch.uint8)

    def __len__(self) -> int:
        """Return how many."""
        return ROWS

    def __getitem__(self, row: int) -> Any:
        """Return one."""
        return self.pictures[row % 512]


class Numbers(Dataset[Any]):
    """Rows that are an integer."""

    def __len__(self) -> int:
        """Return how many."""
        return 50 * ROWS

    def __getitem__(self, row: int) -> Any:
        """Return one."""
        return row


CASES: dict[str, Callable[[], Dataset[Any]]] = {"eight small tensors": Columns, "one of 37 MiB": Pictures, "an int": Numbers}
"""What a row is, by name; batches have 256."""


def main() -> None:
    """Run the loader that the configuration names, and print what was measured."""
    config = json.loads(sys.argv[1])
    if config["loader"] == "torch":
        from torch.utils.data import DataLoader  # noqa: PLC0415  (the other one is not paid for)
    else:
        from penstock import DataLoader  # noqa: PLC0415  (likewise)
    loader = DataLoader(CASES[config["case"]](), batch_size=256, shuffle=True, num_workers=config["workers"])
    gc.collect()  # what importing left, which else is looked through at some moment of either loader's first batch, by luck
    began = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first_s = time.perf_counter() - began
    for _ in range(8):
        next(batches)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < config["seconds"]:
        for _batch in batches:
            count += 1
            if time.perf_counter() - began >= config["seconds"]:
                break
        else:
            batches = iter(loader)
    print(json.dumps({"batches_per_s": count / took, "first_s": first_s}), flush=True)


if __name__ == "__main__":
    main()
