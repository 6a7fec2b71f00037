"""Random numbers that are a function of (key, sample, op, draw) and of nothing else.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit counter and a 64-bit key into 128
random bits. The counter is (sample low, sample high, op number, draw number) and the key is the caller's fold of seed and epoch, so there is
no state to save, to seed per worker or to advance: any worker draws the same numbers for a sample, in any order and in any batch.

A draw costs one call of a compiled function, about a microsecond; `Draws` makes those of many samples in one call. Refused: one seeded generator
per sample (`numpy.random.Philox` takes 10 us to build) and one per worker (its numbers depend on who does the work). `philox_reference` is the same
function in plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..jit import Kernel

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_ROUNDS = 10
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def philox_reference(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the four 32-bit words of Philox4x32-10, in plain Python."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & _MASK32, (left >> 32) ^ c3 ^ k1, left & _MASK32
        k0, k1 = (k0 + _W0) & _MASK32, (k1 + _W1) & _MASK32
    return c0, c1, c2, c3


philox = Kernel("transforms.random_kernel", "philox", "u8(u8 u8 u8 u8)")
"""The first two words of `philox_reference`, the first one high, for (key, sample, op, draw); compiled."""

philox_words = Kernel("transforms.random_kernel", "philox_words", "void(u8[:] u8 u8 u8 u8)")
"""As many words of `philox` as an array has room for, one draw after the other; compiled."""

philox_rows = Kernel("transforms.random_kernel", "philox_rows", "void(u8[:,:] u8[:] u8[:] u8)")
"""The first draws of one op on many samples; compiled."""

_bits = philox.bind()


class Random:
    """The draws of one op on one sample: the only randomness an op may use.

    Attributes:
        key: 64 bits folded from seed and epoch.
        sample: the sample's number in the dataset, 64 bits.
        number: the op's place in its chain.
    """

    __slots__ = ("_draw", "key", "number", "sample")

    def __init__(self, key: int, sample: int, number: int = 0) -> None:
        """Stand before the first draw of op `number`."""
        self.key = key & _MASK64
        self.sample = sample & _MASK64
        self.number = number & _MASK32
        self._draw = 0

    def op(self, number: int) -> Random:
        """Return the draws of another op on the same sample."""
        return Random(self.key, self.sample, number)

    def bits(self) -> int:
        """Return 64 random bits; each call is one draw."""
        draw = self._draw
        self._draw = draw + 1
        found: int = _bits(self.key, self.sample, self.number, draw)
        return found

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return what so many calls of `bits` would return, `[count]`."""
        found = np.empty(count, np.uint64)
        philox_words(found, self.key, self.sample, self.number, self._draw)
        self._draw += count
        return found

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high) with 53 random bits."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high); the bias of (high - low) / 2**64 is far below what any run can see."""
        return low + ((self.bits() * (high - low)) >> 64)

    def permutation(self, length: int) -> list[int]:
        """Return the integers below `length` in random order (Fisher and Yates)."""
        order = list(range(length))
        for last in range(length - 1, 0, -1):
            chosen = self.integer(0, last + 1)
            order[last], order[chosen] = order[chosen], order[last]
        return order

    def generator(self) -> np.random.Generator:
        """Return a numpy Generator keyed by the same parts, for a user's function; it costs about 10 us."""
        return np.random.Generator(np.random.Philox(key=self.key | (self.number << 64), counter=self.sample << 128))


def words_of(values: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Return keys or samples as the generator takes them, `[N]`: their low 64 bits."""
    return np.array([value & _MASK64 for value in values], np.uint64)


class Draws:
    """The first draws of one op on many samples, each what `Random` gives for its sample alone, as arrays of `[N]`."""

    def __init__(self, keys: npt.NDArray[np.uint64], samples: npt.NDArray[np.uint64], number: int, count: int) -> None:
        """Make `count` draws for each sample."""
        self._keys, self._samples, self._number = keys, samples, number
        self._words = np.empty((len(keys), count), np.uint64)
        philox_rows(self._words, keys, samples, number)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._keys)

    def one(self, index: int) -> Random:
        """Return the draws of one sample, from the first on."""
        return Random(int(self._keys[index]), int(self._samples[index]), self._number)

    def uniform(self, draw: int, low: float = 0.0, high: float = 1.0) -> npt.NDArray[np.float64]:
        """Return draw `draw` as numbers in [low, high)."""
        return np.asarray(low + (high - low) * ((self._words[:, draw] >> np.uint64(11)).astype(np.float64) * 2.0**-53))

    def integer(self, draw: int, high: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return draw `draw` as integers in [0, high), where each `high` is below 2^32: the upper half of a product of 128 bits."""
        words, bound = self._words[:, draw], high.astype(np.uint64)
        half, low = np.uint64(32), np.uint64(_MASK32)
        return np.asarray((((words >> half) * bound + (((words & low) * bound) >> half)) >> half).astype(np.int64))
