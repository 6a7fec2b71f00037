"""The ledger: digests of ranks and of runs add up to the plan's own, or name what is missing and what came twice."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadRequest
from penstock.loaders.ledger import Digest, Progression, delivered, joined, whole_epoch
from penstock.loaders.plan import Plan

PROGRESSIONS = st.lists(st.builds(Progression, st.integers(0, 60), st.integers(0, 6), st.integers(6, 12), st.integers(0, 5)), max_size=8)


def each(progressions: Any) -> list[int]:
    """Return all positions, sorted."""
    return sorted(one.start + i * one.stride + j for one in progressions for i in range(one.times) for j in range(one.size))


@given(PROGRESSIONS)
def test_joining_keeps_every_position(progressions: list[Progression]) -> None:
    """Joined progressions hold the same positions, as often."""
    assert each(joined(progressions)) == each(progressions)


@given(PROGRESSIONS, PROGRESSIONS)
def test_differences_are_those_of_the_positions(one: list[Progression], other: list[Progression]) -> None:
    """Two digests are equal when they hold the same positions equally often; otherwise the numbers of missing and doubled ones are named."""
    left, right = Digest({}, {3: one}), Digest({}, {3: other})
    counts = [np.bincount(each(side), minlength=200) for side in (one, other)]
    missing, more = int((counts[0] < counts[1]).sum()), int((counts[0] > counts[1]).sum())
    told = " ".join(left.differences(right))
    assert (f"{missing} positions missing" in told) == (missing > 0)
    assert (f"{more} positions delivered too often" in told) == (more > 0)
    assert (left == right) == (not told)
    assert Digest.from_json(json.loads(json.dumps(left.to_json()))) == left


@given(
    st.integers(1, 300), st.integers(1, 9), st.integers(1, 6), st.sampled_from(["drop", "pad", "ragged"]), st.sampled_from([1, 2, 6, 12]), st.data()
)
def test_what_ranks_deliver_adds_up(rows: int, batch: int, world: int, tail: Any, lanes: int, data: st.DataObject) -> None:
    """Whatever the plan: each rank's positions are its batches' (as many, with lanes), and all together those of the epoch, in one progression."""
    plans = [Plan(rows=rows, batch_size=batch, rank=rank, world_size=world, tail=tail, lanes=lanes) for rank in range(world)]
    start = data.draw(st.integers(0, rows))
    found: list[Progression] = []
    for plan in plans:
        steps = data.draw(st.integers(0, plan.steps(start)))
        taken = [position for step in range(steps) for position in plan.batch(step, start).positions().tolist() if position < rows]
        assert lanes > 1 < world or each(delivered(plan, start, steps)) == sorted(taken)
        assert len(each(delivered(plan, start, steps))) == len(taken)
        found += delivered(plan, 0, plan.steps())
    assert joined(found) == joined(whole_epoch(plans[0]))


def test_ranks_and_resumes_add_up_to_the_plan(rows: ps.Dataset) -> None:
    """Three ranks, cut in their second epoch and gone on with as two: the digests of all five, merged, are the plan's own; without one of them the gap is named."""

    def made(rank: int, world: int, size: int) -> ps.DataLoader:
        return ps.DataLoader(rows, batch_size=size, shuffle=True, topology=(rank, world), tail="pad", output="numpy")

    digests, state = [], {}
    for rank in range(3):
        loader = made(rank, 3, 20)
        list(loader)
        batches = iter(loader)
        list(islice(batches, 7))
        state = loader.state_dict()
        digests.append(loader.digest())
    for rank in range(2):
        loader = made(rank, 2, 31)
        loader.load_state_dict(state)
        list(loader)
        digests.append(Digest.from_json(json.loads(json.dumps(loader.digest().to_json()))))
    whole = digests[0].merge(*digests[1:])
    expected = loader.plan_digest(range(2))
    assert whole == expected
    assert whole.differences(expected) == []
    assert repr(whole) == "Digest(epoch 0: 1,003 samples, epoch 1: 1,003 samples)"
    without = digests[0].merge(*digests[1:-1])
    assert without != expected
    assert without.differences(expected)[0].startswith("epoch 1: 291 positions missing: 451 to 481, ")
    assert "epoch 0: 335 positions delivered too often" in " ".join(whole.merge(digests[0]).differences(expected))
    assert len(json.dumps(whole.to_json())) < 500


