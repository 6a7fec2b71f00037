"""The compiled half of the generator; see `random`, whose `philox_reference` it equals. Imported only to be compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

MASK = 0xFFFFFFFF
ROUNDS = 10
M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85


@numba.njit
def philox(key: np.uint64, sample: np.uint64, op: np.uint64, draw: np.uint64) -> np.uint64:
    """Return the first two words of `philox_reference`, the first one high, for counter (sample low, sample high, op, draw)."""
    mask, half = np.uint64(MASK), np.uint64(32)
    c0, c1, c2, c3 = sample & mask, sample >> half, op & mask, draw & mask
    k0, k1 = key & mask, key >> half
    for _ in range(ROUNDS):
        left, right = np.uint64(M0) * c0, np.uint64(M1) * c2
        c0, c1, c2, c3 = (right >> half) ^ c1 ^ k0, right & mask, (left >> half) ^ c3 ^ k1, left & mask
        k0, k1 = (k0 + np.uint64(W0)) & mask, (k1 + np.uint64(W1)) & mask
    word: np.uint64 = (c0 << half) | c1
    return word


_word: Any = philox  # numba's own type for it stands in the way of calling it


@numba.njit
def philox_words(out: Any, key: np.uint64, sample: np.uint64, op: np.uint64, draw: np.uint64) -> None:
    """Fill `out` with what `philox` returns for one draw after the other."""
    for index in range(out.size):
        out[index] = _word(key, sample, op, draw + np.uint64(index))


@numba.njit
def philox_rows(out: Any, keys: Any, samples: Any, op: np.uint64) -> None:
    """Fill each row of `out` with what `philox` returns for a key and a sample, one draw after the other."""
    for row in range(out.shape[0]):
        for draw in range(out.shape[1]):
            out[row, draw] = _word(keys[row], samples[row], op, np.uint64(draw))
