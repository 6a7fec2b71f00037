"""Penstock's side of the side-by-side table: the public API with its defaults, and nothing else. See `rivals.loop`.

The data are Arrow shards as `penstock convert` or `Writer` makes them. W1's crop, flip and normalisation are `penstock.transforms`; W3 is
`TokenWindows` over a dataset of documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock import DataLoader

from .rivals.augmentation import MEAN, SIDE, STD
from .rivals.loop import Config, run
from .rivals.samples import SHAPES, WINDOW, Source


def make(kind: str, source: Path, out: Path) -> None:
    """Write the dataset."""
    if kind in ("W1", "W1-u8"):
        ps.convert(source, out / "rows")
        return
    if kind == "W3":
        tokens, ends = np.load(source / "tokens.npy", mmap_mode="r"), np.load(source / "ends.npy")
        with ps.Writer(out / "rows", {"tokens": ps.Tokens("uint16")}) as writer:
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                writer.write({"tokens": tokens[start:end]})
        return
    name, shape, dtype = SHAPES[kind]
    with ps.Writer(out / "rows", {name: ps.Array(shape, dtype), "label": ps.Scalar("int64")}) as writer:
        for sample in Source(source, kind):
            writer.write(sample)


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers = config["kind"], config["workers"]
    dataset: Any = ps.Dataset(Path(config["data"]) / "rows")
    options: dict[str, Any] = {}
    if kind == "W3":
        dataset = ps.TokenWindows(dataset, WINDOW, dtype="int64")
    if kind.startswith("W1"):
        ops: list[Any] = [ps.transforms.RandomResizedCrop(SIDE), ps.transforms.RandomHorizontalFlip()]
        options["transforms"] = {"image": ops if kind == "W1-u8" else [*ops, ps.transforms.Normalize(MEAN, STD)]}
    return DataLoader(dataset, batch_size=config["batch_size"], shuffle=True, num_workers=workers, persistent_workers=workers > 0, **options)


if __name__ == "__main__":
    run(make, load)
