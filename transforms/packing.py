"""Documents into sequences of one length, by plan: which piece of which document stands where. Pure.

How many sequences some documents get is decided by their tokens alone, so that the rows of a dataset can be counted and permuted without a look at
its documents: enough for `FILL` of each to be used. Documents longer than a sequence are cut into whole ones and a rest. Best fit places the pieces by
descending length, each where it leaves the least room ("Fewer Truncations Improve Language Modeling", Ding et al., ICML 2024); first fit takes them as they
come; both then cut what fits nowhere whole, which with best fit is next to nothing. Concatenation cuts at every sequence's end.

Cost (`benchmarks/order_cost.py`): 100 to 150 ns a document. `pack_reference` is the slow, obvious statement. Refused: as many sequences as best fit would
like, since nobody could say how many rows a dataset has, or where row 10^9 lies, before all lengths were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import Kernel

Longs = npt.NDArray[np.int64]
Algorithm = Literal["best_fit", "first_fit", "concat"]
"""How pieces are placed."""

ALGORITHMS: tuple[Algorithm, ...] = ("best_fit", "first_fit", "concat")
FORMAT = 1
"""The version of the plans: any change that moves a token needs a new number."""

FILL = 0.98
"""The part of a sequence that is counted on; what is above it is the room in which whole documents find a place."""

_WORD = 63
_best_fit = Kernel("transforms.packing_kernel", "best_fit", "void(i8[:] i8[:] i8[:] i8[:] i8[:] i8[:])")
_first_fit = Kernel("transforms.packing_kernel", "first_fit", "void(i8[:] i8[:] i8[:] i8[:])")


class Pieces(NamedTuple):
    """What stands in each sequence.

    Attributes:
        edges: `[sequences + 1]`: the pieces of sequence i are those from `edges[i]` to `edges[i + 1] - 1`, in order.
        documents: the document that each piece is of.
        starts: its first token in the document.
        lengths: its tokens, at least 1.
    """

    edges: Longs
    documents: Longs
    starts: Longs
    lengths: Longs


def sequences(tokens: int, seq_len: int, algorithm: Algorithm) -> int:
    """Return how many sequences so many tokens get."""
    used = seq_len if algorithm == "concat" else max(int(seq_len * FILL), 1)
    return -(-tokens // used)


def _cut(lengths: Longs, seq_len: int) -> tuple[Longs, Longs, Longs]:
    """Return documents as pieces of at most a sequence: document, start, length."""
    counts = -(-lengths // seq_len)
    documents = np.repeat(np.arange(lengths.size), counts)
    starts = (np.arange(documents.size) - np.repeat(np.cumsum(counts) - counts, counts)) * seq_len
    return documents, starts, np.minimum(lengths[documents] - starts, seq_len)


def pack(lengths: Longs, seq_len: int, algorithm: Algorithm) -> Pieces:
    """Return where documents of these lengths go, in `sequences(lengths.sum(), ...)` sequences."""
    count = sequences(int(lengths.sum()), seq_len, algorithm)
    if algorithm == "concat":
        return _concatenated(lengths, seq_len, count)
    documents, starts, sizes = _cut(lengths, seq_len)
    placed = np.argsort(-sizes, kind="stable") if algorithm == "best_fit" else np.arange(sizes.size)
    documents, starts, sizes = documents[placed], starts[placed], sizes[placed]
    bins, rooms = np.empty(sizes.size, np.int64), np.full(count, seq_len, np.int64)
    if algorithm == "best_fit":
        heads, others = np.empty(seq_len + 1, np.int64), np.empty(count, np.int64)
        _best_fit(sizes, bins, rooms, heads, others, np.zeros(seq_len // _WORD + 1, np.int64))
    else:
        _first_fit(sizes, bins, rooms, np.empty(2 << max(count - 1, 0).bit_length(), np.int64))
    whole = bins >= 0
    rest = _split(documents[~whole], starts[~whole], sizes[~whole], rooms)
    bins, documents, starts, sizes = (
        np.concatenate(pair) for pair in zip((bins[whole], documents[whole], starts[whole], sizes[whole]), rest, strict=True)
    )
    return _by_bin(bins, documents, starts, sizes, count)


def _split(documents: Longs, starts: Longs, sizes: Longs, rooms: Longs) -> tuple[Longs, Longs, Longs, Longs]:
    """Return pieces that fit nowhere, cut into what is left in one bin after the other: bin, document, start, length."""
    if not sizes.size:
        return (np.empty(0, np.int64),) * 4
    ends = np.cumsum(sizes)
    room_ends = np.cumsum(rooms)
    edges = np.unique(np.concatenate([[0], ends, room_ends[room_ends < ends[-1]]]))
    begins = edges[:-1]
    piece = np.searchsorted(ends, begins, side="right")
    bins = np.searchsorted(room_ends, begins, side="right")
    return bins, documents[piece], starts[piece] + begins - (ends[piece] - sizes[piece]), np.diff(edges)


def _concatenated(lengths: Longs, seq_len: int, count: int) -> Pieces:
    everything = np.arange(lengths.size)[lengths > 0]
    sizes = lengths[everything]
    bins, documents, starts, sizes = _split(everything, np.zeros_like(sizes), sizes, np.full(count, seq_len, np.int64))
    return _by_bin(bins, documents, starts, sizes, count)


def _by_bin(bins: Longs, documents: Longs, starts: Longs, sizes: Longs, count: int) -> Pieces:
    in_order = np.argsort(bins, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=count))]).astype(np.int64)
    return Pieces(edges, documents[in_order], starts[in_order], sizes[in_order])


def pack_reference(lengths: Sequence[int], seq_len: int, algorithm: Algorithm) -> list[list[tuple[int, int, int]]]:
    """Return (document, start, length) of the pieces in each sequence, by the letter of the rules."""
    count = sequences(sum(lengths), seq_len, algorithm)
    made: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    rooms = [seq_len] * count
    used = list(range(0, -count, -1))  # of bins never used the first is taken first; then the one used last
    pieces = [(document, start, min(length - start, seq_len)) for document, length in enumerate(lengths) for start in range(0, length, seq_len)]
    left: list[Any] = []
    if algorithm == "concat":
        left = [(document, 0, length) for document, length in enumerate(lengths) if length]
        pieces = []
    if algorithm == "best_fit":
        pieces.sort(key=lambda piece: -piece[2])
    for turn, piece in enumerate(pieces, 1):
        fitting = [number for number in range(count) if rooms[number] >= piece[2]]
        if not fitting:
            left.append(piece)
            continue
        chosen = fitting[0] if algorithm == "first_fit" else min(fitting, key=lambda number: (rooms[number], -used[number]))
        made[chosen].append(piece)
        rooms[chosen] -= piece[2]
        used[chosen] = turn
    number = 0
    for document, start, length in left:
        begin, end = start, start + length
        while begin < end:
            while rooms[number] == 0:
                number += 1
            taken = min(end - begin, rooms[number])
            made[number].append((document, begin, taken))
            rooms[number] -= taken
            begin += taken
    return made
