"""Small cheap batches are filled several at a time: nobody but the clock can tell."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.loaders import assert_same, check_resumes_at_every_step, plain
from hypothesis import given
from hypothesis import strategies as st
from inside import stored_of

import penstock as ps
from penstock import order
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.loaders.plan import Plan, Run, Runs, Tail
from penstock.shards.ipc import PlainFile
from penstock.shards.storage import map_file

ROWS = 4_003


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return rows of fixed columns only, in several shards and blocks."""
    path = tmp_path_factory.mktemp("numbers") / "out"
    with ps.Writer(path, fields={"x": ps.Array((5,), "float32"), "n": ps.Scalar("int64")}, shard_size="30KB") as writer:
        for n in range(ROWS):
            writer.write({"x": np.full(5, n, np.float32), "n": n})
    return ps.Dataset(path)


@given(
    st.integers(0, 500),
    st.integers(1, 20),
    st.integers(1, 4),
    st.sampled_from(["drop", "pad", "ragged"]),
    st.integers(1, 40),
    st.data(),
)
def test_runs_are_the_steps(rows: int, batch_size: int, world_size: int, tail: Tail, most: int, data: st.DataObject) -> None:
    """Whatever the plan, the rank and where the epoch is entered: the batches of all runs, in order, are the steps, one batch comes first, and none is too long."""
    rank, lanes = data.draw(st.integers(0, world_size - 1)), data.draw(st.sampled_from([1, 2, 4, 12]))
    plan = Plan(rows=rows, batch_size=batch_size, rank=rank, world_size=world_size, tail=tail, lanes=lanes)
    start = data.draw(st.integers(0, rows))
    runs = Runs(plan, start, most)
    found = [one for number in range(len(runs)) for one in runs[number].each()]
    assert found == [plan.batch(step, start) for step in range(plan.steps(start))]
    assert all(runs[number].batches <= most for number in range(len(runs)))
    assert not len(runs) or runs[0].batches == 1


@given(st.integers(0, 10**12), st.integers(1, 30), st.integers(1, 9), st.integers(0, 50), st.integers(0, 40), st.data())
def test_positions_are_those_of_each(first: int, size: int, batches: int, gap: int, lanes: int, data: st.DataObject) -> None:
    """The positions of a run are those of its batches, one after the other; those of a batch are what they say, and those of its parts."""
    whole, skip = size + gap, data.draw(st.integers(0, gap))
    run = Run(first + skip, first + skip + size, batches, whole, lanes, skip if lanes else 0)
    assert run.positions().tolist() == [p for one in run.each() for p in one.positions().tolist()]
    assert run.rows == len(run.positions())
    one = run.each()[-1]
    begin = first + (batches - 1) * whole
    dealt = (
        sorted(range(begin, begin + whole), key=lambda p: (p % lanes * order.lane_step(lanes)[0] % lanes, p))
        if lanes
        else range(begin, begin + whole)
    )
    assert one.positions().tolist() == list(dealt)[skip : skip + size]
    cut = size // 3
    parts = [one.part(0, cut), one.part(cut, size)]
    assert [p for part in parts for p in part.positions().tolist()] == one.positions().tolist()
    assert parts[1].part(1, size - cut).positions().tolist() == one.positions().tolist()[cut + 1 :]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("place", [(0, 1), (1, 2)])
def test_the_rows_are_those_of_the_order(numbers: ps.Dataset, workers: int, place: tuple[int, int]) -> None:
    """Each batch holds the rows that the order puts there, over ranks and workers, also behind the last whole run."""
    loader = ps.DataLoader(numbers, batch_size=16, shuffle=True, seed=4, num_workers=workers, topology=place, output="numpy")
    for epoch in range(2):
        for step, batch in enumerate(loader):
            positions = loader.plan.batch(step).positions() % ROWS
            expected = order.rows_at(positions, n=ROWS, seed=4, epoch=epoch, shuffle=True)
            assert batch["n"].tolist() == expected.tolist()
            assert (batch["x"] == batch["n"][:, None]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_at_every_step(numbers: ps.Dataset, workers: int) -> None:
    """A cut inside a run counts what was delivered, and not what was filled with it."""
    small = ps.Dataset(numbers.path, columns=["n"])
    check_resumes_at_every_step(lambda: ps.DataLoader(small, batch_size=211, shuffle=True, seed=1, num_workers=workers, output="numpy"))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_may_be_kept_and_changed(numbers: ps.Dataset, workers: int) -> None:
    """Batches that share memory are apart: all of them stay as they were when others are written to or dropped."""
    options: Any = {"batch_size": 50, "shuffle": True, "num_workers": workers}
    expected = [plain(batch) for batch in ps.DataLoader(numbers, **options)]
    kept = []
    for step, batch in enumerate(ps.DataLoader(numbers, **options)):
        if step % 2:
            batch["x"].fill_(-1)
        else:
            kept.append(batch)
    assert_same([plain(batch) for batch in kept], expected[::2], "kept batches")


def test_memory_goes_with_the_last_batch(numbers: ps.Dataset) -> None:
    """What a run's batches share is freed when none of them is left."""
    batches = iter(ps.DataLoader(numbers, batch_size=10, output="numpy"))
    first, second, third = next(batches), next(batches), next(batches)
    base = weakref.ref(third["x"].base)
    del first, second, third
    next(batches)
    batches.close()
    gc.collect()
    assert base() is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_block_is_raised_in_place_of_its_batch(tmp_path: Path, workers: int) -> None:
    """Batches in front of a damaged block arrive although they were filled together with it, and then its error."""
    with ps.Writer(tmp_path / "ds", fields={"t": ps.Array((64,), "float64"), "n": ps.Scalar("int32")}) as writer:
        for n in range(20_000):
            writer.write({"t": np.full(64, n, np.float64), "n": n})
    dataset = ps.Dataset(tmp_path / "ds")
    starts = dataset.reader(0).block_starts.tolist()
    assert len(starts) > 3
    shard = tmp_path / "ds" / dataset.manifest.shards[0].path
    data = bytearray(shard.read_bytes())
    message = PlainFile(map_file(shard))._places[1][0]
    data[message + 8 : message + 60] = b"\xff" * 52
    shard.write_bytes(data)
    seen: list[int] = []

    def consume() -> None:
        for batch in ps.DataLoader(ps.Dataset(tmp_path / "ds"), batch_size=100, num_workers=workers, output="numpy"):
            seen.extend(batch["n"].tolist())

    with pytest.raises(ps.BadData, match="record batch 1"):
        consume()
    assert seen == list(range(starts[1] // 100 * 100))


def test_what_is_filled_together(numbers: ps.Dataset, rows: ps.Dataset) -> None:
    """Plain fixed rows are, as many as are small; ragged ones, transformed ones and large batches come alone."""

    def together(loader: ps.DataLoader) -> int:
        return stored_of(loader).work.together(loader.plan.batch_size)

    assert together(ps.DataLoader(numbers, batch_size=64)) > 100
    assert together(ps.DataLoader(numbers, batch_size=1)) == 256
    assert together(ps.DataLoader(numbers, batch_size=600_000)) == 1
    assert together(ps.DataLoader(rows, batch_size=64)) == 1
    assert together(ps.DataLoader(numbers, batch_size=64, transforms={"x": [T.Cast("float64")]})) == 1
