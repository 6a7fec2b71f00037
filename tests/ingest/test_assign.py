"""Which row goes where: cutting into parts, rows into splits, shuffled rows into shards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.ingest.assign import MIN_PART_BYTES, Spans, cut, join, key_bytes, parse_splits, part_bytes, shuffled_shards, split_of, thresholds

Sizes = st.lists(st.integers(0, 10_000), min_size=0, max_size=300)


@given(Sizes, st.integers(1, 20_000))
def test_every_piece_is_in_one_part(sizes: list[int], limit: int) -> None:
    """Parts are consecutive, not empty, and together cover every piece once."""
    bounds = cut(np.array(sizes, np.int64), limit)
    assert bounds[0] == 0
    assert bounds[-1] == len(sizes)
    assert (np.diff(bounds) > 0).all()


@given(Sizes, st.integers(1, 20_000))
def test_parts_keep_to_the_limit(sizes: list[int], limit: int) -> None:
    """A part exceeds the limit by less than one piece, and there are no more parts than the limit asks for."""
    bounds = cut(np.array(sizes, np.int64), limit).tolist()
    for start, stop in itertools.pairwise(bounds):
        assert sum(sizes[start:stop]) <= limit + max(sizes[start:stop])
    assert len(bounds) - 1 <= max(-(-sum(sizes) // limit), 1)


def test_small_sources_give_all_cores_work() -> None:
    """A source of 64 MiB is cut into eight parts, one of 8 MiB into two, and one far larger than a shard by the shard's size."""
    assert part_bytes(64 * 2**20, 128_000_000) == 8 * 2**20
    assert part_bytes(8 * 2**20, 128_000_000) == MIN_PART_BYTES
    assert part_bytes(10**12, 128_000_000) == 124_160_000
    assert part_bytes(0, 1000) == 970


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=50))
def test_merging_spans_keeps_every_place(steps: list[tuple[int, int]]) -> None:
    """Joined runs cover the same places in the same order, keep the first note, and come back from JSON unchanged."""
    table, at = [], 0
    for gap, length in steps:
        start = at + gap
        table.append([0, start, start + length, start * 10])
        at = start + length
    spans = Spans.from_json(table)
    merged = spans.merged()

    def places(of: Spans) -> list[int]:
        return [place for _, start, stop, _ in of.to_json() for place in range(start, stop)]

    assert places(merged) == places(spans)
    assert all(note == start * 10 for _, start, _, note in merged.to_json())
    assert Spans.from_json(merged.to_json()).to_json() == merged.to_json()


def test_merging_keeps_files_apart() -> None:
    """Runs that touch by number but lie in different files stay apart."""
    assert len(Spans.from_json([[0, 0, 5, 0], [1, 5, 9, 0], [1, 9, 12, 7]]).merged()) == 2


def test_joined_spans_stand_one_behind_the_other() -> None:
    """`join` concatenates, and nothing joins to nothing."""
    one = Spans.from_json([[0, 0, 5, 1]])
    assert join([one, one]).to_json() == [[0, 0, 5, 1], [0, 0, 5, 1]]
    assert len(join([])) == 0


def test_splits_are_near_their_fractions_and_disjoint() -> None:
    """Of 20,000 keys each split gets its fraction within one percent point, and the rest goes nowhere."""
    keys = [f"class/{i:06d}.jpg".encode() for i in range(20_000)]
    found = split_of(keys, [0.7, 0.2])
    for split, fraction in ((0, 0.7), (1, 0.2), (-1, 0.1)):
        assert abs((found == split).mean() - fraction) < 0.01


@given(st.lists(st.binary(max_size=20), max_size=60), st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3))
def test_a_row_s_split_depends_on_its_key_alone(keys: list[bytes], fractions: list[float]) -> None:
    """Keys asked for one by one, or backwards, get the splits they get together."""
    together = split_of(keys, fractions).tolist()
    assert [int(split_of([key], fractions)[0]) for key in keys] == together
    assert split_of(keys[::-1], fractions).tolist() == together[::-1]


@given(st.binary(max_size=20))
def test_a_growing_first_split_keeps_its_rows(key: bytes) -> None:
    """A row of a split of 30 % is still in it when the split grows to 60 %."""
    if split_of([key], [0.3])[0] == 0:
        assert split_of([key], [0.6])[0] == 0


def test_fractions_that_sum_to_one_leave_nobody_out() -> None:
    """The last threshold is the top of the hash's range when the fractions sum to 1 in floating point too."""
    assert int(thresholds([0.1] * 10)[-1]) == 2**64 - 1
    assert (split_of([bytes([i]) for i in range(256)], [0.1] * 10) >= 0).all()


def test_split_arguments_mean_the_same_in_every_spelling() -> None:
    """A mapping, `NAME=0.9` and `NAME=90%` give the same fractions."""
    assert parse_splits({"train": 0.9, "val": 0.1}) == parse_splits(["train=0.9", "val=10%"]) == {"train": 0.9, "val": 0.1}
    assert parse_splits(None) == {}


@pytest.mark.parametrize("given_", [["train"], ["train=x"], ["a=0.6", "b=0.5"], ["a=0"], ["a=1.1"], ["a=0.5", "a=0.5"], ["=1"], ["a/b=1"], [".a=1"]])
def test_bad_splits_are_refused_by_value(given_: list[str]) -> None:
    """A split that cannot work is refused with what was given."""
    with pytest.raises(BadRequest, match=r"split: "):
        parse_splits(given_)


@given(st.integers(0, 100_000), st.integers(0, 10**9), st.integers(1, 10**8))
def test_shuffled_shards_cover_every_position(rows: int, data_bytes: int, shard_bytes: int) -> None:
    """Runs of positions are consecutive, not empty, and as equal as they can be."""
    bounds = shuffled_shards(rows, data_bytes, shard_bytes)
    assert bounds[0] == 0
    assert bounds[-1] == rows
    if rows:
        lengths = np.diff(bounds)
        assert lengths.min() >= 1
        assert lengths.max() - lengths.min() <= 1


def test_key_bytes_tell_values_apart() -> None:
    """Text is UTF-8, undecodable names keep their bytes, numbers are decimal."""
    assert key_bytes("é") == "é".encode()
    assert key_bytes("\udcff") == b"\xff"
    assert key_bytes(12) == b"12"
    assert key_bytes(b"x") == b"x"
