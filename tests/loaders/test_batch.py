"""Batches out of a slot: fixed columns as views, ragged ones moved together, whatever runs they were written in."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.loaders.batch import Ragged, budgets, copied, fixed_view, from_slot, offsets_of, ragged_views
from penstock.loaders.slots import Output, chunks, layout

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


def ragged(dtype: str) -> Output:
    """Return the output of a ragged column."""
    return Output(shape=(), dtype=dtype, ragged=True)


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    dtype=st.sampled_from(DTYPES),
    parts=st.integers(1, 6),
    smallest=st.integers(1, 5),
    budget=st.integers(72, 200),
)
def test_runs_of_a_ragged_column_are_moved_together(lengths: list[int], dtype: str, parts: int, smallest: int, budget: int) -> None:
    """Rows written run by run, each into its own region, come out as one run of values with offsets, for every dtype and cut."""
    rows = [np.arange(n).astype(dtype) + index % 50 for index, n in enumerate(lengths)]
    plan = layout({"t": ragged(dtype), "n": Output(shape=(), dtype="int64")}, len(rows), {"t": budget})
    memory = np.full(plan.bytes, 0xEE, np.uint8)
    cuts = chunks(len(rows), parts, smallest)
    for start, stop in cuts:
        told, region = ragged_views(memory, plan.columns["t"], start, stop)
        told[:] = [len(row) for row in rows[start:stop]]
        joined = np.concatenate(rows[start:stop])
        region[: joined.size] = joined
        fixed_view(memory, plan.columns["n"], start, stop)[:] = range(start, stop)
    batch = from_slot(memory, plan, len(rows), cuts)
    assert list(batch) == ["t", "n"]
    values, offsets = batch["t"]
    assert values.dtype == dtype
    assert offsets.tolist() == np.cumsum([0, *lengths]).tolist()
    assert all(np.array_equal(values[offsets[i] : offsets[i + 1]], row) for i, row in enumerate(rows))
    assert batch["n"].tolist() == list(range(len(rows)))
    assert np.shares_memory(values, memory) or values.size == 0


def test_a_short_batch_uses_the_front_of_its_slot() -> None:
    """A last batch of fewer rows is the first rows of every column."""
    plan = layout({"x": Output(shape=(2, 3), dtype="float16"), "t": ragged("uint8")}, 8, {"t": 64})
    memory = np.zeros(plan.bytes, np.uint8)
    fixed_view(memory, plan.columns["x"], 0, 3)[:] = np.arange(18).reshape(3, 2, 3)
    told, region = ragged_views(memory, plan.columns["t"], 0, 3)
    told[:] = [1, 0, 2]
    region[:3] = [7, 8, 9]
    batch = from_slot(memory, plan, 3, [(0, 3)])
    assert batch["x"].shape == (3, 2, 3)
    assert batch["x"].dtype == np.float16
    assert batch["t"].values.tolist() == [7, 8, 9]
    assert batch["t"].offsets.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [5], [1, 0, 4]])
def test_offsets(lengths: list[int]) -> None:
    """Offsets begin at zero, end at the sum, and are one more than there are rows."""
    offsets = offsets_of(np.array(lengths, np.int64))
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]


def test_a_copy_is_ones_own() -> None:
    """A copied batch shares no memory and survives what happens to the slot."""
    x, values = np.arange(4), np.arange(3, dtype=np.uint8)
    batch: dict[str, Any] = {"x": x, "t": Ragged(values=values, offsets=np.array([0, 3]))}
    own = copied(batch)
    x[:], values[:] = -1, 0
    assert own["x"].tolist() == [0, 1, 2, 3]
    assert own["t"].values.tolist() == [0, 1, 2]
    assert isinstance(own["t"], Ragged)


def test_ragged_is_a_plain_pair() -> None:
    """A ragged column unpacks as (values, offsets) and survives pickling, as collate functions and frameworks expect."""
    values, offsets = Ragged(values=np.arange(3), offsets=np.array([0, 1, 3]))
    assert offsets[-1] == values.size
    again = pickle.loads(pickle.dumps(Ragged(values=values, offsets=offsets)))
    assert type(again) is Ragged
    assert again.values.tolist() == [0, 1, 2]


@given(st.floats(0, 1e9))
def test_first_budgets_hold_twice_the_mean(mean: float) -> None:
    """The first guess is at least twice the mean row, at least a cache line, and a multiple of one."""
    found = budgets(["a", "b"], mean)
    assert found["a"] == found["b"]
    assert found["a"] >= max(2 * mean, 64)
    assert found["a"] % 64 == 0
    assert found["a"] <= 2 * mean + 128
