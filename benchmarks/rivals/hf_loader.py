"""HF datasets: Arrow on disk, a torch DataLoader on top, as "Use with PyTorch" has it.

- `torch`: `with_format("torch")` for arrays, and images decoded in `with_transform`; `__getitems__` takes a batch at once.
- `arrow`: `with_format("arrow")`, a `BatchSampler` as the sampler and `batch_size=None`, so that a batch is one Arrow table whose columns become
  tensors without a Python object a value. For arrays only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from .loop import Config, run
from .samples import SHAPES, Source, finisher


def make(kind: str, source: Path, out: Path) -> None:
    """Write one Arrow dataset: images as bytes, arrays as lists of fixed length."""
    rows = Source(source, kind)
    if kind.startswith("W1"):
        images = pa.array(
            [value if isinstance(value, bytes) else value.tobytes() for value in (sample["image"] for sample in rows)], pa.large_binary()
        )
        table = pa.table({"image": images, "label": np.array([sample["label"] for sample in rows])})
    else:
        name, shape, _ = SHAPES[kind]
        table = pa.table({name: pa.FixedSizeListArray.from_arrays(pa.array(rows.arrays[name].reshape(-1)), shape[0])})
        if kind != "W3":
            table = table.append_column("label", pa.array(rows.arrays["label"]))
    datasets.Dataset(table).save_to_disk(str(out / "rows"))


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, workers, size = config["kind"], config["workers"], config["batch_size"]
    rows = datasets.load_from_disk(str(Path(config["data"]) / "rows"))
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if config["style"] == "arrow":
        tables: Any = rows.with_format("arrow")
        order: Any = BatchSampler(RandomSampler(tables), size, drop_last=False)
        return DataLoader(tables, batch_size=None, sampler=order, collate_fn=tensors, **options)
    if not kind.startswith("W1"):
        return DataLoader(rows.with_format("torch"), batch_size=size, shuffle=True, **options)
    finish = finisher(kind)

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        images = (np.frombuffer(data, np.uint8).reshape(256, 256, 3) if kind == "W1-raw" else data for data in batch["image"])
        done = [finish({"image": image, "label": label}) for image, label in zip(images, batch["label"], strict=True)]
        return {name: [sample[name] for sample in done] for name in done[0]}

    return DataLoader(rows.with_transform(decode), batch_size=size, shuffle=True, **options)


def tensors(table: Any) -> dict[str, Any]:
    """Return a batch of tensors of an Arrow table; tokens as int64."""
    batch = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        listed = pa.types.is_fixed_size_list(column.type)
        values = column.flatten().to_numpy(zero_copy_only=False) if listed else column.to_numpy(zero_copy_only=False)
        if name == "tokens":
            values = values.astype(np.int64)
        elif not values.flags.writeable:
            values = values.copy()
        batch[name] = torch.from_numpy(values.reshape(len(column), -1) if listed else values)
    return batch


if __name__ == "__main__":
    run(make, load)
