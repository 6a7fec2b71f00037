"""A dataset as torch's two kinds of dataset, for loaders that are not ours. Ours takes the dataset itself.

Rows are dicts as `Dataset` gives them: numbers, arrays, text, bytes; images as they are stored.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .. import order

if TYPE_CHECKING:
    from .dataset import Dataset as Stored

_AHEAD = 1024
"""Rows that are looked up at a time."""


@final
class MapStyle(Dataset[dict[str, Any]]):
    """Rows by number, alone or by the batch."""

    def __init__(self, rows: Stored) -> None:
        """Take the dataset."""
        self.rows = rows

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row."""
        return self.rows[index]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch."""
        return self.rows.__getitems__(indices)


@final
class IterableStyle(IterableDataset[dict[str, Any]]):
    """Rows in the order of Penstock's law, each in one worker of one rank: position p of an epoch is that of reader p modulo the number of readers.

    Attributes:
        epoch: which is iterated next; `set_epoch` sets it.
    """

    def __init__(self, rows: Stored, *, shuffle: bool, seed: int, topology: Any) -> None:
        """Note the order, and who reads.

        Raises:
            BadRequest: the rank is none of the world, or two launchers contradict each other.
        """
        found = importlib.import_module(".loaders.topology", __package__.rpartition(".")[0]).detect(topology)  # who reads is the loaders' business
        self.rows, self.shuffle, self.seed, self.epoch = rows, shuffle, seed, 0
        self._rank, self._world = found.rank, found.world_size

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the next one."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return how many rows this rank is given in an epoch; other ranks may have one more or fewer."""
        return len(range(self._rank, len(self.rows), self._world))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return an iterator of this worker's rows; it has `state_dict` and `load_state_dict`."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return Walk(self, self._rank + worker * self._world, self._world * workers)


@final
class Walk(Iterator[dict[str, Any]]):
    """The rows of every so many-th position of an epoch."""

    def __init__(self, source: IterableStyle, first: int, step: int) -> None:
        """Stand before the first."""
        self._source, self._first, self._step = source, first, step
        self._epoch, self._done = source.epoch, 0
        self._ahead: Iterator[dict[str, Any]] = iter(())

    def __next__(self) -> dict[str, Any]:
        """Return the next row."""
        row = next(self._ahead, None)
        if row is None:
            self._ahead = iter(self._fetched())
            row = next(self._ahead)
        self._done += 1
        return row

    def _fetched(self) -> list[dict[str, Any]]:
        source, n = self._source, len(self._source.rows)
        positions = np.arange(self._first + self._done * self._step, n, self._step)[:_AHEAD]
        return source.rows.__getitems__(order.rows_at(positions, n=n, seed=source.seed, epoch=self._epoch, shuffle=source.shuffle))

    def state_dict(self) -> dict[str, int]:
        """Return where it stands."""
        return {"epoch": self._epoch, "samples": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where a state was taken."""
        self._epoch, self._done, self._ahead = int(state["epoch"]), int(state["samples"]), iter(())
