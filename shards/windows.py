"""A dataset of token documents seen as windows of one length over the stream of all their tokens, end to end in stored order.

Window i holds tokens [i * seq_len, (i + 1) * seq_len); what is left behind the last whole window belongs to none. Nothing is copied or stored: a window is
found by bisection over the first token of each block.

Cost: opening looks at every block (`documents`). `row` is the slow, obvious way; the loader's kernel
(`loaders.window_gather`) equals it. Refused: an index of windows, which would grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..fields import Array, Field
from .dataset import Dataset
from .documents import DocumentRows, Documents, sequence_length, wide_enough

Longs = npt.NDArray[np.int64]


@final
class TokenWindows(DocumentRows):
    """Windows by number: `len(windows)`, `windows[5]`, and, in a `penstock.DataLoader`, batches `[B, seq_len]`.

    A row is a dict of one column, which has the name of the dataset's.
    """

    noun = "window"

    def __init__(self, dataset: Dataset, seq_len: int, *, column: str | None = None, dtype: str | None = None) -> None:
        """Look at the blocks of a dataset.

        Args:
            dataset: with a column of `Tokens`.
            seq_len: tokens of a window.
            column: which column; may be left out when only one holds tokens.
            dtype: what windows are delivered as, such as `"int64"` for an embedding; the stored dtype without it.

        Raises:
            BadRequest: there is no such column, or `dtype` cannot hold every stored token, or `seq_len` is below 1.
            BadData: a block is damaged; names shard, row and column.
        """
        self.documents = Documents(dataset, column, asks="TokenWindows")
        self.seq_len = sequence_length(seq_len)
        self.field = Array((self.seq_len,), wide_enough(dtype, self.documents.dtype, self.column))
        """What a window is."""

    @property
    def column(self) -> str:
        """Its column of tokens."""
        return self.documents.column

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Shard and number of each block of the dataset."""
        return self.documents.blocks

    @property
    def firsts(self) -> Longs:
        """`[blocks + 1]`, the first token of each block and, last, how many tokens there are."""
        return self.documents.firsts

    @property
    def fields(self) -> Mapping[str, Field]:
        """The one column."""
        return MappingProxyType({self.column: self.field})

    @property
    def tokens(self) -> int:
        """How many tokens the dataset has."""
        return self.documents.tokens

    @property
    def starts(self) -> Longs:
        """`[shards + 1]`, the first window that begins in each shard and, last, how many there are."""
        tokens = self.firsts[self.documents.shard_blocks]
        return np.minimum(-(-tokens // self.seq_len), len(self))

    def decides(self) -> list[Any]:
        """Return the dtype."""
        return [self.field.dtype]

    def __len__(self) -> int:
        """Return how many whole windows there are."""
        return self.tokens // self.seq_len

    def __repr__(self) -> str:
        """Return what it is, for a person."""
        return f"TokenWindows({self.dataset!r}, {self.seq_len}, column={self.column!r}, dtype={self.field.dtype!r}, windows={len(self)})"

    def row(self, number: int) -> npt.NDArray[Any]:
        """Return window `number`, `[seq_len]`: from block to block, the slow and obvious way."""
        start, parts, left = number * self.seq_len, [], self.seq_len
        block = int(np.searchsorted(self.firsts, start, side="right")) - 1
        while left:
            first = int(self.firsts[block])
            parts.append(self.documents.run(block)[start - first : start - first + left])
            start, left, block = start + len(parts[-1]), left - len(parts[-1]), block + 1
        return np.concatenate(parts).astype(self.field.dtype, copy=False)

    def sample(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return window `number` as a row."""
        return {self.column: self.row(number).copy()}
