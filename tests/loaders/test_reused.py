"""Memory of large inline batches is filled again once nothing refers to it, and never before."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.loaders import assert_same, plain
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.loaders import inline
from penstock.loaders.inline import Reused

LARGE = inline._LEAST_BYTES


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([10, LARGE, LARGE + 64, 2 * LARGE])), max_size=30))
def test_memory_that_is_in_use_is_never_lent(steps: list[tuple[int, int]]) -> None:
    """Whatever is kept, dropped and asked for: each array keeps what was written to it, begins at a cache line and has the size that was asked for."""
    kept: dict[int, Any] = {}
    reused = Reused()
    for number, (place, size) in enumerate(steps):
        kept.pop(place, None)
        made = reused.memory(size)
        assert made.nbytes == size
        assert made.ctypes.data % 64 == 0
        made[:] = number % 251
        kept[place] = (made[1:].view(), number % 251)
        if number % 7 == 6:
            reused.rest()
        assert all((array == value).all() for array, value in kept.values())


def test_it_is_lent_again_and_let_go() -> None:
    """A dropped array's memory comes back; at rest little is kept, and of large memory nothing."""
    reused = Reused()
    first = reused.memory(LARGE)
    place = first.ctypes.data
    part = first[100:200]
    del first
    assert reused.memory(LARGE).ctypes.data != place
    del part
    again = reused.memory(LARGE)
    assert again.ctypes.data == place
    reused.rest()
    del again
    assert len(reused._dropped) == 2
    huge = reused.memory(inline._IDLE_BYTES + 1)
    del huge
    reused.rest()
    assert not reused._dropped


@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_batches_may_be_kept_while_others_are_made(tmp_path: Path, output: Any) -> None:
    """Every third batch is kept, and stays what it was, while the memory of the others is filled again, epoch after epoch."""
    with ps.Writer(tmp_path / "d", fields={"x": ps.Array((5000,), "float32"), "t": ps.Text()}) as writer:
        for n in range(900):
            writer.write({"x": np.full(5000, n, np.float32), "t": "t" * (n % 5)})
    dataset = ps.Dataset(tmp_path / "d")
    small = [plain(batch) for batch in ps.DataLoader(dataset, batch_size=150, shuffle=True, output=output)]
    loader, kept, places = ps.DataLoader(dataset, batch_size=150, shuffle=True, output=output), [], set()
    for epoch in range(3):
        loader.set_epoch(0)
        for step, batch in enumerate(loader):
            assert_same([plain(batch)], small[step : step + 1], f"epoch {epoch}, step {step}")
            places.add(batch["x"].data_ptr() if output == "torch" else batch["x"].ctypes.data)
            if step % 3 == 0:
                kept.append((step, batch))
            del batch
    gc.collect()
    assert_same([plain(batch) for _, batch in kept], [small[step] for step, _ in kept], "kept batches")
    assert len(places) < 18
