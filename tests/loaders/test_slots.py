"""The layout of a slot: aligned, disjoint, and cut into chunks that cover it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.loaders.slots import ALIGNMENT, Output, chunks, layout

OUTPUTS = st.builds(
    Output,
    shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    dtype=st.sampled_from(["uint8", "float32", "int64", "bool"]),
    ragged=st.booleans(),
).map(lambda o: Output(shape=(), dtype=o.dtype, ragged=True) if o.ragged else o)


@given(outputs=st.dictionaries(st.text("abc", min_size=1), OUTPUTS, max_size=5), rows=st.integers(1, 300), budget=st.integers(0, 5000))
def test_columns_are_aligned_and_disjoint(outputs: dict[str, Output], rows: int, budget: int) -> None:
    """No two regions overlap, each begins on a cache line, and the slot holds them all."""
    plan = layout(outputs, rows, dict.fromkeys(outputs, budget))
    regions = []
    for column in plan.columns.values():
        regions.append((column.offset, column.offset + column.row_bytes * rows))
        if column.output.ragged:
            regions.append((column.lengths_offset, column.lengths_offset + 8 * rows))
            assert column.row_bytes >= budget
    regions.sort()
    assert all(start % ALIGNMENT == 0 for start, _ in regions)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(regions))
    assert plan.bytes % 4096 == 0
    assert all(stop <= plan.bytes for _, stop in regions)


@given(rows=st.integers(1, 1000), parts=st.integers(1, 20), smallest=st.integers(1, 100))
def test_chunks_cover_the_batch(rows: int, parts: int, smallest: int) -> None:
    """Chunks are consecutive, cover every row, and respect the smallest size and the number of parts."""
    cut = chunks(rows, parts, smallest)
    assert cut[0][0] == 0
    assert cut[-1][1] == rows
    assert all(before[1] == after[0] for before, after in itertools.pairwise(cut))
    assert len(cut) <= parts
    assert len(cut) == 1 or min(stop - start for start, stop in cut) >= smallest


def test_an_absurd_batch_is_refused() -> None:
    """A slot larger than any memory is refused with its size."""
    with pytest.raises(BadRequest, match="lower batch_size"):
        layout({"x": Output(shape=(2**40,), dtype="float32")}, 1000, {})
