"""Which row goes where: cutting a source into parts, rows into splits, and shuffled rows into shards. Pure.

Nothing here knows how many workers there are, so neither does the result. A part is a run of consecutive pieces (a piece is the smallest run
that a source can be cut into: a file, a row group, a few lines). A split is chosen by a row's key alone, so a row stays in its split when the
source grows, is cut otherwise, or comes in another order. Refused: splitting by row number, which moves test rows into the training set when
a file is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ..errors import BadRequest

MIN_PART_BYTES = 4 * 2**20
"""A part has at least so many bytes: below it, starting a part costs more than the part."""

MIN_PARTS = 8
"""A source is cut into at least so many parts, unless that would make them smaller than `MIN_PART_BYTES`."""

Ints = npt.NDArray[np.int64]


def part_bytes(total_bytes: int, shard_bytes: int) -> int:
    """Return how large a part may be: a little below a shard's size, less when the source is small, so that all cores have work."""
    return max(min(int(shard_bytes * 0.97), max(-(-total_bytes // MIN_PARTS), MIN_PART_BYTES)), 1)


def cut(sizes: Ints, limit: int) -> Ints:
    """Return `[parts + 1]` boundaries of runs of consecutive pieces, as few as `limit` bytes a part allow, and of about equal size.

    A part is larger than `limit` by less than one piece. Boundaries are found by searching the running sum: O(pieces + parts * log(pieces)).
    """
    if not len(sizes):
        return np.zeros(1, np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1])
    count = max(-(-total // limit), 1)
    goals = np.array([total * part // count for part in range(1, count)], np.int64)
    inner = np.searchsorted(ends, goals, side="left") + 1
    return np.unique(np.concatenate([[0], inner, [len(sizes)]])).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Runs inside files, in order, as three arrays of one length.

    Attributes:
        file: number of the file in the source's list.
        start: where the run begins; rows, bytes or row groups, as the source counts.
        stop: where it ends.
        note: one more number that the source needs to begin there, such as the line number at `start`.
    """

    file: Ints
    start: Ints
    stop: Ints
    note: Ints

    def __len__(self) -> int:
        """Return how many runs there are."""
        return len(self.file)

    def merged(self) -> Spans:
        """Return the same places with neighbours that touch joined; a joined run keeps its first note."""
        if not len(self):
            return self
        joins = (self.file[1:] == self.file[:-1]) & (self.start[1:] == self.stop[:-1])
        first = np.concatenate([[True], ~joins])
        last = np.concatenate([~joins, [True]])
        return Spans(file=self.file[first], start=self.start[first], stop=self.stop[last], note=self.note[first])

    def take(self, start: int, stop: int) -> Spans:
        """Return the runs `[start, stop)`."""
        return Spans(file=self.file[start:stop], start=self.start[start:stop], stop=self.stop[start:stop], note=self.note[start:stop])

    def to_json(self) -> list[list[int]]:
        """Return one list of four numbers a run."""
        return [list(run) for run in zip(self.file.tolist(), self.start.tolist(), self.stop.tolist(), self.note.tolist(), strict=True)]

    @classmethod
    def from_json(cls, given: Sequence[Sequence[int]]) -> Spans:
        """Return the runs that `to_json` described."""
        table = np.array(given, np.int64).reshape(-1, 4)
        return cls(file=table[:, 0], start=table[:, 1], stop=table[:, 2], note=table[:, 3])


def join(spans: Sequence[Spans]) -> Spans:
    """Return runs one behind the other."""
    if not spans:
        return Spans.from_json([])
    return Spans(**{name: np.concatenate([getattr(s, name) for s in spans]) for name in ("file", "start", "stop", "note")})


def parse_splits(given: Mapping[str, float] | Sequence[str] | None) -> dict[str, float]:
    """Return the fraction of each split; `["train=0.9", "val=0.1"]` and a mapping mean the same, and None is no splitting.

    The fractions sum to 1 or less. When they sum to less, the rest of the rows goes to no split and the report counts it as left out.

    Raises:
        BadRequest: a name or a fraction cannot be used, or they sum to more than 1.
    """
    pairs = [] if given is None else list(given.items()) if isinstance(given, Mapping) else [_pair(text) for text in given]
    found: dict[str, float] = {}
    for name, fraction in pairs:
        if not name or name in found or name.startswith((".", "_")) or "/" in name or "\0" in name:
            raise BadRequest(f"split: {name!r} cannot name a dataset of its own; use distinct names without '/', not beginning with '.' or '_'")
        if not 0 < fraction <= 1:
            raise BadRequest(f"split: fraction {fraction!r} of {name!r} must lie above 0 and at most at 1")
        found[name] = float(fraction)
    if sum(found.values()) > 1 + 1e-9:
        raise BadRequest(f"split: the fractions {found} sum to {sum(found.values()):g}; they must sum to 1 or less")
    return found


def _pair(text: str) -> tuple[str, float]:
    name, equals, given = (part.strip() for part in text.partition("="))
    if not equals:
        raise BadRequest(f"split: {text!r} lacks '=FRACTION'; write NAME=FRACTION, such as train=0.9")
    try:
        return name, float(given[:-1]) / 100 if given.endswith("%") else float(given)
    except ValueError:
        raise BadRequest(f"split: {text!r} is not NAME=FRACTION, such as train=0.9") from None


def thresholds(fractions: Sequence[float]) -> npt.NDArray[np.uint64]:
    """Return for each split the hash below which a key belongs to it or to one before it."""
    sums = np.minimum(np.cumsum(np.array(fractions, np.float64)), 1.0)
    whole = sums > 1 - 1e-9
    scaled = np.floor(np.where(whole, 0.0, sums) * 2.0**64).astype(np.uint64)
    return np.where(whole, np.uint64(2**64 - 1), scaled)


def split_of(keys: Sequence[bytes], fractions: Sequence[float]) -> Ints:
    """Return for each key the number of its split, or -1 when it is in none.

    A key's place is its XXH3-64 over 2**64. Cost: about 0.3 µs a key.
    """
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(key) for key in keys), np.uint64, len(keys))
    bounds = thresholds(fractions)
    found = np.searchsorted(bounds, hashes, side="right").astype(np.int64)
    found[(found == len(bounds)) & (hashes == np.uint64(2**64 - 1)) & (bounds[-1] == np.uint64(2**64 - 1))] = len(bounds) - 1
    found[found == len(bounds)] = -1
    return found


def key_bytes(value: Any) -> bytes:
    """Return a key's bytes for hashing: text as UTF-8 (a file name's undecodable bytes as they are), bytes themselves, numbers in decimal."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else str(value).encode()


def shuffled_shards(rows: int, data_bytes: int, shard_bytes: int) -> Ints:
    """Return `[shards + 1]` positions at which a shuffled split is cut: shards of equal rows, a little below `shard_bytes` each."""
    if not rows:
        return np.zeros(1, np.int64)
    target = part_bytes(data_bytes, max(int(shard_bytes * 0.95), 1))
    count = min(max(-(-data_bytes // target), 1), rows)
    return np.arange(count + 1, dtype=np.int64) * rows // count
