"""Penstock's side of `first_table`: the program behind its configurations. See `loops`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import penstock as ps

from .loops import run
from .rivals.augmentation import MEAN, SIDE, STD


def images(config: dict[str, Any]) -> Iterable[Any]:
    """Return the loader over Arrow shards of JPEGs."""
    ops = [ps.transforms.RandomResizedCrop(SIDE), ps.transforms.RandomHorizontalFlip(), ps.transforms.Normalize(MEAN, STD)]
    return _loader(config, transforms={"image": ops})


def rows(config: dict[str, Any]) -> Iterable[Any]:
    """Return the loader over Arrow shards of rows."""
    return _loader(config)


def _loader(config: dict[str, Any], **options: Any) -> Iterable[Any]:
    workers = config["workers"]
    dataset = ps.Dataset(config["data"])
    return ps.DataLoader(dataset, batch_size=config["batch_size"], shuffle=True, num_workers=workers, persistent_workers=workers > 0, **options)


if __name__ == "__main__":
    run({"images": images, "rows": rows})
