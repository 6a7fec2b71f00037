"""Packing: equal to its reference, every token once, in as many sequences as the tokens say, and full."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.transforms.packing import ALGORITHMS, FORMAT, Pieces, pack, pack_reference, sequences

ALGORITHM = st.sampled_from(ALGORITHMS)
GOLDEN = {
    "best_fit": [[(4, 0, 10)], [(1, 0, 9)], [(6, 0, 7), (5, 0, 3)], [(0, 0, 5), (4, 10, 4), (2, 0, 1)], [(7, 0, 2)]],
    "first_fit": [[(0, 0, 5), (2, 0, 1), (4, 10, 4)], [(1, 0, 9)], [(4, 0, 10)], [(5, 0, 3), (6, 0, 7)], [(7, 0, 2)]],
    "concat": [
        [(0, 0, 5), (1, 0, 5)],
        [(1, 5, 4), (2, 0, 1), (4, 0, 5)],
        [(4, 5, 9), (5, 0, 1)],
        [(5, 1, 2), (6, 0, 7), (7, 0, 1)],
        [(7, 1, 1)],
    ],
}


def listed(pieces: Pieces) -> list[list[tuple[int, int, int]]]:
    """Return what stands in each sequence as (document, start, length)."""
    whole = list(zip(pieces.documents.tolist(), pieces.starts.tolist(), pieces.lengths.tolist(), strict=True))
    return [whole[first:last] for first, last in itertools.pairwise(pieces.edges.tolist())]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 130), ALGORITHM)
def test_plans_are_those_of_the_reference(lengths: list[int], seq_len: int, algorithm: Any) -> None:
    """Any documents, length and algorithm: the plan equals the slow statement; each token stands once; no sequence is too long."""
    found = listed(pack(np.array(lengths, np.int64), seq_len, algorithm))
    assert found == pack_reference(lengths, seq_len, algorithm)
    assert len(found) == sequences(sum(lengths), seq_len, algorithm)
    tokens = [(document, token) for one in found for document, start, length in one for token in range(start, start + length)]
    assert sorted(tokens) == [(document, token) for document, length in enumerate(lengths) for token in range(length)]
    assert all(sum(length for _, _, length in one) <= seq_len for one in found)


@pytest.mark.parametrize(("algorithm", "filled", "cut"), [("best_fit", 0.97, 0.01), ("first_fit", 0.97, 0.06), ("concat", 0.995, 1)])
def test_log_normal_documents_fill_sequences(algorithm: Any, filled: float, cut: float) -> None:
    """Log-normal documents in sequences of 4,096: nearly all of each is used, and best fit cuts next to no document that a sequence could hold."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        lengths = np.maximum(rng.lognormal(6, 1.1, 1700), 1).astype(np.int64)
        pieces = pack(lengths, 4096, algorithm)
        assert lengths.sum() / (4096 * (pieces.edges.size - 1)) >= filled
        short = lengths <= 4096
        times = np.bincount(pieces.documents, minlength=lengths.size)
        assert (times[short] > 1).mean() <= cut


def test_golden_plans() -> None:
    """These plans may never change while the format is 1."""
    assert FORMAT == 1
    lengths = np.array([5, 9, 1, 0, 14, 3, 7, 2], np.int64)
    assert {algorithm: listed(pack(lengths, 10, algorithm)) for algorithm in ALGORITHMS} == GOLDEN
