"""The ledger: digests of ranks and of runs add up to the plan's own, or name what is missing and what came twice."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadRequest
from penstock.loaders.coverage import Progression, joined
from penstock.loaders.ledger import Digest, delivered, whole_epoch
from penstock.loaders.plan import Plan

PROGRESSIONS = st.lists(st.builds(Progression, *map(st.integers, (0, 0, 6, 0), (60, 6, 12, 5)), st.just(0), st.just(0)), max_size=8)
LANES = (1, 2, 3, 4, 6, 12)


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
    """Whatever the plan: each rank's positions are its batches' (as many places, with lanes), and all together those of the epoch, in one progression."""
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


class Told(NamedTuple):
    """What some ranks of some legs say that they delivered, and the positions that their batches held."""

    progressions: list[Progression]
    held: list[int]


@st.composite
def told(draw: st.DrawFn, rows: int, lanes: int) -> Told:
    """Draw a chain of legs over an epoch, each with another number of ranks and rows of a batch, from where the one before ended; and of each some of its ranks."""
    start, found = 0, Told([], [])
    while start < rows:
        world, batch = draw(st.integers(1, 4)), draw(st.integers(1, 6))
        plans = [Plan(rows=rows, batch_size=batch, rank=rank, world_size=world, tail="pad", lanes=lanes) for rank in range(world)]
        most = plans[0].steps(start)
        steps = draw(st.just(most) | st.integers(1, most))
        for plan in draw(st.just(plans) | st.lists(st.sampled_from(plans), max_size=2 * world)):
            done = draw(st.just(steps) | st.integers(0, steps))  # a rank that was killed has done fewer
            found.progressions.extend(delivered(plan, start, done))
            found.held.extend(place for step in range(done) for place in plan.batch(step, start).positions().tolist() if place < rows)
        start = plans[0].consumed(steps - 1, start)
    return found


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 60), st.sampled_from(LANES), st.booleans(), st.data())
def test_any_ranks_of_any_legs_are_equal_when_each_row_came_as_often(rows: int, lanes: int, known: bool, data: st.DataObject) -> None:
    """With lanes too: against the plan, and against other ranks of other legs, what is missing and what came too often is what the batches' rows say, to the number."""
    plan = {"lanes": lanes}
    one, other = data.draw(told(rows, lanes)), data.draw(told(rows, lanes))
    epoch = Told([Progression(0, rows, rows, 1)], list(range(rows)))
    halves = [Digest(plan, {7: half}) for half in (one.progressions[::2], one.progressions[1::2])]
    have = halves[0].merge(Digest.from_json(json.loads(json.dumps(halves[1].to_json()))))
    for against in (epoch, other, one):
        expected = Digest(plan, {7: against.progressions})
        if known:
            counts = [np.bincount(side.held, minlength=rows) for side in (one, against)]
            missing, more = int((counts[0] < counts[1]).sum()), int((counts[0] > counts[1]).sum())
            words = [f"epoch 7: {missing} positions missing: "] * (missing > 0) + [f"epoch 7: {more} positions delivered too often: "] * (more > 0)
            assert [line[: len(word)] for line, word in zip(have.differences(expected), words, strict=True)] == words
        elif Counter(one.held) != Counter(against.held):  # what is too much to work out is a difference, but never none
            unknown = [Digest({}, side.epochs) for side in (have, expected)]
            assert unknown[0] != unknown[1]


def test_all_ranks_of_every_leg_are_one_run() -> None:
    """Thirty legs of unlike numbers of ranks, rows and lanes' turns add up to one progression, in the JSON of a digest without lanes."""
    start, found = 0, Digest({"lanes": 5}, {})
    for leg in range(30):
        world, batch = leg % 4 + 1, leg % 7 + 1
        plans = [Plan(rows=10**6, batch_size=batch, rank=rank, world_size=world, lanes=5) for rank in range(world)]
        found = found.merge(*(Digest(found.plan, {0: delivered(plan, start, 100 + leg)}) for plan in plans))
        start += (100 + leg) * plans[0].global_batch
        assert found.epochs == {0: (Progression(0, start, start, 1),)}
    assert found.to_json() == {"penstock_digest": 1, "plan": {"lanes": 5}, "epochs": [[0, [[0, start, start, 1]]]]}


