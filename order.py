"""The law of order: which row stands at which position of an epoch, as arithmetic.

Position p of an epoch maps to a row by a keyed bijection of [0, n), computed for one position or an array of them and never stored. The
bijection is a generalised Feistel network over [0, a) x [0, b), with a and b near the square root of n, and cycle walking for the few values
beyond n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Its round function is
the 32-bit finaliser lowbias32 (Wellons, "Prospecting for Hash Functions", 2018).

Keys are folded (a hash of the parts), never added, so that (seed 1, epoch 2) and (seed 2, epoch 1) are strangers. Cost: 8 rounds a
position (3 to 6 ns on one core, `benchmarks/order_cost.py`), no memory. Refused: an index list (8 bytes a sample, a pass over it at every start), and
`numpy.random.permutation` for the same reason. The order is frozen by FORMAT: any change to this file that moves a row needs a new number.
"""

from __future__ import annotations

import json
from functools import lru_cache
from math import gcd
from typing import final

import numpy as np
import numpy.typing as npt
import xxhash

from .errors import BadRequest
from .jit import Held, Kernel

FORMAT = 1
"""The version of the law. Saved in the loader's state; golden orders in the tests hold it fixed."""

MAX_ROWS = 2**62
"""Rows that one epoch may have."""

_MASK = 2**32 - 1
_MIX_1 = 0x7FEB352D
_MIX_2 = 0x846CA68B
_BLOCK = 512

Rows = npt.NDArray[np.int64]

