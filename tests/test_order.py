"""The law of order: a bijection for every n, equal to its reference, frozen by golden values, and well mixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import order
from penstock.errors import BadRequest

EDGES = sorted({2**power + off for power in range(41) for off in (-1, 0, 1) if 2**power + off >= 1})
GOLDEN_FOLD = 7318372860569620190
GOLDEN_TEN = [8, 2, 0, 6, 3, 7, 9, 1, 4, 5]
GOLDEN_BIG = [479827856227, 666514762164, 626843322727, 927312230366, 340847686804]


def test_permutation_is_a_bijection_for_every_small_n() -> None:
    """Every n up to 4,096 gives each row exactly once."""
    for n in range(1, 4097):
        assert np.array_equal(np.sort(order.permute(np.arange(n), n, order.fold("small", n))), np.arange(n)), n


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 100_000), key=st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(n: int, key: int) -> None:
    """Any n up to 10^5 under any key gives each row exactly once."""
    seen = np.zeros(n, bool)
    seen[order.permute(np.arange(n), n, key)] = True
    assert seen.all()


def test_every_97th_n_up_to_100_000_is_a_bijection_and_all_are_injective_where_sampled() -> None:
    """Each 97th n up to 10^5 is checked whole; of every other n the first 64 positions have distinct images inside [0, n)."""
    for n in range(1, 100_001, 97):
        assert np.bincount(order.permute(np.arange(n), n, n), minlength=n).max() == 1, n
    positions = np.arange(64)
    for n in range(64, 100_001):
        rows = order.permute(positions, n, n)
        assert rows.min() >= 0, n
        assert rows.max() < n, n
        assert np.unique(rows).size == 64, n


@pytest.mark.parametrize("n", EDGES)
def test_edges_of_powers_of_two(n: int) -> None:
    """At 2^k - 1, 2^k and 2^k + 1 up to 2^40 the map is injective where sampled, stays inside [0, n) and equals the reference."""
    key = order.fold("edge", n)
    positions = np.unique(np.concatenate([np.arange(min(n, 300)), n - 1 - np.arange(min(n, 300)), np.random.default_rng(n).integers(0, n, 300)]))
    rows = order.permute(positions, n, key)
    assert np.unique(rows).size == positions.size
    assert 0 <= rows.min() <= rows.max() < n
    for position, row in list(zip(positions.tolist(), rows.tolist(), strict=True))[:40]:
        assert order.permute_reference(position, n, key) == row


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 2**62), key=st.integers(0, 2**64 - 1), data=st.data())
def test_fast_equals_reference(n: int, key: int, data: st.DataObject) -> None:
    """The vector kernel and the Python statement of the law agree for any n, key and positions."""
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    assert order.permute(np.array(positions), n, key).tolist() == [order.permute_reference(p, n, key) for p in positions]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 2**62))
def test_sides_cover_and_hug(n: int) -> None:
    """The two sides cover [0, n) and overshoot by less than their sum, so that walks are short."""
    a, b = order.sides(n)
    assert n <= a * b < n + a + b


def test_golden_order() -> None:
    """The order of format 1 is frozen: these rows may never move."""
    assert order.FORMAT == 1
    assert order.fold("penstock", 1, 2) == GOLDEN_FOLD
    assert order.rows_at(np.arange(10), n=10, seed=0, epoch=0, shuffle=True).tolist() == GOLDEN_TEN
    assert order.rows_at(np.arange(5), n=10**12, seed=7, epoch=3, shuffle=True).tolist() == GOLDEN_BIG


def test_small_permutations_are_all_equally_likely() -> None:
    """Over many keys every permutation of four rows turns up about equally often (chi-square, 23 degrees of freedom)."""
    counts: dict[tuple[int, ...], int] = {}
    for key in range(4800):
        rows = tuple(order.permute(np.arange(4), 4, order.fold("likely", key)).tolist())
        counts[rows] = counts.get(rows, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 60


def test_shuffle_is_well_mixed() -> None:
    """Rank correlation stays near 0 and neighbours stay neighbours no more often than by chance."""
    n = 100_000
    rows = order.permute(np.arange(n), n, order.fold("mixed"))
    assert abs(np.corrcoef(np.arange(n), rows)[0, 1]) < 0.02
    assert (np.abs(np.diff(rows)) == 1).sum() < 15


def test_keys_are_folded_not_added() -> None:
    """(seed 1, epoch 2) and (seed 2, epoch 1) have unlike keys, as have parts that join to the same text."""
    assert order.order_key(1, 2) != order.order_key(2, 1)
    assert order.fold("a", 1) != order.fold("a1")
    assert order.fold("1") != order.fold(1)
    assert order.order_key(1, 2) != order.augment_key(1, 2)


def test_unshuffled_order_is_the_position() -> None:
    """shuffle=False gives the rows in their own order."""
    assert order.rows_at(np.arange(3, 6), n=10, seed=1, epoch=1, shuffle=False).tolist() == [3, 4, 5]


def test_empty_request_is_empty() -> None:
    """No positions give no rows."""
    assert order.permute(np.arange(0), 10, 1).size == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: order.permute(np.arange(3), 0, 1), "between 1 and 2\\*\\*62 rows, not 0"),
        (lambda: order.permute(np.arange(3), 2, 1), "position 2 is outside \\[0, 2\\)"),
        (lambda: order.permute(np.array([-1]), 2, 1), "position -1 is outside \\[0, 2\\)"),
        (lambda: order.fold(1.5), "not from float 1.5"),  # type: ignore[arg-type]
    ],
)
def test_bad_requests_name_the_value(call: object, message: str) -> None:
    """A wrong n, position or key part is refused with its value."""
    assert callable(call)
    with pytest.raises(BadRequest, match=message):
        call()


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.integers(1, 2**17), st.integers(2**31 - 2**17, 2**31 + 2**17)), st.integers(0, 2**64 - 1), st.data())
def test_both_widths_of_the_kernel_are_the_law(n: int, key: int, data: st.DataObject) -> None:
    """Below 2**31 rows, where 32-bit arithmetic is used, and above, the rows are the reference's, at the edges too."""
    positions = [0, n - 1, *data.draw(st.lists(st.integers(0, n - 1), max_size=20))]
    assert order.permute(np.array(positions), n, key).tolist() == [order.permute_reference(p, n, key) for p in positions]


