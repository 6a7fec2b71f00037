"""torch's DataLoader, in the ways its documentation has for a dataset that can be indexed.

- `map-style`: `__getitem__` a sample, default collation. JPEGs are decoded with simplejpeg; arrays are memory-mapped.
- `getitems`: `__getitems__`, one fancy index over the memory-mapped array for a whole batch; tensors made by the collate function.
- `batch-sampler`: a `BatchSampler` as the sampler and `batch_size=None` ("disable automatic batching"): `__getitem__` gets the list of a batch.
- `take`: the same with `numpy.take` in place of an index.
- `arrays`: a sampler of one's own that yields batches as slices of one permutation, and `index_select` over the mapped tensor, which uses torch's threads:
  the most that is to be had, and which few write.

Workers are persistent; `prefetch_factor` is torch's default.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler

from .loop import Config, run
from .nothing import make
from .samples import Sample, Source, finisher, take


class Samples(Dataset[Any]):
    """A training sample for a number."""

    def __init__(self, source: Source) -> None:
        """Keep the source."""
        self.source = source
        self.finish = None if source.kind in ("W2", "W4") else finisher(source.kind)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Return a training sample."""
        sample = self.source[index]
        if self.finish is not None:
            return self.finish(sample)
        return {"x": sample["x"].copy(), "label": sample["label"]}


class Batches(Dataset[Any]):
    """A batch of rows of memory-mapped arrays for a list of numbers."""

    def __init__(self, source: Source, *, by_take: bool = False) -> None:
        """Keep the source."""
        self.source, self.by_take = source, by_take

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.source)

    def __getitem__(self, rows: Sequence[int]) -> Any:
        """Return a batch of tensors."""
        return {name: torch.from_numpy(array) for name, array in take(self.source, rows, by_take=self.by_take).items()}

    def __getitems__(self, rows: Sequence[int]) -> Any:
        """Return a batch of tensors, when torch collects the numbers."""
        return self[rows]


class Slices(Sampler[Any]):
    """Batches of a new permutation every epoch, as tensors of row numbers."""

    def __init__(self, rows: int, size: int) -> None:
        """Note how many rows there are, and in a batch."""
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(self.rows / self.size)

    def __iter__(self) -> Iterator[Any]:
        """Yield slices."""
        order = torch.randperm(self.rows)
        return (order[start : start + self.size] for start in range(0, self.rows, self.size))


class Selected(Batches):
    """A batch for a tensor of row numbers."""

    def __init__(self, source: Source) -> None:
        """See the mapped arrays as tensors, which are read and never written to."""
        super().__init__(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of arrays that cannot be written to
            self.tensors = {name: torch.from_numpy(array) for name, array in source.arrays.items()}

    def __getitem__(self, rows: Any) -> Any:
        """Return a batch of tensors."""
        batch = {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
        return {name: tensor.to(torch.int64) for name, tensor in batch.items()} if self.source.kind == "W3" else batch


def as_it_is(batch: Any) -> Any:
    """Return the batch that `__getitems__` made: the collate function."""
    return batch


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    source, workers, size = Source(config["source"], config["kind"]), config["workers"], config["batch_size"]
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    if config["style"] == "map-style":
        return DataLoader(Samples(source), batch_size=size, shuffle=True, **options)
    if config["style"] == "getitems":
        return DataLoader(Batches(source), batch_size=size, shuffle=True, collate_fn=as_it_is, **options)
    if config["style"] == "arrays":
        return DataLoader(Selected(source), batch_size=None, sampler=Slices(len(source), size), **options)
    batches = Batches(source, by_take=config["style"] == "take")
    order: Any = BatchSampler(RandomSampler(batches), size, drop_last=False)
    return DataLoader(batches, batch_size=None, sampler=order, **options)


if __name__ == "__main__":
    run(make, load)
