"""From a row of the dataset to the block of columns it stands in, and whose fault it is when that row is bad.

Opened blocks are kept while they are few; a block of a mapped shard is a handful of views, so keeping one costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadData, WorkerFailed
from ..shards.columns import Column
from ..shards.dataset import Dataset


class Place(NamedTuple):
    """Where one row stands.

    Attributes:
        columns: its block.
        offset: its row in the block.
        sample: its row in the dataset; the identity that augmentation is keyed by.
        root: the dataset's folder, for messages.
        shard: the shard's path, for messages.
        row: its row in the shard, for messages.
    """

    columns: Mapping[str, Column]
    offset: int
    sample: int
    root: str
    shard: str
    row: int

    def value(self, field: str) -> npt.NDArray[Any]:
        """Return the row's value of a column.

        Raises:
            BadData: the row is damaged; names shard, row and column.
        """
        with self.blame(field):
            return self.columns[field].row(self.offset)

    @contextmanager
    def blame(self, field: str) -> Iterator[None]:
        """Say which shard, row and column a `BadData` raised inside is about."""
        try:
            yield
        except BadData as error:
            raise error.at(path=self.root, shard=self.shard, row=self.row, field=field) from error.__cause__

    @contextmanager
    def blame_map(self) -> Iterator[None]:
        """Say at which row the user's function raised, and that it was the function."""
        try:
            yield
        except BadData as error:
            raise error.at(path=self.root, shard=self.shard, row=self.row) from error.__cause__
        except Exception as error:  # whatever the user's function raises
            message = f"map raised {type(error).__name__}: {error}, at row {self.row} of shard {self.shard} (row {self.sample} of {self.root})"
            raise WorkerFailed(message, stage="map") from error


class Lookup:
    """Finds rows of one dataset."""

    def __init__(self, dataset: Dataset) -> None:
        """Keep what is needed to divide rows over blocks; no shard is opened yet."""
        self._dataset = dataset
        self._shards = dataset.manifest.shards
        self._root = str(dataset.manifest.root)
        self._block_rows = dataset.manifest.block_rows

    def block(self, shard: int, number: int) -> Mapping[str, Column]:
        """Return block `number` of a shard."""
        return self._dataset.reader(shard).block(number)

    def mapped(self, shard: int) -> bool:
        """Return whether a shard's blocks are views of its mapped file, which cost nothing to keep."""
        return self._dataset.reader(shard).mapped

    def places(self, rows: npt.NDArray[np.int64]) -> list[Place]:
        """Return where each of `rows` stands."""
        shards, local = self._dataset.locate(rows)
        blocks, indices = self._divide(shards, local)
        return [
            Place(self.block(shard, block), index, sample, self._root, self._shards[shard].path, row)
            for shard, block, index, sample, row in zip(
                shards.tolist(), blocks.tolist(), indices.tolist(), rows.tolist(), local.tolist(), strict=True
            )
        ]

    def _divide(self, shards: npt.NDArray[np.int64], local: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        sizes = self._block_rows[shards]
        blocks = local // np.maximum(sizes, 1)
        indices = local - blocks * sizes
        for shard in set(shards[sizes == 0].tolist()):  # numpy's unique imports its masked arrays, which takes 6 ms
            mine = shards == shard
            blocks[mine], indices[mine] = self._dataset.reader(shard).places(local[mine])
        return blocks, indices