def test_ranks_of_unlike_legs_do_not_make_up_for_each_other() -> None:
    """One rank of two and two ranks of four hold as many places as an epoch has, but not its rows: with lanes that is seen, and named."""
    plans = [Plan(rows=24, batch_size=6, rank=rank, world_size=world, tail="pad", lanes=4) for rank, world in ((0, 2), (1, 4), (3, 4))]
    whole = Digest({"lanes": 4}, {0: [one for plan in plans for one in delivered(plan, 0, plan.steps())]})
    assert whole.samples(0) == 24
    assert whole.differences(Digest({"lanes": 4}, {0: [Progression(0, 24, 24, 1)]})) == [
        "epoch 0: 6 positions missing: 2, 6, 10, 14, 18 and 1 more stretches",
        "epoch 0: 6 positions delivered too often: 3, 7, 11, 15, 19 and 1 more stretches",
    ]


def test_large_parts_of_dealt_batches_are_named_as_they_are_numbered() -> None:
    """A rank of a run whose incomplete batches are too many to work out is told what is missing, and what it has by place; with the others it is whole."""
    plans = [Plan(rows=8 * 10**6, batch_size=1000, rank=rank, world_size=8, lanes=16) for rank in range(8)]
    ranks = [Digest({"lanes": 16}, {0: delivered(plan, 0, 1000)}) for plan in plans]
    whole = Digest({"lanes": 16}, {0: whole_epoch(plans[0])})
    assert ranks[0].merge(*ranks[1:]) == whole
    few = ranks[2].merge(*ranks[3:])
    assert few.differences(whole) == [
        "epoch 0: 8000000 positions missing: 0 to 7999999",
        (
            "epoch 0: 6000000 positions delivered in incomplete global batches of 8000 rows, numbered as they are dealt from position 0 on: "
            "2000 to 7999, 10000 to 15999, 18000 to 23999, 26000 to 31999, 34000 to 39999 and 995 more stretches"
        ),
    ]
    assert few == few.merge(Digest({"lanes": 16}, {}))
    assert [line[:45] for line in whole.differences(few)] == [
        "epoch 0: 8000000 positions delivered too ofte",
        "epoch 0: 6000000 positions missing in incompl",
    ]


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
    dealt = {**good, "plan": {"lanes": 3}}
    assert Digest.from_json({**dealt, "epochs": [[0, [[5, 4, 6, 9, 6, 5]]]]}).samples(0) == 36
    for plan, numbers in (
        ({}, [5, 4, 6, 9, 6, 5]),
        ({"lanes": 1}, [5, 4, 6, 9, 6, 5]),
        ({"lanes": "3"}, [5, 4, 6, 9, 6, 5]),
        ({"lanes": 2**40}, [5, 4, 6, 9, 6, 5]),
        ({"lanes": 3}, [5, 4, 6, 9, 6]),
        ({"lanes": 3}, [5, 4, 6, 9, 6, 6]),
        ({"lanes": 3}, [5, 4, 6, 9, 0, 0]),
        ({"lanes": 3}, [4, 4, 6, 9, 6, 5]),
        ({"lanes": 3}, [5, 4, 6, 9, 6, -1]),
        ({"lanes": 3}, [5, 4, 6, 9, 6, 5, 1]),
    ):
        with pytest.raises(BadRequest, match="to which lanes add"):
            Digest.from_json({**good, "plan": plan, "epochs": [[0, [numbers]]]})
    wide = Digest.from_json({**good, "plan": {"lanes": 2**24}, "epochs": [[0, [[n, 1, 2**61, 2, 2**61 - n, 0] for n in range(1000)]]]})
    assert len(wide.differences(Digest.from_json({**good, "plan": {"lanes": 2**24}, "epochs": []}))) == 1000
    for wrong in (
        {**good, "epochs": 7},
        {**good, "epochs": [["x", []]]},
        {**good, "epochs": [[0, [[0, 5, 5, 1.5]]]]},
        {**good, "epochs": [[0, [[0, 1, 1, 2**70]]]]},
    ):
        with pytest.raises(BadRequest, match="a digest whose epochs are no lists"):
            Digest.from_json(wrong)
