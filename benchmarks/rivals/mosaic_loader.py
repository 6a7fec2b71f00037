"""MosaicML Streaming: MDS shards of 64 MB, uncompressed, a local `StreamingDataset(shuffle=True)` in a torch DataLoader.

Where a state is asked for, in its own `StreamingDataLoader`. The dataset is told the batch size, as it asks; images are decoded in `__getitem__` of a subclass, as its documentation has it. Names in shared
memory that an earlier run left are cleaned first, which it recommends too.

It imports torchvision, of which the package registry has CUDA builds alone; those stumble over operators that a torch for CPUs lacks,
which are declared here, and never called.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .loop import Config, run
from .samples import SHAPES, Source, finisher

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402 (behind the operators that it stumbles over)
from streaming.base.util import clean_stale_shared_memory  # noqa: E402 (likewise)


def make(kind: str, source: Path, out: Path) -> None:
    """Write MDS shards."""
    columns = {} if kind == "W3" else {"label": "int"}
    name, shape, dtype = ("image", (), "") if kind in ("W1", "W1-u8") else SHAPES[kind]
    columns[name] = f"ndarray:{dtype}:{','.join(map(str, shape))}" if shape else "bytes"
    with MDSWriter(out=str(out / "mds"), columns=columns) as writer:
        for sample in Source(source, kind):
            writer.write({name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value for name, value in sample.items()})


class Finished(StreamingDataset):  # type: ignore[misc]  # it ships no types
    """Rows made into training samples."""

    kind = ""

    def __getitem__(self, index: Any) -> Any:
        """Return a training sample."""
        return finisher(self.kind)(super().__getitem__(index))


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    clean_stale_shared_memory()
    workers, size = config["workers"], config["batch_size"]
    dataset = Finished(local=str(Path(config["data"]) / "mds"), shuffle=True, batch_size=size)
    dataset.kind = config["kind"]
    kind_of: Any = StreamingDataLoader if config["style"] == "stateful" else DataLoader
    loader: Iterable[Any] = kind_of(dataset, batch_size=size, num_workers=workers, persistent_workers=workers > 0)
    return loader


if __name__ == "__main__":
    run(make, load)
