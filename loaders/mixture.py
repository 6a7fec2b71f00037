"""Several datasets as one: `Mixture`, the value that a loader is given, and `MixedStream`, its order.

Rows of all sources are numbered through, source after source. Which source stands where is the business of `mixing`; each source keeps an order of its
own, without an end, as if it were trained on alone: shuffled by a seed of its own, pass after pass. A mixture may be a source of another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import xxhash

from .. import order
from ..errors import BadRequest
from ..fields import Field
from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from .law import Drawn, Ordering, Stream
from .mixing import BLOCK, Mix, shares
from .packed import Packed

Rows = npt.NDArray[np.int64]
Part = Dataset | TokenWindows | Packed
"""A dataset, or rows made of one."""

Weights = Mapping[str, float]
Stop = Literal["first", "all"]
"""How long epochs of a mixture are: until in the first one the first source was given whole, or until all were."""


@final
class Mixture:
    """Datasets in fixed proportions: `ps.DataLoader(ps.Mixture({"web": web, "code": code}, weights={"web": 0.7, "code": 0.3}), ...)`.

    Attributes:
        sources: the datasets by name.
        names: the names, in order; `source_column` holds indices into them.
        stop: how long an epoch is.
        block: positions over which proportions are exact.
        source_column: the name of a batch column (int64) that says where each row comes from, or None.
    """

    def __init__(
        self,
        sources: Mapping[str, Part | Mixture],
        weights: Weights | Mapping[int, Weights] | None = None,
        *,
        stop: Stop = "first",
        block: int = BLOCK,
        source_column: str | None = None,
    ) -> None:
        """Check the sources and their weights; nothing is read.

        Args:
            sources: datasets, windows of tokens, packed sequences, or mixtures, by name; all with the same columns.
            weights: a number for each source, of which only the proportions count; by default the sources' sizes. Or a schedule: weights by the number
                of samples seen from which on they count.
            stop: how long an epoch is. `"first"`: the first one ends with the sample that makes the first source complete; `"all"`: with the one that makes
                the last complete, and smaller sources begin again meanwhile. Later ones are as long, and go on where the one before ended.
            block: samples over which the proportions are exact.
            source_column: adds a column of that name to batches.

        Raises:
            BadRequest: sources differ in their columns, or are empty; a weight is missing or makes no share of a block.
        """
        given: Any = sources
        if not isinstance(given, Mapping) or not given:
            raise BadRequest("a Mixture needs sources: {'web': dataset, 'code': dataset}")
        self.sources: Mapping[str, Part | Mixture] = dict(given)
        self.names = tuple(self.sources)
        self._check_sources()
        if stop not in ("first", "all"):
            raise BadRequest(f"stop={stop!r} is not one of 'first', 'all'")
        self.stop: Stop = stop
        self.block = block
        self.source_column = source_column
        if source_column is not None and (not source_column or source_column in self.fields):
            raise BadRequest(f"source_column={source_column!r}: give a name that no column of the sources has; they have {list(self.fields)}")
        self.schedule = self._scheduled(weights)
        Mix(self.schedule, seed=0, block=block)  # refuses what makes no shares

    def _check_sources(self) -> None:
        first = self.sources[self.names[0]]
        named: Mapping[str, Any] = self.sources
        for name, source in named.items():
            if not isinstance(source, (Dataset, TokenWindows, Packed, Mixture)):
                raise BadRequest(f"source {name!r} of a Mixture is a {type(source).__name__}; it takes Dataset, TokenWindows, Packed and Mixture")
            if len(source) == 0:
                raise BadRequest(f"source {name!r} of a Mixture, {source.path}, has no rows")
            if isinstance(source, Mixture) and source.source_column is not None:
                raise BadRequest(
                    f"source {name!r} of a Mixture has source_column={source.source_column!r}: only the outer mixture adds one; leave it out there"
                )
            if dict(source.fields) != dict(first.fields):
                raise BadRequest(
                    f"source {name!r} of a Mixture has columns {dict(source.fields)}, and {self.names[0]!r} has {dict(first.fields)}: "
                    "open them with columns= so that they agree"
                )

    def _scheduled(self, weights: Weights | Mapping[int, Weights] | None) -> Mapping[int, tuple[float, ...]]:
        """Return the weights of each source, in order, by the sample from which on they count."""
        if weights is None:
            return {0: tuple(float(len(source)) for source in self.sources.values())}
        told: Mapping[Any, Any] = weights
        if not hasattr(told, "values"):
            raise BadRequest(f"weights={weights!r} is neither a dict of numbers by source, nor one of such dicts by samples seen")
        by_samples = told if told and all(isinstance(value, Mapping) for value in told.values()) else {0: told}
        made = {}
        for begin, named in by_samples.items():
            if set(named) != set(self.names):
                raise BadRequest(f"weights name {sorted(named)}, and the sources are {sorted(self.names)}: give each a weight")
            made[begin] = tuple(named[name] for name in self.names)
        return made

    @property
    def fields(self) -> Mapping[str, Field]:
        """The columns, which all sources have."""
        return self.sources[self.names[0]].fields

    @property
    def path(self) -> str:
        """What the sources are, for messages."""
        return "Mixture(" + ", ".join(source.path for source in self.sources.values()) + ")"

    @property
    def version(self) -> int:
        """Always 0: the versions of the sources are in `digest`."""
        return 0

    @cached_property
    def digest(self) -> str:
        """32 hex digits that name the sources at their versions, their order and their weights; a resume against others is refused by it.

        Worked out once, when it is first asked for: every state has it, and sources and weights stay what they are.
        """
        decides = ["mixture", [[name, source.digest] for name, source in self.sources.items()]]
        told = [*decides, [[begin, *shares(weights, self.block)] for begin, weights in sorted(self.schedule.items())], self.stop, self.block]
        return xxhash.xxh3_128_hexdigest(json.dumps(told).encode())

    @cached_property
    def _rows(self) -> int:
        return sum(len(source) for source in self.sources.values())

    def __len__(self) -> int:
        """Return how many rows all sources have."""
        return self._rows

    def __repr__(self) -> str:
        """Return what it is, for a person."""
        shown = ", ".join(f"{name!r}: {source!r}" for name, source in self.sources.items())
        weights = {begin: dict(zip(self.names, one, strict=True)) for begin, one in self.schedule.items()}
        return f"Mixture({{{shown}}}, weights={weights[0] if list(weights) == [0] else weights}, stop={self.stop!r})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a row by its number over all sources; negative numbers count from the end.

        Raises:
            IndexError: there is no such row.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {self.path}, which has {len(self)} rows")
        left = int(index) % len(self)
        for source in self.sources.values():
            if left < len(source):
                found: dict[str, Any] = source[left]
                return found
            left -= len(source)
        raise AssertionError("a row lies in a source")

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a list of numbers, in its order."""
        return [self[index] for index in indices]

    def parts(self) -> Iterator[Part]:
        """Yield every dataset, those of mixtures inside too, in the order in which rows are numbered."""
        for source in self.sources.values():
            yield from source.parts() if isinstance(source, Mixture) else (source,)


