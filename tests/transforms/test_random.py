"""Random numbers: the published test vectors, compiled equal to plain, and nothing but (key, sample, op, draw) matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.transforms.random import Random, philox, philox_reference

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)

VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_reference_gives_the_published_vectors(counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]) -> None:
    """The plain-Python function reproduces Random123's known answers for philox4x32-10."""
    assert philox_reference(counter, key) == words


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_compiled_gives_the_published_vectors(counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]) -> None:
    """The compiled function reproduces the first two words of the known answers."""
    got = philox(*(np.uint64(n) for n in (key[0] | key[1] << 32, counter[0] | counter[1] << 32, counter[2], counter[3])))
    assert int(got) == words[0] << 32 | words[1]


@settings(max_examples=300, deadline=None)
@given(LONG, LONG, WORD, WORD)
def test_compiled_equals_reference(key: int, sample: int, op: int, draw: int) -> None:
    """Compiled and plain agree on any key and counter."""
    words = philox_reference((sample & 0xFFFFFFFF, sample >> 32, op, draw), (key & 0xFFFFFFFF, key >> 32))
    assert int(philox(np.uint64(key), np.uint64(sample), np.uint64(op), np.uint64(draw))) == words[0] << 32 | words[1]


@settings(max_examples=100, deadline=None)
@given(LONG, LONG, WORD)
def test_draws_count_up(key: int, sample: int, op: int) -> None:
    """The n-th draw of an op is the block whose counter ends in n."""
    rng = Random(key, sample).op(op)
    expected = [philox_reference((sample & 0xFFFFFFFF, sample >> 32, op, n), (key & 0xFFFFFFFF, key >> 32)) for n in range(3)]
    assert [rng.bits() for _ in range(3)] == [words[0] << 32 | words[1] for words in expected]


def test_uniform_is_uniform() -> None:
    """Draws over samples fill [0, 1) evenly: mean, variance and a chi-square over 64 bins are as they should be."""
    values = np.array([Random(7, sample).uniform() for sample in range(20_000)])
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.var() - 1 / 12) < 0.003
    counts = np.bincount((values * 64).astype(int), minlength=64)
    assert ((counts - 312.5) ** 2 / 312.5).sum() < 120


def test_neighbouring_keys_samples_and_ops_share_nothing() -> None:
    """Changing any one part by one changes the draw, so epochs, samples and ops never repeat each other."""
    drawn = {Random(key, sample, op).bits() for key in range(10) for sample in range(10) for op in range(10)}
    assert len(drawn) == 1000


def test_integer_stays_in_range_and_reaches_its_ends() -> None:
    """Integers cover [low, high) and nothing else."""
    rng = Random(1, 2)
    assert {rng.integer(-2, 3) for _ in range(500)} == {-2, -1, 0, 1, 2}


def test_permutation_is_fair() -> None:
    """All six orders of three things come up about equally often."""
    counts: dict[tuple[int, ...], int] = {}
    for sample in range(3000):
        order = tuple(Random(3, sample).permutation(3))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 400


def test_generator_is_keyed_by_the_same_parts() -> None:
    """The numpy generator repeats for equal (key, sample, op) and differs when one part differs."""
    first = Random(5, 9, 1).generator().random(4)
    assert (first == Random(5, 9, 1).generator().random(4)).all()
    for other in (Random(6, 9, 1), Random(5, 10, 1), Random(5, 9, 2)):
        assert (first != other.generator().random(4)).all()
