"""The plan: ranks partition every epoch, tails keep their promise, and any resume continues the same global sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.loaders.plan import Plan, Seat, default_tail
from penstock.order import lane_step

SIZES = st.integers(0, 200)
BATCHES = st.integers(1, 17)
WORLDS = st.integers(1, 7)
TAILS = st.sampled_from(["drop", "pad", "ragged"])
LANES = st.sampled_from([1, 2, 3, 4, 6, 12])


def positions(rows: int, batch: int, world: int, tail: str, start: int = 0, lanes: int = 1) -> list[list[list[int]]]:
    """Return the positions of every step of every rank."""
    out = []
    for rank in range(world):
        plan = Plan(rows=rows, batch_size=batch, rank=rank, world_size=world, tail=tail, lanes=lanes)  # type: ignore[arg-type]
        out.append([plan.batch(step, start).positions().tolist() for step in range(plan.steps(start))])
    return out


def flat(ranks: list[list[list[int]]]) -> list[int]:
    """Return every position, sorted."""
    return sorted(p for rank in ranks for step in rank for p in step)


@given(rows=SIZES, batch=BATCHES, world=WORLDS)
def test_ragged_ranks_partition_the_epoch(rows: int, batch: int, world: int) -> None:
    """With tail='ragged' the ranks' positions are the epoch, each once."""
    assert flat(positions(rows, batch, world, "ragged")) == list(range(rows))