def test_an_order_asked_for_every_batch_is_the_order() -> None:
    """What `Order` remembers from batch to batch changes no row, whichever epoch is asked for next."""
    asked = order.Order(n=1000, seed=4, shuffle=True)
    for epoch in (0, 1, 1, 0, 7):
        positions = np.arange(epoch, 1000, 3)
        assert np.array_equal(asked.rows(epoch, positions), order.rows_at(positions, n=1000, seed=4, epoch=epoch, shuffle=True))
    assert order.Order(n=9, seed=0, shuffle=False).rows(3, np.arange(9)).tolist() == list(range(9))
    assert asked.rows(0, np.arange(0)).size == 0


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 2**62), key=st.integers(0, 2**64 - 1), data=st.data())
def test_the_place_of_a_row_is_where_it_stands(n: int, key: int, data: st.DataObject) -> None:
    """Backwards through the network gives the position back, for any n."""
    position = data.draw(st.integers(0, n - 1))
    assert order.place_reference(order.permute_reference(position, n, key), n, key) == position


def test_positions_are_found_by_row() -> None:
    """`position_of` is the inverse of `rows_at`, shuffled or not, and a row that is none is refused."""
    for shuffle in (True, False):
        law = {"n": 300, "seed": 5, "epoch": 2, "shuffle": shuffle}
        rows = order.rows_at(np.arange(300), **law).tolist()  # type: ignore[arg-type]
        assert [order.position_of(row, **law) for row in rows] == list(range(300))  # type: ignore[arg-type]
    for row in (-1, 300):
        with pytest.raises(BadRequest, match=f"no row {row} among 300"):
            order.position_of(row, n=300, seed=5, epoch=2, shuffle=True)
