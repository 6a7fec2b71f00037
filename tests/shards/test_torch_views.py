"""A dataset as torch's two kinds of dataset: the same rows, in the order of the law, each once over ranks and workers, resumed where it stood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import penstock as ps


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Write 53 rows in several shards."""
    path = tmp_path_factory.mktemp("views") / "rows"
    with ps.Writer(path, {"n": ps.Scalar("int64"), "x": ps.Array((3,), "float32")}, shard_size=400) as writer:
        for n in range(53):
            writer.write({"n": n, "x": [n, n, n]})
    return ps.Dataset(path)


def numbers(batches: Any) -> list[int]:
    """Return the rows' numbers, in order."""
    return [int(n) for batch in batches for n in batch["n"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_map_style(rows: ps.Dataset, workers: int) -> None:
    """The loader of torch takes it, and gives tensors of the columns."""
    view = rows.to_torch()
    assert isinstance(view, Dataset)
    assert len(view) == 53
    batches = list(DataLoader(view, batch_size=10, num_workers=workers))
    assert numbers(batches) == list(range(53))
    assert batches[0]["x"].dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_iterable_style_is_each_row_once(rows: ps.Dataset, workers: int, world: int) -> None:
    """Over all ranks and workers every row comes once, in another order each epoch; without shuffling and workers in stored order."""
    seen = []
    for epoch in range(2):
        found: list[int] = []
        for rank in range(world):
            view = rows.to_iterable(shuffle=True, seed=3, topology=(rank, world))
            assert isinstance(view, IterableDataset)
            view.set_epoch(epoch)
            mine = numbers(DataLoader(view, batch_size=4, num_workers=workers))
            assert len(mine) == len(view)
            found += mine
        assert sorted(found) == list(range(53))
        seen.append(found)
    assert seen[0] != seen[1]
    if workers == 0:
        assert numbers(DataLoader(rows.to_iterable(topology=(0, world)), batch_size=4)) == list(range(0, 53, world))


def test_its_order_is_the_loaders(rows: ps.Dataset) -> None:
    """One reader's rows come in the order that Penstock's own loader gives."""
    view = rows.to_iterable(shuffle=True, seed=8)
    assert numbers(DataLoader(view, batch_size=4)) == numbers(ps.DataLoader(rows, batch_size=4, shuffle=True, seed=8))


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_where_it_stood(rows: ps.Dataset, workers: int) -> None:
    """Its iterators have a state, which Penstock's loader asks for, as torchdata's does."""

    def loader() -> Any:
        return ps.DataLoader(rows.to_iterable(shuffle=True), batch_size=4, num_workers=workers)

    first = loader()
    batches = iter(first)
    for _ in range(5):
        next(batches)
    state = first.state_dict()
    assert any(told for told, _ in state["workers"])
    second = loader()
    second.load_state_dict(state)
    assert numbers(second) == numbers(batches)


def test_a_rank_that_is_none_is_refused(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank beyond the world is an error; without one launchers say which, as they do to the loader."""
    with pytest.raises(ps.BadRequest, match=r"topology|rank"):
        rows.to_iterable(topology=(2, 2))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert len(rows.to_iterable()) == 18
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ps.BadRequest, match=r"OMPI|Open MPI"):
        rows.to_iterable()
    for name in ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert len(rows.to_iterable()) == 26
