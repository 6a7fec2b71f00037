"""The law of mixtures: exact shares in every block, equal to its reference, counted without gaps, frozen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import order
from penstock.errors import BadRequest
from penstock.loaders.mixing import Mix, deal_reference, shares

WEIGHTS = st.lists(st.floats(0.05, 1), min_size=1, max_size=6)
GOLDEN_TEN = [2, 2, 0, 1, 0, 0, 0, 0, 1, 1]
GOLDEN_OWN = [2, 3, 5, 3, 6, 7, 8, 9, 4, 5]


@given(WEIGHTS, st.integers(200, 3000))
def test_shares_fill_the_block(weights: list[float], block: int) -> None:
    """Shares add up to the block, and none is a whole sample off its weight."""
    counts = shares(weights, block)
    assert sum(counts) == block
    assert all(abs(count - weight / sum(weights) * block) < 1 for count, weight in zip(counts, weights, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any), st.integers(0, 2**64 - 1))
def test_a_block_is_dealt_as_the_reference_says(counts: list[int], key: int) -> None:
    """The kernel equals the slow statement for any shares and key."""
    mix = Mix({0: counts}, seed=0, block=sum(counts))
    number = key % 1000
    dealt = mix.dealt(number)
    told = [(source, number * counts[source] + turn) for source, turn in deal_reference(counts, order.fold("penstock.mix", 1, 0, number))]
    assert list(zip(dealt.sources.tolist(), dealt.own.tolist(), strict=True)) == told


@settings(max_examples=60, deadline=None)
@given(st.lists(WEIGHTS, min_size=1, max_size=4), st.lists(st.integers(1, 700), min_size=3, max_size=3), st.integers(0, 5), st.data())
def test_each_source_is_counted_without_a_gap(weights: list[list[float]], gaps: list[int], seed: int, data: st.DataObject) -> None:
    """Over any schedule each source's own positions come in order, 0, 1, 2 and so on; every block holds its exact shares; and positions are found back."""
    most = max(map(len, weights))
    schedule = {sum(gaps[:number]): [*one, *[0.0] * (most - len(one))] for number, one in enumerate(weights)}
    mix = Mix(schedule, seed=seed, block=100)
    sources, own = mix.locate(np.arange(3000))
    for source in range(most):
        assert own[sources == source].tolist() == list(range(int((sources == source).sum())))
    begins = sorted(schedule)
    for number in range(30):
        now = schedule[max(begin for begin in begins if -(-begin // 100) <= number)]
        assert np.bincount(sources[number * 100 : number * 100 + 100], minlength=most).tolist() == list(shares(now, 100))
    asked = np.array(data.draw(st.lists(st.integers(0, 2999), max_size=20)), np.int64)
    some_sources, some_own = mix.locate(asked)
    for position, source, place in zip(asked.tolist(), some_sources.tolist(), some_own.tolist(), strict=True):
        assert (source, place) == (sources[position], own[position])
        assert mix.position(source, place) == position


def test_blocks_differ_and_seeds_too() -> None:
    """The order in a block changes from block to block and from seed to seed, and neighbours are as mixed as chance has it."""
    mix, other = Mix({0: [1, 1]}, seed=0), Mix({0: [1, 1]}, seed=1)
    one, two, three = mix.dealt(0).sources, mix.dealt(1).sources, other.dealt(0).sources
    for left, right in ((one, two), (one, three)):
        assert 0.4 < np.mean(left == right) < 0.6
    assert 0.4 < np.mean(one[1:] == one[:-1]) < 0.6


def test_far_positions_cost_what_near_ones_do() -> None:
    """Positions near 2**61 are located exactly."""
    mix = Mix({0: [3, 1], 10**15: [1, 1]}, seed=4)
    positions = np.arange(2**61, 2**61 + 2000)
    sources, own = mix.locate(positions)
    for position, source, place in list(zip(positions.tolist(), sources.tolist(), own.tolist(), strict=True))[::97]:
        assert mix.position(source, place) == position


def test_golden_mixture() -> None:
    """This mixture may never change while the order's format is 1."""
    sources, own = Mix({0: [0.5, 0.3, 0.2]}, seed=7, block=10).locate(np.arange(10, 20))
    assert (sources.tolist(), own.tolist()) == (GOLDEN_TEN, GOLDEN_OWN)


@pytest.mark.parametrize(
    ("weights", "block", "named"),
    [
        ([1, -1], 1000, "not numbers of at least 0"),
        ([0, 0], 1000, "not numbers of at least 0"),
        ([1e308, 1e308], 1000, "not numbers of at least 0"),
        ([float("nan"), 1], 1000, "not numbers of at least 0"),
        ([1, 0.0001], 1000, "less than one sample in a block of 1000"),
        ([1], 0, "block=0"),
    ],
)
def test_weights_that_make_no_shares_are_refused(weights: list[float], block: int, named: str) -> None:
    """Negative, empty, missing and vanishing weights are refused by value."""
    with pytest.raises(BadRequest, match=named):
        Mix({0: weights}, seed=0, block=block)


def test_a_schedule_begins_at_the_beginning() -> None:
    """A schedule without weights for the first sample is refused; a source whose weight falls to 0 has no later positions."""
    for wrong in ({}, {5: [1.0]}, {0: [1.0], -1: [1.0]}, {0.0: [1.0]}):
        with pytest.raises(BadRequest, match="begins at sample 0"):
            Mix(wrong, seed=0)  # type: ignore[arg-type]
    mix = Mix({0: [1, 1], 100: [1, 0]}, seed=0, block=100)
    assert mix.position(1, 49) < 100
    with pytest.raises(BadRequest, match="position 50 of source 1 is never reached"):
        mix.position(1, 50)
    assert mix.position(0, 50) == 100