@final
class MixedStream:
    """The epochs of a mixture, one after the other in one run."""

    def __init__(self, mixture: Mixture, ordering: Ordering) -> None:
        """Note the order of each source.

        Raises:
            BadRequest: the order has lanes.
        """
        if ordering.lanes > 1:
            raise BadRequest(f"lanes={ordering.lanes}: lanes are of one dataset's shards, and this is a Mixture; leave them out")
        self._mix = Mix(mixture.schedule, seed=ordering.seed, block=mixture.block)
        self._streams = [
            stream_of(source, ordering._replace(seed=order.fold("penstock.source", ordering.seed, name), epoch_samples=0))
            for name, source in mixture.sources.items()
        ]
        sizes = [len(source) for source in mixture.sources.values()]
        self._bases = np.cumsum([0, *sizes])
        self._mixture = mixture
        self.positions = ordering.epoch_samples or self._epoch()
        """Positions of an epoch."""

    def _epoch(self) -> int:
        """Return how many positions the first or the last source needs to be complete."""
        ends = []
        for source, stream in enumerate(self._streams):
            try:
                ends.append(self._mix.position(source, stream.positions - 1) + 1)
            except BadRequest:
                if self._mixture.stop == "all":
                    name = self._mixture.names[source]
                    raise BadRequest(f"stop='all', and source {name!r} is never complete: its weight falls to 0; give epoch_samples=") from None
        return min(ends) if self._mixture.stop == "first" else max(ends)

    def at(self, positions: Rows) -> Drawn:
        """Return what stands at positions of the run."""
        sources, own = self._mix.locate(positions)
        rows, passes = np.empty_like(own), np.empty_like(own)
        for source, stream in enumerate(self._streams):
            mine = sources == source
            if mine.any():
                drawn = stream.at(own[mine])
                rows[mine], passes[mine] = drawn.rows + self._bases[source], drawn.passes
        return Drawn(rows, passes)

    def draw(self, epoch: int, positions: Rows) -> Drawn:
        """Return what stands at positions of an epoch."""
        return self.at(positions + epoch * self.positions)

    def sources(self, rows: Rows) -> Rows:
        """Return the number of the source that each row is from."""
        return np.asarray(np.searchsorted(self._bases, rows, side="right") - 1)

    def places(self, epoch: int, row: int) -> list[int]:
        """Return the positions of an epoch at which a row stands, in order.

        Raises:
            BadRequest: there is no such row.
        """
        if not 0 <= row < self._bases[-1]:
            raise BadRequest(f"there is no row {row} among {self._bases[-1]}, which are numbered from 0")
        begin = epoch * self.positions
        return [place - begin for place in self.between(begin, begin + self.positions, row)]

    def between(self, begin: int, end: int, row: int) -> list[int]:
        """Return the positions of the run from `begin` to `end - 1` at which a row stands, in order."""
        source = int(self.sources(np.array([row]))[0])
        first, last = self._mix.gone(source, begin), self._mix.gone(source, end)
        return [self._mix.position(source, own) for own in self._streams[source].between(first, last, row - int(self._bases[source]))]


def stream_of(source: Part | Mixture, ordering: Ordering) -> Stream | MixedStream:
    """Return the order of what a loader is given.

    Raises:
        BadRequest: it cannot have that order, or there is no such order.
    """
    ordering.check()
    return MixedStream(source, ordering) if isinstance(source, Mixture) else Stream(ordering, source.starts)