@given(rows=SIZES, batch=BATCHES, world=WORLDS)
def test_drop_gives_whole_equal_batches(rows: int, batch: int, world: int) -> None:
    """With tail='drop' all ranks have the same number of full batches and cover the first whole global batches."""
    ranks = positions(rows, batch, world, "drop")
    assert {len(rank) for rank in ranks} == {rows // (batch * world)}
    assert all(len(step) == batch for rank in ranks for step in rank)
    assert flat(ranks) == list(range(rows // (batch * world) * batch * world))


@given(rows=st.integers(1, 200), batch=BATCHES, world=WORLDS)
def test_pad_is_distributed_sampler(rows: int, batch: int, world: int) -> None:
    """With tail='pad' every rank has ceil(rows / world) samples in equal steps, and only padding lies beyond the rows."""
    ranks = positions(rows, batch, world, "pad")
    assert {sum(map(len, rank)) for rank in ranks} == {-(-rows // world)}
    assert len({tuple(map(len, rank)) for rank in ranks}) == 1
    seen = flat(ranks)
    assert seen == list(range(len(seen)))
    assert rows <= len(seen) < rows + world


@given(rows=SIZES, world=WORLDS, batch=BATCHES, data=st.data())
def test_any_chain_of_resumes_covers_the_epoch(rows: int, world: int, batch: int, data: st.DataObject) -> None:
    """Stopping after any step and going on with other ranks and batch sizes still consumes each position once."""
    seen: list[int] = []
    start = 0
    for _ in range(4):
        plan = Plan(rows=rows, batch_size=batch, world_size=world)
        stop_after = data.draw(st.integers(0, plan.steps(start)))
        for rank in range(world):
            mine = Plan(rows=rows, batch_size=batch, rank=rank, world_size=world)
            for step in range(min(stop_after, mine.steps(start))):
                seen += mine.batch(step, start).positions().tolist()
        start = plan.consumed(stop_after - 1, start) if stop_after else start
        world, batch = data.draw(WORLDS), data.draw(BATCHES)
    seen += flat(positions(rows, batch, world, "ragged", start))
    assert sorted(seen) == list(range(rows))


@given(rows=st.integers(1, 200), batch=BATCHES, world=WORLDS)
def test_global_sequence_does_not_depend_on_ranks(rows: int, batch: int, world: int) -> None:
    """Global batch k read over the ranks in turn is the same run of positions for any world that divides it."""
    whole = positions(rows, batch * world, 1, "ragged")[0]
    split = positions(rows, batch, world, "ragged")
    for step, expected in enumerate(whole):
        assert [p for rank in split for p in (rank[step] if step < len(rank) else [])] == expected


@given(rows=SIZES, batch=BATCHES, world=WORLDS, tail=TAILS, lanes=LANES, data=st.data())
def test_lanes_change_who_gets_a_sample_and_nothing_else(rows: int, batch: int, world: int, tail: str, lanes: int, data: st.DataObject) -> None:
    """With lanes every global batch holds what it holds without; and where ranks have lanes to themselves, whole batches come from those alone."""
    start = data.draw(st.integers(0, rows))
    without = positions(rows, batch, world, tail, start)
    dealt = positions(rows, batch, world, tail, start, lanes)
    assert [list(map(len, steps)) for steps in dealt] == [list(map(len, steps)) for steps in without]
    for step in range(len(without[0])):
        both = [sorted(p for rank in ranks if step < len(rank) for p in rank[step]) for ranks in (dealt, without)]
        assert both[0] == both[1]
    whole = start + (rows - start) // (batch * world) * batch * world
    for rank, steps in enumerate(dealt if batch * world % lanes == 0 and lanes % world == 0 else []):
        own = lanes // world
        assert all({p % lanes * lane_step(lanes)[0] % lanes // own for p in one} == {rank} for one in steps if max(one) < whole)


def test_consumed_counts_all_ranks_and_stops_at_the_end() -> None:
    """The state's count advances by global batches and never passes the rows."""
    plan = Plan(rows=10, batch_size=2, world_size=2)
    assert [plan.consumed(step) for step in range(3)] == [4, 8, 10]
    assert plan.consumed(0, start=3) == 7


def test_default_tail_is_torchs() -> None:
    """drop_last drops; one process keeps a short batch; several pad as DistributedSampler does."""
    assert default_tail(drop_last=True, world_size=4) == "drop"
    assert default_tail(drop_last=False, world_size=1) == "ragged"
    assert default_tail(drop_last=False, world_size=2) == "pad"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": -1, "batch_size": 1}, "-1 rows"),
        ({"rows": 1, "batch_size": 0}, "batch_size=0"),
        ({"rows": 1, "batch_size": 1, "rank": 2, "world_size": 2}, "rank 2 of world size 2"),
        ({"rows": 1, "batch_size": 1, "tail": "keep"}, "tail='keep'"),
        ({"rows": 1, "batch_size": 1, "lanes": 0}, "lanes=0"),
    ],
)
def test_bad_plans_are_refused(given: dict[str, object], message: str) -> None:
    """Numbers that make no plan are refused with their value."""
    with pytest.raises(BadRequest, match=message):
        Plan(**given)  # type: ignore[arg-type]


@given(rows=st.integers(1, 200), batch=BATCHES, world=WORLDS, tail=TAILS, lanes=LANES, data=st.data())
def test_seats_are_where_batches_put_a_position(rows: int, batch: int, world: int, tail: str, lanes: int, data: st.DataObject) -> None:
    """Every delivery of every position, padding too, is named by step, rank and row, and no other is."""
    start = data.draw(st.integers(0, rows))
    wanted: dict[int, list[Seat]] = {position: [] for position in range(rows)}
    for rank, steps in enumerate(positions(rows, batch, world, tail, start, lanes)):
        for step, batches in enumerate(steps):
            for index, position in enumerate(batches):
                wanted[position % rows].append(Seat(step, rank, index, position >= rows))
    plan = Plan(rows=rows, batch_size=batch, world_size=world, tail=tail, lanes=lanes)  # type: ignore[arg-type]
    for position, seats in wanted.items():
        assert sorted(plan.seats(position, start)) == sorted(seats)


def test_a_position_that_is_none_has_no_seat() -> None:
    """Asking for a position outside the epoch is refused with its number."""
    for position in (-1, 10):
        with pytest.raises(BadRequest, match=f"position {position} is outside"):
            Plan(rows=10, batch_size=3).seats(position)
