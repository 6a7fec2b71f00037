"""Torch's side of `first_table`: the program behind its configurations. See `loops`.

What torch is given is what its users write: a map-style dataset, of images (`torch_images`) or one that indexes memory-mapped arrays; default
collation, persistent workers. The program for rows imports nothing that decodes images, so that its first batch is not late by that.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .loops import run


class Rows(torch.utils.data.Dataset[Any]):
    """Rows of memory-mapped arrays."""

    def __init__(self, folder: Path) -> None:
        """Map the files."""
        self.x, self.label = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("x", "label"))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        """Return a row and its label."""
        return {"x": np.array(self.x[index]), "label": int(self.label[index])}


def _loader(config: dict[str, Any], dataset: Any) -> Iterable[Any]:
    workers = config["workers"]
    return torch.utils.data.DataLoader(dataset, batch_size=config["batch_size"], shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def images(config: dict[str, Any]) -> Iterable[Any]:
    """Return the loader over JPEG files."""
    return _loader(config, importlib.import_module(".torch_images", __package__).Images(Path(config["data"])))


def rows(config: dict[str, Any]) -> Iterable[Any]:
    """Return the loader over memory-mapped arrays."""
    return _loader(config, Rows(Path(config["data"])))


if __name__ == "__main__":
    run({"images": images, "rows": rows})
