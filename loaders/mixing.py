"""The law of mixtures: which source stands at each position of a run without an end, and which of its own positions. Pure.

Positions are cut into blocks, and every block holds each source exactly as often as its weight says, in an order that the seed and the block's number
decide. So a position's source is found from its block alone, and its place in the source's own stream by counting: whole blocks times the
source's share, and how often the source came before in the block. Weights that change do so at the beginning of a block.

The order in a block is a shuffle by Fisher and Yates over SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014). Cost (`benchmarks/order_cost.py`): a block of 1,000 takes some 20 us once; nothing grows with the number of samples. `deal_reference` is the slow, obvious statement.

Refused: drawing each position's source at random, whose shares are right on average only, and whose counts must be remembered to go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from .. import order
from ..errors import BadRequest
from ..jit import Bound, Held, Kernel

Rows = npt.NDArray[np.int64]

BLOCK = 1000
"""Positions of a block."""

_MASK = 2**64 - 1
_deal = Kernel("loaders.mixing_kernel", "deal", "void(i8[:] u8 u8)", sources=("kernel_memory",))


def shares(weights: Sequence[float], block: int = BLOCK) -> tuple[int, ...]:
    """Return how often each source stands in a block: its weight's part, the rest to the largest remainders, the first of equal ones.

    Raises:
        BadRequest: a weight is negative or no number, all are 0, or one is too small for a block.
    """
    given: Sequence[Any] = weights
    numbers: list[Any] = [one if isinstance(one, int) or not isinstance(one, Real) else float(one) for one in given]  # numpy's too
    if any(not isinstance(one, (int, float)) or not 0 <= one < float("inf") for one in numbers) or not 0 < sum(numbers) < float("inf"):
        raise BadRequest(f"weights {list(given)} are not numbers of at least 0, of which one is more")
    weights = numbers
    exact = [weight / sum(weights) * block for weight in weights]
    counts = [int(share) for share in exact]
    by_rest = sorted(range(len(weights)), key=lambda source: counts[source] - exact[source])
    for source in by_rest[: block - sum(counts)]:
        counts[source] += 1
    for weight, count in zip(weights, counts, strict=True):
        if weight > 0 and count == 0:
            raise BadRequest(
                f"weight {weight} of {list(weights)} is less than one sample in a block of {block}: give a larger block=, or leave the source out"
            )
    return tuple(counts)


def deal_reference(counts: Sequence[int], key: int) -> list[tuple[int, int]]:
    """Return (source, how often it came before) for each position of a block, by the letter of the law."""
    sources = [source for source, count in enumerate(counts) for _ in range(count)]
    for last in range(len(sources) - 1, 0, -1):
        value = (key + 0x9E3779B97F4A7C15 * last) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        chosen = ((value ^ (value >> 31)) >> 32) * (last + 1) >> 32
        sources[last], sources[chosen] = sources[chosen], sources[last]
    return [(source, sources[:place].count(source)) for place, source in enumerate(sources)]


class Block(NamedTuple):
    """One block: the source at each of its positions, and the position of that source's own stream."""

    sources: Rows
    own: Rows


class _Stretch(NamedTuple):
    """Blocks under the same weights.

    Attributes:
        first: number of the first.
        counts: how often each source stands in one.
        before: positions of each source that lie in earlier blocks.
    """

    first: int
    counts: tuple[int, ...]
    before: tuple[int, ...]

    def gone(self, number: int) -> tuple[int, ...]:
        """Return how many positions of each source lie before block `number`, which is one of these."""
        return tuple(had + (number - self.first) * count for had, count in zip(self.before, self.counts, strict=True))


@final
class Mix:
    """Sources by position."""

    def __init__(self, schedule: Mapping[int, Sequence[float]], *, seed: int, block: int = BLOCK) -> None:
        """Work out the shares.

        Args:
            schedule: from which position on which weights count, one a source; the first is 0. A change takes effect with the next block.
            seed: decides the order inside blocks.
            block: positions of a block.

        Raises:
            BadRequest: the schedule does not begin at 0, or weights make no shares, or there is no such block.
        """
        if type(block) is not int or not 1 <= block <= 2**20:
            raise BadRequest(f"block={block!r} is not an integer from 1 to 2**20")
        if not schedule or any(type(begin) is not int or begin < 0 for begin in schedule) or min(schedule) != 0:
            raise BadRequest(f"a schedule of weights begins at sample 0, and then at positive numbers of samples, not at {list(schedule)}")
        self.block = block
        self._seed = seed
        self._stretches: list[_Stretch] = []
        for begin in sorted(schedule):
            self._add(-(-begin // block), shares(schedule[begin], block))

    def _add(self, first: int, counts: tuple[int, ...]) -> None:
        before = (0,) * len(counts)
        if self._stretches:
            before = self._stretches[-1].gone(first)
            if self._stretches[-1].first == first:
                self._stretches.pop()
        self._stretches.append(_Stretch(first, counts, before))

    def locate(self, positions: Rows) -> tuple[Rows, Rows]:
        """Return for each position, of int64 and at least 0, its source and the position in that source's own stream."""
        blocks = positions // self.block
        inside = positions - blocks * self.block
        sources, own = np.empty_like(inside), np.empty_like(inside)
        edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), blocks.size]
        for first, end in itertools.pairwise(edges if blocks.size else ()):
            dealt, places = self.dealt(int(blocks[first])), inside[first:end]
            sources[first:end] = dealt.sources[places]
            own[first:end] = dealt.own[places]
        return sources, own

    def position(self, source: int, own: int) -> int:
        """Return where a source's own position stands.

        Raises:
            BadRequest: it stands nowhere: the source's weight is 0 from some position on.
        """
        stretch = next((s for s in reversed(self._stretches) if s.before[source] <= own and s.counts[source]), None)
        after = None if stretch is None else self._stretches[self._stretches.index(stretch) + 1 :]
        if stretch is None or (after and own >= after[0].before[source]):
            raise BadRequest(f"position {own} of source {source} is never reached: its weight is 0")
        number = stretch.first + (own - stretch.before[source]) // stretch.counts[source]
        dealt = self.dealt(number)
        return number * self.block + int(np.flatnonzero((dealt.sources == source) & (dealt.own == own))[0])

    def gone(self, source: int, position: int) -> int:
        """Return how many of a source's own positions stand before a position."""
        number, inside = divmod(position, self.block)
        return self._stretch(number).gone(number)[source] + int((self.dealt(number).sources[:inside] == source).sum())

    def dealt(self, number: int) -> Block:
        """Return a block."""
        return _dealt(self._stretch(number), self._seed, number)

    def _stretch(self, number: int) -> _Stretch:
        return next(stretch for stretch in reversed(self._stretches) if stretch.first <= number)


@lru_cache(maxsize=16)
def _dealt(stretch: _Stretch, seed: int, number: int) -> Block:
    size = sum(stretch.counts)
    memory = np.empty(2 * size + len(stretch.counts), np.int64)
    _dealer(stretch.counts)(memory.ctypes.data, order.fold("penstock.mix", order.FORMAT, seed, number))
    sources, turns = memory[: 2 * size].reshape(2, size)
    return Block(sources, turns + np.array(stretch.gone(number), np.int64)[sources])


@lru_cache(maxsize=16)
def _dealer(counts: tuple[int, ...]) -> Bound:
    return _deal.bind(Held(np.array(counts, np.int64)))