def test_a_million_steps_are_a_few_numbers() -> None:
    """A rank of 64 that delivered a million batches says so in one progression, and all 64 in one."""
    plans = [Plan(rows=64 * 10**9, batch_size=1000, rank=rank, world_size=64) for rank in range(64)]
    digests = [Digest({}, {0: delivered(plan, 0, 10**6)}) for plan in plans]
    assert all(len(one.epochs[0]) == 1 for one in digests)
    assert digests[0].merge(*digests[1:]).epochs == {0: (Progression(0, 64 * 10**9, 64 * 10**9, 1),)}
    assert (
        digests[0]
        .merge(*digests[2:])
        .differences(digests[0].merge(*digests[1:]))[0]
        .startswith("epoch 0: 1000000000 positions missing: 1000 to 1999, ")
    )


def test_only_the_first_of_many_stretches_are_named() -> None:
    """Of stretches that are missing or came twice the positions are counted, five are named, and the number of the others is told."""
    holes = Digest({}, {0: [Progression(0, 2, 5, 1000)]})
    assert holes.differences(Digest({}, {0: [Progression(0, 5000, 5000, 1)]})) == [
        "epoch 0: 3000 positions missing: 2 to 4, 7 to 9, 12 to 14, 17 to 19, 22 to 24 and 995 more stretches"
    ]
    assert holes.differences(Digest({}, {0: [Progression(0, 2, 5, 999)]})) == ["epoch 0: 2 positions delivered too often: 4995 to 4996"]


def test_digests_of_other_plans_and_garbage_are_refused() -> None:
    """Digests under different seeds do not add up, and what is no digest is refused."""
    with pytest.raises(BadRequest, match="seed is 1 here and 2 there"):
        Digest({"seed": 1}, {}).merge(Digest({"seed": 2}, {}))
    good = Digest({"seed": 1}, {0: [Progression(0, 5, 5, 1)]}).to_json()
    for wrong in (
        None,
        {},
        {**good, "penstock_digest": 2},
        {**good, "plan": 3},
        {**good, "epochs": [[0, [[0, 5, -5, 1]]]]},
        {**good, "epochs": [[0, [[0, 5]]]]},
    ):
        with pytest.raises(BadRequest, match="digest"):
            Digest.from_json(wrong)
    twice = Digest.from_json({**good, "epochs": [[0, [[0, 5, 5, 1]]], [0, [[5, 5, 5, 1]]]]})
    assert twice.samples(0) == 10
    with pytest.raises(BadRequest, match="no lists of"):
        Digest.from_json({**good, "epochs": [[0, [[2**62 - 1, 1, 2**62 - 1, 8]]]]})
    huge = Digest({"seed": 1}, {0: [Progression(0, 1, 2, 2**60)]})
    for claimed in (huge, Digest.from_json(Digest({"seed": 1}, {0: [Progression(0, 1, 2, 2**22 + 1)]}).to_json())):
        with pytest.raises(BadRequest, match="too many stretches to compare"):
            claimed.differences(Digest.from_json(good))
        with pytest.raises(BadRequest, match="too many stretches to compare"):
            assert Digest.from_json(good) == claimed
        assert claimed == claimed  # noqa: PLR0124 (nothing has to be laid out for that)
    for wrong in (
        {**good, "epochs": 7},
        {**good, "epochs": [["x", []]]},
        {**good, "epochs": [[0, [[0, 5, 5, 1.5]]]]},
        {**good, "epochs": [[0, [[0, 1, 1, 2**70]]]]},
    ):
        with pytest.raises(BadRequest, match="a digest whose epochs are no lists"):
            Digest.from_json(wrong)
