"""The contract of a shard format's reader: blocks of columns by number, and where a row stands.

A reader trusts nothing in the file: offsets, lengths and counts are checked once per block, and damage is a `BadData` that names shard,
row and field. It never copies what it can view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..fields import Schema
from .columns import Column
from .storage import let_go_of_pages

CACHE_BYTES = 256 << 20
"""Bytes of blocks that a reader keeps, besides the one in use, where blocks are not views but memory of their own."""


class ShardReader(ABC):
    """One shard, open.

    Attributes:
        rows: how many rows it has.
        schema: the columns that were asked for, in the order of the dataset's schema.
        block_starts: `[blocks + 1]` int64, the first row of each block and, last, `rows`.
        mapped: whether `block` gives views of a mapped file, so that keeping them costs no memory. Not so for what is decoded (Parquet,
            compressed or converted Arrow buffers, arrays of truth values, which Arrow packs into bits) or parsed a row at a time (numbers in
            a tar). A single truth value a row, unpacked to a byte, is not counted.
        held_bytes: what it decoded and keeps, now; 0 when `mapped`.
        pages: the mapped file, while it is open and blocks are views of it.
    """

    rows: int
    schema: Schema
    block_starts: npt.NDArray[np.int64]
    mapped: bool
    held_bytes: int = 0
    pages: npt.NDArray[np.uint8] | None = None

    @abstractmethod
    def block(self, number: int) -> dict[str, Column]:
        """Return the columns of block `number`.

        Raises:
            BadData: the block is damaged.
        """

    @abstractmethod
    def check(self, number: int) -> None:
        """Read all of block `number` and compare it with the checksums that were written, if any, and with what its columns say.

        It is thorough where `block` is quick: for verifying, not for training.

        Raises:
            BadData: at the first thing that is wrong, with its row, or the block's first where a checksum covers the whole block.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; views handed out stay valid. Closing twice is fine."""

    def let_go_of_pages(self) -> None:
        """Have this process forget which pages of the file are in memory (`storage.let_go_of_pages`)."""
        if self.pages is not None:
            let_go_of_pages(self.pages)

    def places(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return for each row of the shard its block and its index in that block."""
        blocks = np.searchsorted(self.block_starts, rows, side="right") - 1
        return blocks, rows - self.block_starts[blocks]

    def elements(self, number: int, field: str) -> int | None:  # noqa: ARG002  (formats that can tell override it)
        """Return how many elements the runs of a ragged column hold in block `number`, when that can be told without a look at each; else None.

        It is what the file claims: nothing is followed that it says, and `block` judges it when the block is read.
        """
        return None

    def row(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return row `number` as one array per column; the slow, obvious way."""
        blocks, indices = self.places(np.array([number], np.int64))
        return {name: column.row(int(indices[0])) for name, column in self.block(int(blocks[0])).items()}
