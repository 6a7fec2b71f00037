"""How rows are read of what a loader is given: a dataset, windows or packed sequences over one, or a mixture of them. One by one, and fixed columns in one call for a batch.

Rows of a mixture are parted by the dataset that they lie in, read from each, and put back in their order; that copies fixed columns once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from .gather import Gather
from .lookup import Lookup, Place
from .mixture import Mixture, Part
from .packed import Packed, PackedLookup
from .team import Copying
from .window_gather import WindowGather, WindowLookup

Rows = npt.NDArray[np.int64]
Source = Part | Mixture
"""What a loader reads."""


class MixedLookup:
    """Finds rows of a mixture."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Note the datasets, in the order in which their rows are numbered."""
        self._lookups = [lookup_of(part) for part in parts]
        self._bases = np.cumsum([0, *map(len, parts)])

    def places(self, rows: Rows) -> list[Place]:
        """Return where each of `rows` stands; `sample` is its number in the mixture.

        Raises:
            BadData: a row of a window is damaged; names shard, row and column.
        """
        found: list[Any] = [None] * rows.size
        for number, mine in _parted(rows, self._bases):
            for index, place in zip(mine.tolist(), self._lookups[number].places(rows[mine] - self._bases[number]), strict=True):
                found[index] = place._replace(sample=int(rows[index]))
        return found


class MixedGather:
    """Copies fixed columns of a mixture's rows into a batch."""

    shared = False
    """Other threads may copy within a call, but none works between two."""

    def __init__(self, parts: Sequence[Part], gathers: Sequence[Gather | WindowGather]) -> None:
        """Note the datasets and what copies the same columns of each."""
        self._gathers = gathers
        self._bases = np.cumsum([0, *map(len, parts)])

    def prepare(self, rows: Rows, outs: Sequence[npt.NDArray[Any]], *, streams: bool = False) -> Copying:
        """Return what copies `rows` into `outs`, one `[rows, *shape]` for each column."""
        return Copying(None, lambda: self._copy(rows, outs, streams=streams))

    def _copy(self, rows: Rows, outs: Sequence[npt.NDArray[Any]], *, streams: bool) -> None:
        for number, mine in _parted(rows, self._bases):
            parts = [np.empty((mine.size, *out.shape[1:]), out.dtype) for out in outs]
            copying = self._gathers[number].prepare(rows[mine] - self._bases[number], parts, streams=streams)
            copying.begin()
            copying.finish()
            for out, part in zip(outs, parts, strict=True):
                out[mine] = part


class Ways(NamedTuple):
    """How rows are read.

    Attributes:
        lookup: finds rows one by one.
        gather: copies fixed columns, if any can be copied in one call.
        gathered: which.
    """

    lookup: Lookup | WindowLookup | PackedLookup | MixedLookup
    gather: Gather | WindowGather | MixedGather | None
    gathered: Sequence[str]


def lookup_of(source: Source) -> Lookup | WindowLookup | PackedLookup | MixedLookup:
    """Return what finds rows one by one."""
    if isinstance(source, Mixture):
        return MixedLookup(list(source.parts()))
    if isinstance(source, Packed):
        return PackedLookup(source)
    return WindowLookup(source) if isinstance(source, TokenWindows) else Lookup(source)


def ways(source: Source, fixed: Sequence[str], threads: int) -> Ways:
    """Return how rows and their `fixed` columns are read; large batches are copied by so many threads."""
    parts = list(source.parts()) if isinstance(source, Mixture) else [source]
    names = tuple(name for name in fixed if all(_suits(part, name) for part in parts))
    if not isinstance(source, Mixture):
        lookup = lookup_of(source)
        return Ways(lookup, _gather(source, names, lookup, threads) if names else None, names)
    gathers = [_gather(part, names, lookup_of(part), threads) for part in parts] if names else []
    return Ways(MixedLookup(parts), MixedGather(parts, gathers) if names else None, names)


def _suits(part: Part, name: str) -> bool:
    return isinstance(part, TokenWindows) or (isinstance(part, Dataset) and part.fields[name].dtype != "bool" and Gather.suits(part.manifest))


def _gather(part: Part, names: Sequence[str], lookup: Any, threads: int) -> Gather | WindowGather:
    if isinstance(part, TokenWindows):
        return WindowGather(part, threads=threads)
    assert isinstance(part, Dataset), "nothing else suits"
    return Gather(part.manifest, {name: part.fields[name] for name in names}, lookup, threads=threads)


def _parted(rows: Rows, bases: Rows) -> list[tuple[int, Rows]]:
    """Return the number of each dataset that some rows lie in, and which of them do."""
    parts = np.searchsorted(bases, rows, side="right") - 1
    return [(number, np.flatnonzero(parts == number)) for number in range(bases.size - 1) if (parts == number).any()]


def stored_row_bytes(source: Source) -> float:
    """Return the mean bytes that a row takes in its shard."""
    if isinstance(source, Mixture):
        return sum(stored_row_bytes(part) * len(part) for part in source.parts()) / len(source)
    if not isinstance(source, Dataset):
        return float(source.seq_len * np.dtype(source.documents.dtype).itemsize)
    return source.manifest.bytes / max(len(source), 1)


def sequence_length_of(source: Source) -> int | None:
    """Return how long the sequences of all rows are, or None when rows are no sequences."""
    lengths = {
        part.seq_len if isinstance(part, (TokenWindows, Packed)) else None for part in (source.parts() if isinstance(source, Mixture) else [source])
    }
    return lengths.pop() if len(lengths) == 1 else None


def let_go_of_pages(source: Source) -> None:
    """Have this process forget which pages of mapped shards are in memory."""
    for part in source.parts() if isinstance(source, Mixture) else [source]:
        (part if isinstance(part, Dataset) else part.dataset).let_go_of_pages()
