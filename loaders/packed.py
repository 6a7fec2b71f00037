"""Documents of tokens packed into sequences of one length, as rows of a loader: `Packed`.

Blocks of the dataset that follow one another make a window of some 256 sequences. How many sequences a window has is decided by its tokens alone
(`packing.sequences`), so rows are counted and found by those alone; a window's plan is made when one of its rows is asked for, from the lengths of its
documents, and kept. So opening costs what looking at the blocks costs (`documents`), and any process plans any window alike.

Cost (`benchmarks/order_cost.py`): a row some 40 us at 4,096 tokens; a plan of 2,000 documents under a millisecond, and 35 KB while it is kept. A process keeps
those that it asked for last, up to `PLAN_BYTES`: some 1,900, for 2 * 10^9 tokens. A shuffle over more than that makes a plan for nearly every row, with which a
row takes half a millisecond; `window_shards` has rows that follow one another in few windows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from ..errors import BadRequest
from ..fields import Array, Field, Tokens
from ..shards.columns import Column, FixedColumn, RaggedColumn
from ..shards.dataset import Dataset
from ..shards.documents import DocumentRows, Documents, sequence_length, wide_enough
from ..transforms import packing
from .lookup import Place

Longs = npt.NDArray[np.int64]

WINDOW = 256
"""Sequences of a window, about. It decides what stands in every row, and no state says it: it belongs to `packing.FORMAT`, and changes with that."""

PLAN_BYTES = 64 * 2**20
"""Bytes of plans that are kept, besides the one in use."""


class _Plan(NamedTuple):
    """A window: what stands in its sequences, and where its documents lie. Of 32-bit numbers where they suffice.

    Attributes:
        pieces: what stands in each sequence.
        block: its first block.
        firsts: `[blocks + 1]`, the first document of each of its blocks and, last, how many documents there are.
    """

    pieces: packing.Pieces
    block: int
    firsts: Longs

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return sum(array.nbytes for array in (*self.pieces, self.firsts))


@final
class Packed(DocumentRows):
    """Sequences by number: `len(packed)`, `packed[5]`, and, in a `penstock.DataLoader`, batches.

    A row holds `input_ids`, `position_ids`, `document_ids` (`[seq_len]` each) and `cu_seqlens`, int32 and ragged: where each document begins, from 0, and at
    last `seq_len`, as attention over documents of unlike length wants it. Positions count from 0 in each document, or piece of one. What no document
    fills has `pad_id` as tokens, document -1, and is the last stretch of `cu_seqlens`. With `labels` there are those too, int64: the next token of the same
    document, and `labels` itself (-100, say) where there is none.
    """

    noun = "sequence"

    def __init__(
        self,
        dataset: Dataset,
        seq_len: int,
        algorithm: packing.Algorithm = "best_fit",
        *,
        column: str | None = None,
        dtype: str | None = None,
        pad_id: int = 0,
        labels: int | None = None,
    ) -> None:
        """Look at the blocks of a dataset.

        Args:
            dataset: with a column of `Tokens`.
            seq_len: tokens of a sequence.
            algorithm: `"best_fit"` (keeps documents whole where it can), `"first_fit"` (keeps them in their order) or `"concat"` (end to end, every
                sequence full, documents cut where it ends).
            column: which column; may be left out when only one holds tokens.
            dtype: what tokens are delivered as, such as `"int64"`; the stored dtype without it.
            pad_id: the token behind the last document of a sequence.
            labels: add a column of labels, with this number where a document has no next token; -100 is what torch's cross entropy leaves out.

        Raises:
            BadRequest: there is no such column or algorithm, or `dtype` cannot hold every stored token or `pad_id`, or `seq_len` is below 1.
            BadData: a block is damaged; names shard, row and column.
        """
        self.seq_len = sequence_length(seq_len)
        if algorithm not in packing.ALGORITHMS:
            raise BadRequest(f"algorithm={algorithm!r} is not one of {', '.join(packing.ALGORITHMS)}")
        self.algorithm: packing.Algorithm = algorithm
        self.documents = Documents(dataset, column, asks="Packed")
        self.dtype = wide_enough(dtype, self.documents.dtype, self.documents.column)
        if type(pad_id) is not int or not np.iinfo(self.dtype).min <= pad_id <= np.iinfo(self.dtype).max:
            raise BadRequest(f"pad_id={pad_id!r} is no {self.dtype} token")
        self.pad_id = pad_id
        if labels is not None and type(labels) is not int:
            raise BadRequest(f"labels={labels!r} is no integer, such as -100")
        self.labels = labels
        self._edges, self._rows = _windows(self.documents.firsts, self.seq_len, algorithm)
        self._forget()

    @property
    def fields(self) -> Mapping[str, Field]:
        """What a row holds."""
        sequence: dict[str, Field] = {
            "input_ids": Array((self.seq_len,), self.dtype),
            "position_ids": Array((self.seq_len,), "int32"),
            "document_ids": Array((self.seq_len,), "int32"),
            "cu_seqlens": Tokens("int32"),
            **({} if self.labels is None else {"labels": Array((self.seq_len,), "int64")}),
        }
        return MappingProxyType(sequence)

    def decides(self) -> list[Any]:
        """Return how sequences are made, and what of."""
        return [self.algorithm, self.dtype, self.pad_id, self.labels, packing.FORMAT]

    @property
    def starts(self) -> Longs:
        """`[shards + 1]`, the first sequence of the windows that begin in each shard and, last, how many there are."""
        windows = np.searchsorted(self._edges[:-1], self.documents.shard_blocks)
        return np.asarray(self._rows[windows])

    @property
    def filled(self) -> float:
        """The part of all sequences that holds tokens of documents: exact, from the number of tokens."""
        return self.documents.tokens / (len(self) * self.seq_len) if len(self) else 0.0

    def cut(self, windows: int = 8) -> float:
        """Return the part of the documents no longer than a sequence that are cut all the same, in some windows spread over the dataset."""
        documents = whole = 0
        for window in np.unique(np.linspace(0, max(self._rows.size - 2, 0), windows).astype(np.int64)).tolist() if len(self) else ():
            pieces = self._plan(window).pieces
            sizes = np.bincount(pieces.documents, weights=pieces.lengths)
            counted = (sizes > 0) & (sizes <= self.seq_len)
            documents += int(counted.sum())
            whole += int((np.bincount(pieces.documents)[counted] == 1).sum())
        return 1 - whole / documents if documents else 0.0

    def __len__(self) -> int:
        """Return how many sequences there are."""
        return int(self._rows[-1])

    def __repr__(self) -> str:
        """Return what it is, for a person."""
        return f"Packed({self.dataset!r}, {self.seq_len}, {self.algorithm!r}, dtype={self.dtype!r}, sequences={len(self)}, {self.filled:.1%} filled)"

    def __getstate__(self) -> dict[str, Any]:
        """Travel with what was looked up, and without plans."""
        return {**self.__dict__, "_plans": OrderedDict(), "_plan_bytes": 0}

    def _forget(self) -> None:
        """Keep no plans."""
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._plan_bytes = 0

    def sample(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """Return sequence `number`.

        Raises:
            BadData: a block is damaged; names shard and column.
        """
        window = int(np.searchsorted(self._rows, number, side="right")) - 1
        plan = self._plan(window)
        index = number - int(self._rows[window])
        first, last = int(plan.pieces.edges[index]), int(plan.pieces.edges[index + 1])
        tokens = np.full(self.seq_len, self.pad_id, self.dtype)
        positions, documents = np.zeros(self.seq_len, np.int32), np.full(self.seq_len, -1, np.int32)
        edges = [0]
        held, starts, lengths = (each[first:last] for each in plan.pieces[1:])
        blocks = np.searchsorted(plan.firsts, held, side="right") - 1
        numbers = held - plan.firsts[blocks]
        for piece, (block, document, start, length) in enumerate(zip(*(each.tolist() for each in (blocks, numbers, starts, lengths)), strict=True)):
            begin = edges[-1]
            tokens[begin : begin + length] = self.documents.piece(plan.block + block, document, start, length)
            positions[begin : begin + length] = np.arange(length, dtype=np.int32)
            documents[begin : begin + length] = piece
            edges.append(begin + length)
        if edges[-1] < self.seq_len:
            positions[edges[-1] :] = np.arange(self.seq_len - edges[-1], dtype=np.int32)
            edges.append(self.seq_len)
        row: dict[str, npt.NDArray[Any]] = {"input_ids": tokens, "position_ids": positions, "document_ids": documents}
        if self.labels is not None:
            row["labels"] = shifted = np.full(self.seq_len, self.labels, np.int64)
            same = (documents[1:] == documents[:-1]) & (documents[1:] >= 0)
            shifted[:-1][same] = tokens[1:][same]
        return {**row, "cu_seqlens": np.array(edges, np.int32)}

    def _plan(self, window: int) -> _Plan:
        found = self._plans.get(window)
        if found is not None:
            self._plans.move_to_end(window)
            return found
        blocks = range(int(self._edges[window]), int(self._edges[window + 1]))
        lengths = [self.documents.lengths(block) for block in blocks]
        pieces = packing.pack(np.concatenate(lengths), self.seq_len, self.algorithm)
        firsts = np.cumsum([0, *(own.size for own in lengths)])
        found = self._plans[window] = _Plan(packing.Pieces(*map(_narrow, pieces)), blocks.start, _narrow(firsts))
        self._plan_bytes += found.size_bytes
        while self._plan_bytes > PLAN_BYTES and len(self._plans) > 1:
            self._plan_bytes -= self._plans.popitem(last=False)[1].size_bytes
        return found


def _narrow(numbers: Longs) -> Any:
    """Return numbers that are not negative as int32, where that holds them."""
    return numbers.astype(np.int32) if int(numbers.max(initial=0)) < 2**31 else numbers


def _windows(firsts: Longs, seq_len: int, algorithm: packing.Algorithm) -> tuple[Longs, Longs]:
    """Return the first block of each window and, last, how many blocks there are; and the same of sequences."""
    total = int(firsts[-1])
    wanted = np.arange(0, total, WINDOW * seq_len)
    edges = np.unique(np.append(np.searchsorted(firsts, wanted), firsts.size - 1))
    if total == 0:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    edges[0] = 0
    counts = [packing.sequences(int(tokens), seq_len, algorithm) for tokens in np.diff(firsts[edges])]
    return edges.astype(np.int64), np.cumsum([0, *counts]).astype(np.int64)


class PackedLookup:
    """Finds sequences for a loader."""

    def __init__(self, packed: Packed) -> None:
        """Keep what plans them."""
        self._packed = packed

    def places(self, rows: Longs) -> list[Place]:
        """Return each sequence as a block of one row.

        Raises:
            BadData: a block is damaged; names shard and column.
        """
        return [Place(_columns(self._packed.sample(row)), 0, row, self._packed.path, "(packed)", row) for row in rows.tolist()]


def _columns(row: Mapping[str, npt.NDArray[Any]]) -> dict[str, Column]:
    """Return a sequence as columns of one row."""
    edges = row["cu_seqlens"]
    columns: dict[str, Column] = {name: FixedColumn(values=value[None]) for name, value in row.items() if name != "cu_seqlens"}
    columns["cu_seqlens"] = RaggedColumn(starts=np.zeros(1, np.int64), ends=np.array([edges.size]), values=edges)
    return columns
