"""Laws of order over shards: equal to the letter of the law, each row once a pass, windows and lanes where they are promised, frozen, and well mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import order
from penstock.errors import BadRequest
from penstock.loaders.law import Drawn, GlobalLaw, Ordering, Stream, WindowedLaw, law_of, pass_reference

SHARDS = st.lists(st.integers(0, 30), min_size=1, max_size=20)
ORDERINGS = st.builds(Ordering, seed=st.integers(0, 3), shuffle=st.just(True), window_shards=st.integers(0, 5), lanes=st.integers(1, 6))
EVEN = np.arange(0, 10_001, 100)
GOLDEN_WINDOWS = [11, 9, 7, 10, 3, 8, 0, 2, 1, 5, 4, 6]
GOLDEN_LANES = [3, 6, 0, 7, 1, 11, 2, 10, 5, 9, 4, 8]
GOLDEN_BIG = [706326034447, 108135821539, 706567104373, 151167941669]


def starts_of(sizes: list[int]) -> Any:
    """Return the first row of each shard, and how many rows there are."""
    return np.cumsum([0, *sizes])


def drawn(ordering: Ordering, starts: Any, number: int) -> list[int]:
    """Return a whole pass."""
    law = law_of(ordering, starts)
    rows: list[int] = law.draw(number, np.arange(int(starts[-1]))).tolist()
    return rows


@settings(max_examples=200, deadline=None)
@given(SHARDS, ORDERINGS, st.integers(0, 4))
def test_a_pass_is_what_the_reference_lists(sizes: list[int], ordering: Ordering, number: int) -> None:
    """Any shards, windows and lanes: the pass equals the slow statement, and holds each row once."""
    starts = starts_of(sizes)
    found = drawn(ordering, starts, number)
    assert found == pass_reference(ordering, starts, number)
    assert sorted(found) == list(range(int(starts[-1])))


@settings(max_examples=100, deadline=None)
@given(SHARDS, ORDERINGS, st.data())
def test_any_positions_in_any_order_and_back(sizes: list[int], ordering: Ordering, data: st.DataObject) -> None:
    """Positions may be asked for alone, repeated and in any order; and `place` finds the position of each row."""
    starts = starts_of([*sizes, 1])
    whole = pass_reference(ordering, starts, 1)
    law = law_of(ordering, starts)
    asked = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=30))
    assert law.draw(1, np.array(asked, np.int64)).tolist() == [whole[position] for position in asked]
    for position in asked:
        assert law.place(1, whole[position]) == position


@settings(max_examples=100, deadline=None)
@given(SHARDS, ORDERINGS, st.integers(1, 100), st.integers(0, 5))
def test_epochs_of_any_length_are_one_stream(sizes: list[int], ordering: Ordering, length: int, epoch: int) -> None:
    """Epochs of `epoch_samples` are the passes, one after the other, cut anew; each row carries its pass, and its places in the epoch are found."""
    starts = starts_of([*sizes, 1])
    rows = int(starts[-1])
    stream = Stream(ordering._replace(epoch_samples=length), starts)
    passes = [pass_reference(ordering, starts, number) for number in range((epoch + 1) * length // rows + 1)]
    whole = [(row, number) for number, one in enumerate(passes) for row in one][epoch * length : (epoch + 1) * length]
    found = stream.draw(epoch, np.arange(length))
    numbers = [found.passes] * length if isinstance(found.passes, int) else found.passes.tolist()
    assert list(zip(found.rows.tolist(), numbers, strict=True)) == whole
    row = whole[length // 2][0]
    assert stream.places(epoch, row) == [place for place, (other, _) in enumerate(whole) if other == row]


def test_a_window_holds_the_rows_of_its_shards_and_no_others() -> None:
    """With windows of 4 shards of 100 rows, each 400 positions hold the rows of 4 shards, permuted among each other."""
    law = WindowedLaw(EVEN, Ordering(0, True, window_shards=4))
    rows = law.draw(0, np.arange(10_000))
    for first in range(0, 10_000, 400):
        window = rows[first : first + 400]
        assert len(set((window // 100).tolist())) == 4
        assert len(set((window[:100] // 100).tolist())) == 4


def test_every_nth_position_reads_one_lane() -> None:
    """With 5 lanes over 100 equal shards, every fifth position holds the rows of one lane's 20 shards and no others."""
    law = WindowedLaw(EVEN, Ordering(3, True, window_shards=2, lanes=5))
    rows = law.draw(7, np.arange(10_000))
    lanes = np.arange(5)
    assert [found.tolist() for found in law.reach(7, lanes, lanes)] == [[20] * 5, [2000] * 5]
    seen = [set((rows[lane::5] // 100).tolist()) for lane in range(5)]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 100
    for lane in range(5):
        assert (rows[lane::5][:200] // 100).tolist() != sorted((rows[lane::5][:200] // 100).tolist())


def test_passes_and_seeds_are_strangers() -> None:
    """Another pass or another seed is another order, of the shards and of the rows in a window."""
    law = [drawn(Ordering(seed, True, window_shards=3, lanes=2), EVEN, number) for seed in (0, 1) for number in (0, 1)]
    for one in range(4):
        for other in range(one):
            assert np.mean(np.array(law[one]) == np.array(law[other])) < 0.01


def test_golden_orders() -> None:
    """These orders may never move while the format is 1."""
    assert order.FORMAT == 1
    starts = starts_of([4, 0, 3, 5])
    assert drawn(Ordering(0, True, window_shards=2), starts, 0) == GOLDEN_WINDOWS
    assert drawn(Ordering(5, True, window_shards=1, lanes=2), starts, 3) == GOLDEN_LANES
    big = WindowedLaw(np.arange(0, 10**12 + 1, 10**9), Ordering(7, True, window_shards=16, lanes=8))
    assert big.draw(2, np.array([0, 1, 10**11, 10**12 - 1])).tolist() == GOLDEN_BIG


@pytest.mark.parametrize("lanes", [3, 7, 20])
def test_lanes_over_uneven_shards_stay_apart_to_the_end(lanes: int) -> None:
    """Whatever the shards' sizes, positions a lane's number of turns apart come from one run of dealt shards all through the pass; neighbours share one shard at most."""
    sizes = np.random.default_rng(lanes).lognormal(4, 0.5, 100).astype(int)
    starts = starts_of(sizes.tolist())
    law = WindowedLaw(starts, Ordering(1, True, window_shards=2, lanes=lanes))
    shards = np.searchsorted(starts, law.draw(0, np.arange(law.rows)), side="right") - 1
    seen = [set(shards[slot::lanes].tolist()) for slot in range(lanes)]
    assert sum(map(len, seen)) <= 100 + lanes - 1
    numbers = np.arange(lanes)
    assert sum(map(len, seen)) == law.reach(0, numbers, numbers)[0].sum()
    lengths = [shards[slot::lanes].size for slot in range(lanes)]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("window_shards", [1, 2, 4, 8, 16, 32])
def test_how_well_windows_mix(window_shards: int) -> None:
    """Neighbours stay neighbours, and come from one shard, as seldom as chance in a window has it; rank correlation is that of 100 permuted shards."""
    starts, positions = np.arange(0, 100_001, 1000), np.arange(100_000)
    for seed in range(3):
        rows = law_of(Ordering(seed, True, window_shards=window_shards), starts).draw(0, positions)
        assert np.mean(np.abs(np.diff(rows)) == 1) < 1.5 * 2 / (1000 * window_shards) + 1e-4
        assert np.mean(rows[1:] // 1000 == rows[:-1] // 1000) < 1.1 / window_shards + 0.02
        assert abs(np.corrcoef(rows, positions)[0, 1]) < 0.4


@pytest.mark.parametrize("window_shards", [1, 2, 4, 8, 16, 32])
def test_the_rank_correlation_inside_windows_falls_with_their_size(window_shards: int) -> None:
    """Inside a window of n rows it is that of n permuted rows, 1 / sqrt(n): in the mean of squares, and nowhere above five times that; of windows, 1 / sqrt(99)."""
    starts, positions, size = np.arange(0, 100_001, 1000), np.arange(100_000), 1000 * window_shards
    inside, over = [], []
    for seed in range(12):
        rows = law_of(Ordering(seed, True, window_shards=window_shards), starts).draw(0, positions)
        whole = rows[: rows.size // size * size].reshape(-1, size)
        inside += [np.corrcoef(np.argsort(np.argsort(window)), positions[:size])[0, 1] for window in whole]
        over.append(np.corrcoef(rows, positions)[0, 1])
    assert np.abs(inside).max() < 5 / size**0.5
    assert np.mean(np.square(inside)) ** 0.5 < 1.3 / size**0.5
    assert np.mean(np.square(over)) ** 0.5 < 1.5 / 99**0.5


def test_what_makes_no_order_is_refused() -> None:
    """Numbers out of range, and windows or lanes without shuffling, are refused by name; so is a row that is none."""
    for wrong, named in (
        (Ordering(0, True, window_shards=-1), "window_shards=-1"),
        (Ordering(0, True, lanes=0), "lanes=0"),
        (Ordering(0, True, epoch_samples=-5), "epoch_samples=-5"),
        (Ordering(0, True, window_shards=2.5), "window_shards=2.5"),  # type: ignore[arg-type]
        (Ordering(0, True, lanes=2**24 + 1), "lanes=16777217 are more than the 16777216"),
        (Ordering(0, True, lanes=2**62), "lanes=4611686018427387904 are more"),
        (Ordering(0, False, window_shards=2), "shuffle=False"),
        (Ordering(0, False, lanes=2), "shuffle=False"),
    ):
        with pytest.raises(BadRequest, match=named):
            wrong.check()
    Ordering(0, True, lanes=2**24).check()
    for law in (WindowedLaw(EVEN, Ordering(0, True, 2)), GlobalLaw(10_000, seed=0, shuffle=True)):
        with pytest.raises(BadRequest, match="no row 10000 among 10000"):
            law.place(0, 10_000)
    assert Stream(Ordering(0, True, 2), np.zeros(1, np.int64)).positions == 0


def test_the_augmentation_of_a_row_changes_with_its_pass() -> None:
    """One pass gives all rows its key; rows of two passes get the key of each."""
    assert Drawn(np.arange(3), 2).keys(9) == [order.augment_key(9, 2)] * 3
    assert Drawn(np.arange(2), np.array([1, 2])).keys(9) == [order.augment_key(9, 1), order.augment_key(9, 2)]
