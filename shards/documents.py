"""The documents of a column of tokens, block by block: how many tokens each block has, and its tokens end to end.

Cost: opening opens every shard and looks at every block of it, once; 8 bytes a block stay. An Arrow block takes 20 us: its tokens
are the last offset less the first, which the file claims; offsets are checked when the block is read, and a block that then holds other tokens is refused. In a tar every document is a file of its own, whose header is
parsed, some 10 us and a page of the file each: tokens in tars are for small datasets, and a block is put together when its tokens are asked for.
Refused: counts of tokens kept in commits or shards, which datasets that exist do not have.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, final

import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import BadData, BadRequest
from ..fields import Tokens
from .columns import FixedColumn, ParsedColumn, RaggedColumn
from .dataset import Dataset

Longs = npt.NDArray[np.int64]

_MOST_MADE = 4
"""Blocks that are kept after they were put together from documents that lie apart."""


@final
class Documents:
    """Blocks of documents by number.

    Attributes:
        dataset: the dataset.
        column: its column of tokens.
        blocks: shard and number of each block of the dataset.
        firsts: `[blocks + 1]`, the first token of each block and, last, how many tokens there are.
    """

    def __init__(self, dataset: Dataset, column: str | None, *, asks: str) -> None:
        """Look at the blocks of a dataset; `asks` is who, for messages.

        Raises:
            BadRequest: there is no such column of tokens, or no dataset.
            BadData: a block is damaged; names shard, row and column.
        """
        self.column = _column(dataset, column, asks)
        self.dataset = dataset
        self._made: dict[int, npt.NDArray[Any]] = {}
        self.blocks = [
            (shard, block) for shard in range(len(dataset.manifest.shards)) for block in range(len(dataset.reader(shard).block_starts) - 1)
        ]
        self.firsts = self._look()

    def _look(self) -> Longs:
        firsts = np.zeros(len(self.blocks) + 1, np.int64)
        np.cumsum([self._count(number) for number in range(len(self.blocks))], out=firsts[1:])
        return firsts

    def _count(self, number: int) -> int:
        """Return how many tokens a block has."""
        shard, block = self.blocks[number]
        if (told := self.dataset.reader(shard).elements(block, self.column)) is not None:
            return told
        column = self._block(number)
        if isinstance(column, RaggedColumn) and _end_to_end(column):
            return int(column.ends[-1]) - int(column.starts[0]) if len(column.starts) else 0
        return int(self._lengths(number).sum())

    def _lengths(self, number: int) -> Longs:
        """Return how many tokens each document of a block has."""
        column = self._block(number)
        if isinstance(column, RaggedColumn):
            return np.asarray(np.subtract(column.ends, column.starts, dtype=np.int64))
        found = np.empty(len(column.raw.starts), np.int64)
        row = 0
        try:
            for row in range(found.size):
                found[row] = len(column.row(row))
        except BadData as error:
            shard, block = self.blocks[number]
            reader, path = self.dataset.reader(shard), self.dataset.manifest.shards[shard].path
            raise error.at(path=self.dataset.path, shard=path, row=int(reader.block_starts[block]) + row, field=self.column) from None
        return found

    @property
    def dtype(self) -> str:
        """The stored dtype."""
        return self.dataset.fields[self.column].dtype

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return int(self.firsts[-1])

    @property
    def shard_blocks(self) -> Longs:
        """`[shards + 1]`, the number of each shard's first block and, last, how many there are."""
        shards = np.array([shard for shard, _ in self.blocks], np.int64)
        return np.searchsorted(shards, np.arange(len(self.dataset.manifest.shards) + 1)).astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Travel with what was looked up, so that no shard is opened before it is read."""
        return {**self.__dict__, "_made": {}}

    def lengths(self, number: int) -> Longs:
        """Return how many tokens each document of a block has.

        Raises:
            BadData: it is damaged, or holds more or fewer tokens than when it was looked at; names shard and column.
        """
        found = self._lengths(number)
        self._check(number, int(found.sum()))
        return found

    def piece(self, number: int, document: int, start: int, length: int) -> npt.NDArray[Any]:
        """Return some tokens of one document of a block, from its token `start` on.

        Raises:
            BadData: it is damaged, or shorter than when its length was asked for; names shard and column.
        """
        found = self._block(number).row(document)[start : start + length]
        if len(found) != length:
            self._changed(number, f"{len(found)} tokens of document {document} where {length} were planned")
        return found

    def run(self, number: int) -> npt.NDArray[Any]:
        """Return the tokens of a block, one document after the other, as they are stored; a view where they lie so.

        Raises:
            BadData: it is damaged, or holds more or fewer tokens than when it was looked at; names shard and column.
        """
        found = self._tokens(number)
        self._check(number, len(found))
        return found

    def _check(self, number: int, found: int) -> None:
        planned = int(self.firsts[number + 1] - self.firsts[number])
        if found != planned:
            self._changed(number, f"{found} tokens where {planned} were planned")

    def _changed(self, number: int, how: str) -> NoReturn:
        shard, block = self.blocks[number]
        reason = f"block {block} changed while it was read: {how}"
        raise BadData(reason, path=self.dataset.path, shard=self.dataset.manifest.shards[shard].path, field=self.column)

    def _block(self, number: int) -> RaggedColumn | ParsedColumn:
        shard, block = self.blocks[number]
        column = self.dataset.reader(shard).block(block)[self.column]
        assert not isinstance(column, FixedColumn), "tokens are runs"
        return column

    def _tokens(self, number: int) -> npt.NDArray[Any]:
        if number in self._made:
            return self._made[number]
        column = self._block(number)
        starts, ends = (column.starts, column.ends) if isinstance(column, RaggedColumn) else (column.raw.starts, column.raw.ends)
        if isinstance(column, RaggedColumn) and len(starts) and (_end_to_end(column) or (starts[1:] == ends[:-1]).all()):
            return column.values[starts[0] : ends[-1]]
        made = self._made[number] = np.concatenate([np.empty(0, self.dtype), *(column.row(row) for row in range(len(starts)))])
        if len(self._made) > _MOST_MADE:
            del self._made[next(iter(self._made))]
        return made


def _end_to_end(column: RaggedColumn) -> bool:
    """Return whether each row ends where the next begins because both are one run of offsets, as Arrow has them: known without a look at any."""
    starts, ends = column.starts, column.ends
    return starts.dtype == ends.dtype and starts.strides == ends.strides and ends.ctypes.data - starts.ctypes.data == starts.strides[0]


class DocumentRows(ABC):
    """Rows of one length that are made of a dataset's documents: `len(rows)`, `rows[5]`, and batches of a loader.

    Attributes:
        documents: what they are made of.
        seq_len: tokens of a row.
    """

    documents: Documents
    seq_len: int
    noun: ClassVar[str]
    """What a row is called."""

    @property
    def dataset(self) -> Dataset:
        """The dataset."""
        return self.documents.dataset

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
        """32 hex digits that name these rows over these shards; a resume against others is refused by it."""
        decides = [f"{self.noun}s", self.dataset.digest, self.documents.column, self.seq_len, *self.decides()]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides).encode())

    @abstractmethod
    def decides(self) -> list[Any]:
        """Return what decides the rows, beside dataset, column and length; JSON values."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many rows there are."""

    @abstractmethod
    def sample(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return row `number`, from 0 to `len - 1`, in memory of its own.

        Raises:
            BadData: a block is damaged; names shard and column.
        """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row; negative numbers count from the end.

        Raises:
            IndexError: there is no such row.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self.noun} {index} of {self.path}, which has {count} {self.noun}s of {self.seq_len} tokens")
        return self.sample(int(index) % count)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a list of numbers, in its order."""
        return [self[index] for index in indices]


def _column(dataset: object, column: str | None, asks: str) -> str:
    """Return which column holds the documents."""
    if not isinstance(dataset, Dataset):
        raise BadRequest(f"{asks} is over a penstock.Dataset, not over {type(dataset).__name__}")
    found = [name for name, field in dataset.fields.items() if isinstance(field, Tokens)]
    if column in found or (column is None and len(found) == 1):
        return column or found[0]
    have = f"the columns of tokens are {found}" if found else f"no column of {list(dataset.fields)} holds Tokens"
    raise BadRequest(f"{asks}: column={column!r}, but {have}; name one of them with column=")


def sequence_length(seq_len: object) -> int:
    """Return a number of tokens.

    Raises:
        BadRequest: it is none.
    """
    if type(seq_len) is not int or seq_len < 1:
        raise BadRequest(f"seq_len={seq_len!r}: a sequence has one token or more")
    return seq_len


def wide_enough(dtype: str | None, stored: str, column: str) -> str:
    """Return what tokens are delivered as.

    Raises:
        BadRequest: it cannot hold every stored token.
    """
    try:
        made = np.dtype(stored if dtype is None else dtype)
    except TypeError:
        made = np.dtype("V1")
    if made.kind not in "iu" or not np.can_cast(stored, made, "safe"):
        raise BadRequest(f"dtype={dtype!r} cannot hold every {stored} token of column {column!r}; use a wider integer, such as 'int64'")
    return str(made.name)
