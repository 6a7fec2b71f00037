"""Lance: a map-style dataset that takes a batch of rows at once, in a torch DataLoader whose workers are spawned.

As its documentation has it for random access: `SafeLanceDataset` and `get_safe_loader`; instead of Python lists, which `SafeLanceDataset` makes
of its rows, columns become numpy arrays, which is many times faster. Its iterable dataset reads in the order of the file and is not shuffled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch
from lance.torch.data import SafeLanceDataset, get_safe_loader

from .loop import Config, run
from .samples import SHAPES, Source, collate, finisher

BLOCK = 4096
"""Rows handed to the writer at once."""


def make(kind: str, source: Path, out: Path) -> None:
    """Write one dataset: images as bytes, arrays as lists of fixed size."""
    rows = Source(source, kind)
    images = kind.startswith("W1")
    name, shape, dtype = ("image", (0,), "uint8") if images else SHAPES[kind]
    value: Any = pa.large_binary() if images else pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), shape[0])
    schema = pa.schema({name: value} if kind == "W3" else {name: value, "label": pa.int64()})
    step = 64 if images else BLOCK

    def blocks() -> Iterable[Any]:
        for start in range(0, len(rows), step):
            block = range(start, min(start + step, len(rows)))
            if images:
                samples = [rows[i] for i in block]
                data = [s["image"] if isinstance(s["image"], bytes) else s["image"].tobytes() for s in samples]
                yield pa.record_batch([pa.array(data, value), pa.array([s["label"] for s in samples], pa.int64())], schema=schema)
                continue
            cut = {n: array[start : block.stop] for n, array in rows.arrays.items()}
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(cut[name].reshape(-1)), shape[0])]
            yield pa.record_batch([*columns, *(pa.array(cut[n]) for n in cut if n != name)], schema=schema)

    lance.write_dataset(blocks(), str(out / "rows.lance"), schema=schema)


class Rows(SafeLanceDataset):  # type: ignore[misc]  # lance ships no types
    """Batches of training samples."""

    def __init__(self, uri: str, kind: str) -> None:
        """Remember what the rows are."""
        super().__init__(uri)
        self.kind = kind
        self._ds: Any = None

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch of tensors."""
        if self._ds is None:
            self._ds = lance.dataset(self.uri)
        table = self._ds.take(indices)
        if self.kind.startswith("W1"):
            return self._images(table)
        return {name: torch.from_numpy(self._array(name, table[name].combine_chunks())) for name in table.column_names}

    def _images(self, table: Any) -> Any:
        finish = finisher(self.kind)
        images: Any = (np.frombuffer(value.as_buffer(), np.uint8) for value in table["image"])
        if self.kind == "W1-raw":
            images = (image.reshape(256, 256, 3) for image in images)
        samples = [finish({"image": image, "label": label}) for image, label in zip(images, table["label"].to_pylist(), strict=True)]
        return {name: torch.from_numpy(array) for name, array in collate(samples).items()}

    def _array(self, name: str, column: Any) -> Any:
        values = column.to_numpy() if name == "label" else column.flatten().to_numpy().reshape(len(column), -1)
        return values.astype(np.int64) if name == "tokens" else values.copy()


def as_it_is(batch: Any) -> Any:
    """Return the batch that `__getitems__` made."""
    return batch


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    rows = Rows(str(Path(config["data"]) / "rows.lance"), config["kind"])
    workers = config["workers"]
    options: dict[str, Any] = {"shuffle": True, "collate_fn": as_it_is}
    if workers == 0:
        return torch.utils.data.DataLoader(rows, batch_size=config["batch_size"], **options)
    return get_safe_loader(rows, batch_size=config["batch_size"], num_workers=workers, **options)  # type: ignore[no-any-return]


if __name__ == "__main__":
    run(make, load)