_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` with separators makes one in every call


def fold(*parts: int | str) -> int:
    """Return a 64-bit key that depends on every part, its type and its place.

    The parts are written as one JSON list and hashed with XXH3-64, so that ("a", 1), ("a1",) and (1, "a") have unlike keys.
    """
    for part in parts:
        if type(part) not in (int, str):
            raise BadRequest(f"a key is folded from integers and strings, not from {type(part).__name__} {part!r}")
    return xxhash.xxh3_64_intdigest(_json(parts).encode())


def sides(n: int) -> tuple[int, int]:
    """Return (a, b) with a * b >= n, both near the square root of n, so that fewer than a + b values lie beyond n."""
    a = max(int(np.sqrt(float(n))), 1)
    while a * a < n:
        a += 1
    while a > 1 and (a - 1) * (a - 1) >= n:
        a -= 1
    return a, max(-(-n // a), 1)


def rounds(n: int) -> int:
    """Return how many rounds [0, n) needs: 8, and 24 below 2**16, where a network of few small values mixes slowly."""
    return 8 if n >= 2**16 else 24


@lru_cache(maxsize=64)
def round_keys(n: int, key: int) -> tuple[int, ...]:
    """Return the key of each round, 32 bits each."""
    return tuple(fold(key, number) & _MASK for number in range(rounds(n)))


def _mix(value: int) -> int:
    value = (value ^ (value >> 16)) * _MIX_1 & _MASK
    value = (value ^ (value >> 15)) * _MIX_2 & _MASK
    return value ^ (value >> 16)


def permute_reference(position: int, n: int, key: int) -> int:
    """Return the row at `position` of [0, n): the slow, obvious statement of the law in Python integers."""
    a, b = sides(n)
    keys = round_keys(n, key)
    value = position
    while True:
        left, right = divmod(value, b)
        for number, round_key in enumerate(keys):
            if number % 2 == 0:
                left = (left + (_mix(right ^ round_key) * a >> 32)) % a
            else:
                right = (right + (_mix(left ^ round_key) * b >> 32)) % b
        value = left * b + right
        if value < n:
            return value


def place_reference(row: int, n: int, key: int) -> int:
    """Return the position at which a row of [0, n) stands: `permute_reference` backwards, round by round."""
    a, b = sides(n)
    keys = round_keys(n, key)
    value = row
    while True:
        left, right = divmod(value, b)
        for number, round_key in reversed([*enumerate(keys)]):
            if number % 2 == 0:
                left = (left - (_mix(right ^ round_key) * a >> 32)) % a
            else:
                right = (right - (_mix(left ^ round_key) * b >> 32)) % b
        value = left * b + right
        if value < n:
            return value


_permute = Kernel("order_kernel", "permute", "void(u8[:] u8[:] u8[:] u8 u8 u8 u8 i8)", sources=("kernel_memory",))
_permute_small = Kernel("order_kernel", "permute_small", "void(u4[:] u4[:] u4[:] u8 u8 u8 u8 i8)", sources=("kernel_memory",))
_SMALL = 2**31
"""Up to so many rows both sides are below 2**16, and 32-bit arithmetic, twice as many at a time, gives the same rows."""


@final
class Permutation:
    """The permutation of [0, n) that a key names, ready to be asked often; by one thread at a time, since its scratch memory is its own."""

    def __init__(self, n: int, key: int) -> None:
        """Work out the sides and the round keys.

        Raises:
            BadRequest: n is not in [1, 2**62].
        """
        if not 1 <= n <= MAX_ROWS:
            raise BadRequest(f"an order needs between 1 and 2**62 rows, not {n}")
        self._n = n
        kernel, dtype = (_permute_small, np.uint32) if n <= _SMALL else (_permute, np.uint64)
        keys, (left, right) = np.array(round_keys(n, key), dtype), np.empty((2, _BLOCK), dtype)
        self.call = kernel.bind(Held(keys), Held(left), Held(right), n, *sides(n))
        """Takes the address of int64 positions, each in [0, n), and their count; replaces them by their rows."""

    def rows(self, positions: Rows) -> Rows:
        """Return the rows at `positions` (int64, each in [0, n)).

        Raises:
            BadRequest: a position is outside [0, n).
        """
        out = np.array(positions, np.int64, order="C")
        if out.size:
            if not 0 <= int(out.min()) <= int(out.max()) < self._n:
                wrong = int(out.max()) if int(out.max()) >= self._n else int(out.min())
                raise BadRequest(f"position {wrong} is outside [0, {self._n})")
            self.apply(out)
        return out

    def apply(self, positions: Rows) -> None:
        """Replace positions, C-contiguous, by their rows; that each is in [0, n) is the caller's to know."""
        self.call(positions.ctypes.data, positions.size)


def permute(positions: Rows, n: int, key: int) -> Rows:
    """Return the rows at `positions` (int64, each in [0, n)) under the permutation of [0, n) that `key` names.

    Raises:
        BadRequest: n is not in [1, 2**62], or a position is outside [0, n).
    """
    return Permutation(n, key).rows(positions)


@lru_cache(maxsize=64)
def order_key(seed: int, epoch: int) -> int:
    """Return the key of an epoch's permutation."""
    return fold("penstock.order", FORMAT, seed, epoch)


@lru_cache(maxsize=64)
def augment_key(seed: int, epoch: int) -> int:
    """Return the key of an epoch's augmentation; the sample and the op enter as the generator's counter."""
    return fold("penstock.augment", FORMAT, seed, epoch)


def rows_at(positions: Rows, *, n: int, seed: int, epoch: int, shuffle: bool) -> Rows:
    """Return the rows that stand at `positions` of `epoch`: permuted when shuffled, the positions themselves otherwise."""
    return permute(positions, n, order_key(seed, epoch)) if shuffle else np.array(positions, np.int64)


def position_of(row: int, *, n: int, seed: int, epoch: int, shuffle: bool) -> int:
    """Return the position of `epoch` at which a row stands, of which `rows_at` gives the row.

    Raises:
        BadRequest: there is no such row.
    """
    if not 0 <= row < n:
        raise BadRequest(f"there is no row {row} among {n}, which are numbered from 0")
    return place_reference(row, n, order_key(seed, epoch)) if shuffle else row


@lru_cache(maxsize=64)
def lane_step(lanes: int) -> tuple[int, int]:
    """Return the step at which lanes are taken in turn, and its inverse modulo `lanes`: near the golden section of them, and prime to their number.

    So any run of turns takes lanes from everywhere, evenly (Knuth, TAOCP 3, section 6.4, Fibonacci hashing), and who has a stretch of the lanes has the
    same part of every run, however long runs are.
    """
    step = max(round(lanes * 0.6180339887498949), 1)
    while gcd(step, lanes) != 1:
        step += 1
    return step % lanes, pow(step, -1, lanes) if lanes > 1 else 0


@final
class Order:
    """The rows of epoch after epoch, as `rows_at` says them, for who asks for every batch; by one thread at a time."""

    def __init__(self, *, n: int, seed: int, shuffle: bool) -> None:
        """Note what decides the order."""
        self._n = n
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = -1
        self._permutation: Permutation | None = None

    def rows(self, epoch: int, positions: Rows) -> Rows:
        """Return the rows that stand at `positions` of `epoch`, each in [0, n), which is the caller's to know."""
        rows = np.array(positions, np.int64)
        if self._shuffle and rows.size:
            if self._permutation is None or epoch != self._epoch:
                self._permutation, self._epoch = Permutation(self._n, order_key(self._seed, epoch)), epoch
            self._permutation.apply(rows)
        return rows
