"""A dataset of token documents seen as windows of one length over the stream of all their tokens, end to end in stored order.

Window i holds tokens [i * seq_len, (i + 1) * seq_len); what is left behind the last whole window belongs to none. Nothing is copied or stored: a window is
found by bisection over the first token of each block.

Cost: opening looks at the offsets of every block (20 us each), once; 8 bytes a block stay. In a tar every document is a file of its own, which is parsed
for it, and a shard is put together when a window lies in it. `row` is the slow, obvious way; the loader's kernel
(`loaders.window_gather`) equals it. Refused: an index of windows, which would grow with the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import BadData, BadRequest
from ..fields import Array, Field, Tokens
from .columns import FixedColumn, RaggedColumn
from .dataset import Dataset

Longs = npt.NDArray[np.int64]

_MOST_MADE = 4
"""Blocks that are kept after they were put together from documents that lie apart."""


@final
class TokenWindows:
    """Windows by number: `len(windows)`, `windows[5]`, and, in a `penstock.DataLoader`, batches `[B, seq_len]`.

    A row is a dict of one column, which has the name of the dataset's.
    """

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
        self.dataset = dataset
        self.column = _column(dataset, column)
        self.seq_len = _length(seq_len)
        stored = dataset.fields[self.column].dtype
        self.field = Array((self.seq_len,), stored if dtype is None else dtype)
        """What a window is."""
        if not np.can_cast(stored, self.field.dtype, "safe"):
            raise BadRequest(f"dtype={dtype!r} cannot hold every {stored} token of column {self.column!r}; use a wider one, such as 'int64'")
        self._made: dict[int, npt.NDArray[Any]] = {}
        self.blocks = [
            (shard, block) for shard in range(len(dataset.manifest.shards)) for block in range(len(dataset.reader(shard).block_starts) - 1)
        ]
        """Shard and number of each block of the dataset."""
        self.firsts = self._look()
        """`[blocks + 1]`, the first token of each block and, last, how many tokens there are."""

    def _look(self) -> Longs:
        sizes = np.zeros(len(self.blocks) + 1, np.int64)
        for number, (shard, block) in enumerate(self.blocks):
            column = self.dataset.reader(shard).block(block)[self.column]
            sizes[number + 1] = (
                int((column.ends - column.starts).sum(dtype=np.int64)) if isinstance(column, RaggedColumn) else len(self._tokens(number))
            )
        return np.cumsum(sizes)

    @property
    def fields(self) -> Mapping[str, Field]:
        """The one column."""
        return MappingProxyType({self.column: self.field})

    @property
    def tokens(self) -> int:
        """How many tokens the dataset has."""
        return int(self.firsts[-1])

    @property
    def path(self) -> str:
        """The dataset's."""
        return self.dataset.path

    @property
    def version(self) -> int:
        """The dataset's pinned version."""
        return self.dataset.version

    @property
    def digest(self) -> str:
        """32 hex digits that name these windows over these shards; a resume against others is refused by it."""
        decides = ["windows", self.dataset.digest, self.column, self.seq_len, self.field.dtype]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides).encode())

    def __len__(self) -> int:
        """Return how many whole windows there are."""
        return self.tokens // self.seq_len

    def __repr__(self) -> str:
        """Return what it is, for a person."""
        return f"TokenWindows({self.dataset!r}, {self.seq_len}, column={self.column!r}, dtype={self.field.dtype!r}, windows={len(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with what was looked up, so that no shard is opened before it is read."""
        return _again, ({**self.__dict__, "_made": {}},)

    def run(self, number: int) -> npt.NDArray[Any]:
        """Return the tokens of a block of the dataset, one document after the other, as they are stored; a view where they lie so.

        Raises:
            BadData: it is damaged, or holds more or fewer tokens than when these windows were made; names shard and column.
        """
        found, planned = self._tokens(number), int(self.firsts[number + 1] - self.firsts[number])
        if len(found) != planned:
            shard, block = self.blocks[number]
            reason = f"block {block} changed while it was read: {len(found)} tokens where {planned} were planned"
            raise BadData(reason, path=self.path, shard=self.dataset.manifest.shards[shard].path, field=self.column)
        return found

    def _tokens(self, number: int) -> npt.NDArray[Any]:
        if number in self._made:
            return self._made[number]
        shard, block = self.blocks[number]
        column = self.dataset.reader(shard).block(block)[self.column]
        assert not isinstance(column, FixedColumn), "tokens are runs"
        starts, ends = (column.starts, column.ends) if isinstance(column, RaggedColumn) else (column.raw.starts, column.raw.ends)
        if isinstance(column, RaggedColumn) and len(starts) and (starts[1:] == ends[:-1]).all():
            return column.values[starts[0] : ends[-1]]
        empty = np.empty(0, self.dataset.fields[self.column].dtype)
        made = self._made[number] = np.concatenate([empty, *(column.row(row) for row in range(len(starts)))])
        if len(self._made) > _MOST_MADE:
            del self._made[next(iter(self._made))]
        return made

    def row(self, number: int) -> npt.NDArray[Any]:
        """Return window `number`, `[seq_len]`: from block to block, the slow and obvious way."""
        start, parts, left = number * self.seq_len, [], self.seq_len
        block = int(np.searchsorted(self.firsts, start, side="right")) - 1
        while left:
            first = int(self.firsts[block])
            parts.append(self.run(block)[start - first : start - first + left])
            start, left, block = start + len(parts[-1]), left - len(parts[-1]), block + 1
        return np.concatenate(parts).astype(self.field.dtype, copy=False)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a window; negative numbers count from the end.

        Raises:
            IndexError: there is no such window.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"window {index} of {self.path}, which has {count} windows of {self.seq_len} tokens")
        return {self.column: self.row(int(index) % count).copy()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the windows of a list of numbers, in its order."""
        return [self[index] for index in indices]


def _again(known: dict[str, Any]) -> TokenWindows:
    made = TokenWindows.__new__(TokenWindows)
    made.__dict__.update(known)
    return made


def _length(seq_len: object) -> int:
    if type(seq_len) is not int or seq_len < 1:
        raise BadRequest(f"seq_len={seq_len!r}: a window has one token or more")
    return seq_len


def _column(dataset: object, column: str | None) -> str:
    """Return which column the windows are over."""
    if not isinstance(dataset, Dataset):
        raise BadRequest(f"TokenWindows are over a penstock.Dataset, not over {type(dataset).__name__}")
    found = [name for name, field in dataset.fields.items() if isinstance(field, Tokens)]
    if column in found or (column is None and len(found) == 1):
        return column or found[0]
    have = f"the columns of tokens are {found}" if found else f"no column of {list(dataset.fields)} holds Tokens"
    raise BadRequest(f"TokenWindows: column={column!r}, but {have}; name one of them with column=")
