"""What every path through the loader must keep, whatever makes the batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from hypothesis import strategies as st

Plain = dict[str, Any]


def plain(batch: dict[str, Any]) -> Plain:
    """Return a batch as arrays of its own; a ragged column as a pair."""
    return {name: tuple(map(_own, value)) if isinstance(value, tuple) else _own(value) for name, value in batch.items()}


def _own(array: Any) -> np.ndarray[Any, Any]:
    return np.array(array if isinstance(array, np.ndarray) else array.numpy())


def assert_same(left: list[Plain], right: list[Plain], why: str) -> None:
    """Two runs of batches are equal bit for bit, names and dtypes included."""
    assert len(left) == len(right), f"{why}: {len(left)} batches against {len(right)}"
    for step, (one, two) in enumerate(zip(left, right, strict=True)):
        assert list(one) == list(two), why
        for name in one:
            for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (one[name], two[name])), strict=True):
                assert a.dtype == b.dtype, f"{why}: {name}"
                assert a.tobytes() == b.tobytes(), f"{why}: column {name} of batch {step}"
                assert a.shape == b.shape, f"{why}: {name}"


def check_resumes_at_every_step(make: Callable[[], Any]) -> None:
    """A loader cut anywhere and rebuilt from its saved state, through JSON, yields the same rest, and then the same next epoch."""
    first = make()
    whole = [plain(b) for b in first]
    following = [plain(b) for b in first]
    for cut in range(len(whole) + 1):
        before = make()
        batches = iter(before)
        head = [plain(b) for b in islice(batches, cut)]
        saved = json.dumps(before.state_dict())
        batches.close()
        after = make()
        after.load_state_dict(json.loads(saved))
        assert_same(head + [plain(b) for b in after], whole, f"resume after {cut} steps")
        if cut:
            assert_same([plain(b) for b in after], following, f"the epoch after a resume after {cut} steps")


Leg = tuple[int, int, int]
"""World size, batch size, and the most steps of a part of an epoch."""

LEGS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 60), st.integers(0, 9)), min_size=1, max_size=4)


def check_chain_of_resumes(
    make: Callable[[int, int, int], Any],
    legs: Iterable[Leg],
    numbers: Callable[[dict[str, Any]], Iterable[Any]],
    expected: list[Any],
    *,
    dealt: bool = False,
) -> None:
    """What all ranks get of an epoch that goes on with other ranks and batch sizes, leg after leg, and ends on two ranks, is the epoch's one sequence.

    Each global batch is joined rank by rank, step by step, and stands where the one before ended.

    Args:
        make: a loader for (rank, world size, batch size), whose tail is ragged.
        legs: what comes before the two ranks.
        numbers: what is told of each row of a batch.
        expected: that of all positions of the epoch, in order.
        dealt: whether a global batch is dealt to ranks by lanes, so that it is compared without its order.
    """
    state, place = None, 0
    for world, size, steps in [*legs, (2, 50, None)]:
        after, ranks = None, []
        for rank in range(world):
            loader = make(rank, world, size)
            if state is not None:
                loader.load_state_dict(state)
            whole = max(loader.plan.rows - (state["samples"] if state else 0), 0) // loader.plan.global_batch
            batches = iter(loader)
            ranks.append([list(numbers(batch)) for batch in islice(batches, None if steps is None else min(steps, whole))])
            after = json.loads(json.dumps(loader.state_dict())) if ranks[-1] else after
            batches.close()
        for step, parts in enumerate(zip_longest(*ranks, fillvalue=())):
            joined = [number for part in parts for number in part]
            wanted = expected[place : place + len(joined)]
            told = f"step {step} of {world} ranks with batches of {size}, from position {place} on"
            assert (sorted(joined) == sorted(wanted)) if dealt else (joined == wanted), told
            assert len(wanted) == len(joined) == min(world * size, len(expected) - place), told
            place += len(joined)
        state = after or state
        assert steps is None or state is None or state["samples"] == place
    assert place == len(expected)
