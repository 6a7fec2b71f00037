"""LitData: `optimize` into chunks of 64 MB, `StreamingDataset(shuffle=True)` in a `StreamingDataLoader`.

Tokens are written and read with `TokensLoader(block_size=...)`, as its page on pre-training has it; other rows as dicts of bytes or arrays.
Its shuffle is over chunks and within a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

from .loop import Config, run
from .samples import WINDOW, Sample, Source, finisher

RUN = 1_000_000
"""Tokens handed over at once when writing."""


def rows_from(folder: str, kind: str, span: tuple[int, int]) -> Iterator[Sample]:
    """Yield rows of the source."""
    source = Source(folder, kind)
    for index in range(*span):
        sample = source[index]
        yield {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in sample.items()}


def tokens_from(folder: str, span: tuple[int, int]) -> Iterator[Any]:
    """Yield runs of tokens."""
    yield torch.from_numpy(np.array(np.load(Path(folder) / "tokens.npy", mmap_mode="r")[span[0] : span[1]]))


def make(kind: str, source: Path, out: Path) -> None:
    """Write chunks."""
    if kind == "W3":
        size = len(np.load(source / "tokens.npy", mmap_mode="r"))
        spans = [(start, min(start + RUN, size)) for start in range(0, size, RUN)]
        write: Any = functools.partial(tokens_from, str(source))
        options: dict[str, Any] = {"chunk_size": WINDOW * 8000, "item_loader": TokensLoader(block_size=WINDOW)}
    else:
        size = len(Source(source, kind))
        spans = [(start, min(start + 1000, size)) for start in range(0, size, 1000)]
        write = functools.partial(rows_from, str(source), kind)
        options = {"chunk_bytes": "64MB"}
    optimize(fn=write, inputs=spans, output_dir=str(out / "chunks"), num_workers=1, reorder_files=False, verbose=False, **options)


class Finished(StreamingDataset):  # type: ignore[misc]  # litdata ships no types that mypy sees
    """Rows made into training samples."""

    kind = ""

    def __getitem__(self, index: Any) -> Any:
        """Return a training sample."""
        row = super().__getitem__(index)
        return {"tokens": row.to(torch.int64)} if self.kind == "W3" else finisher(self.kind)(row)


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers = config["kind"], config["workers"]
    options: dict[str, Any] = {"item_loader": TokensLoader(block_size=WINDOW)} if kind == "W3" else {}
    dataset = Finished(str(Path(config["data"]) / "chunks"), shuffle=True, drop_last=False, **options)
    dataset.kind = kind
    loader: Iterable[Any] = StreamingDataLoader(dataset, batch_size=config["batch_size"], num_workers=workers, persistent_workers=workers > 0)
    return loader


if __name__ == "__main__":
    run(make, load)
