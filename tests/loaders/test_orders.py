"""Loaders over windows of shards, lanes and epochs of any length: the order is the law's, whoever reads, and holds over every resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from contracts.loaders import LEGS, Leg, assert_same, check_chain_of_resumes, check_resumes_at_every_step, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadRequest
from penstock.loaders.law import Ordering, Stream

ORDERS: list[dict[str, Any]] = [
    {"window_shards": 2},
    {"lanes": 4},
    {"window_shards": 1, "lanes": 2, "epoch_samples": 1500},
    {"epoch_samples": 300},
]


def labels(loader: ps.DataLoader) -> list[list[int]]:
    """Return the labels of each batch."""
    return [batch["label"].tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", ORDERS)
def test_batches_hold_what_the_law_says(rows: ps.Dataset, options: dict[str, Any], workers: int) -> None:
    """Over two epochs each batch holds the rows that stand at its positions, and the sampler that frameworks see says the same."""
    loader = ps.DataLoader(rows, batch_size=48, shuffle=True, seed=3, num_workers=workers, output="numpy", **options)
    stream = Stream(Ordering(3, True, **{"window_shards": 0, "lanes": 1, **options}), rows.starts)
    for epoch in range(2):
        shown = list(loader.sampler)
        found = [label for batch in labels(loader) for label in batch]
        assert found == stream.draw(epoch, np.arange(stream.positions)).rows.tolist()
        if epoch == 0:
            assert shown == found


@pytest.mark.parametrize("options", ORDERS)
def test_every_cut_resumes(rows: ps.Dataset, options: dict[str, Any]) -> None:
    """A loader cut anywhere goes on with the same rest."""
    check_resumes_at_every_step(lambda: ps.DataLoader(rows, batch_size=100, shuffle=True, seed=1, output="numpy", **options))


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], ps.Dataset]:
    """Return a maker of datasets of so many rows, which hold their numbers, in shards of so many; each is made once."""

    @lru_cache
    def make(rows: int, shard_rows: int) -> ps.Dataset:
        path = tmp_path_factory.mktemp("sized") / "out"
        with ps.Writer(path, fields={"label": ps.Scalar("int64"), "pad": ps.Array((99,), "uint8")}, shard_size=107 * shard_rows) as writer:
            for label in range(rows):
                writer.write({"label": label, "pad": np.zeros(99, np.uint8)})
        return ps.Dataset(path)

    return make


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2, 16, 17, 100, 230, 401]),
    st.sampled_from([1, 7, 40]),
    st.fixed_dictionaries({"shuffle": st.just(False)}, optional={"epoch_samples": st.integers(1, 900)})
    | st.fixed_dictionaries(
        {"shuffle": st.just(True), "seed": st.integers(0, 9)},
        optional={"window_shards": st.integers(0, 5), "lanes": st.integers(1, 9), "epoch_samples": st.integers(1, 900)},
    ),
    LEGS,
)
def test_any_chain_of_resumes_is_one_sequence(
    sized: Callable[[int, int], ps.Dataset], rows: int, shard_rows: int, options: dict[str, Any], legs: list[Leg]
) -> None:
    """Any dataset and order, going on with other ranks and batch sizes again and again: the ranks' batches, joined step by step, are the law's one sequence."""
    dataset = sized(rows, shard_rows)

    def made(rank: int, world: int, size: int) -> ps.DataLoader:
        return ps.DataLoader(dataset, batch_size=size, topology=(rank, world), tail="ragged", output="numpy", **options)

    stream = Stream(Ordering(**{"seed": 0, **options}), dataset.starts)
    expected = stream.draw(0, np.arange(stream.positions)).rows.tolist()
    check_chain_of_resumes(made, legs, lambda batch: batch["label"].tolist(), expected, dealt=options.get("lanes", 1) > 1)


def test_ranks_with_lanes_to_themselves_read_their_shards_only(rows: ps.Dataset) -> None:
    """With as many lanes as ranks, a rank's whole batches come from its lane's shards, and all ranks together see the same global batches."""
    plain_loader = ps.DataLoader(rows, batch_size=64, shuffle=True, lanes=2, topology=(0, 1), output="numpy")
    both = [labels(ps.DataLoader(rows, batch_size=32, shuffle=True, lanes=2, topology=(rank, 2), tail="ragged", output="numpy")) for rank in (0, 1)]
    for whole, one, two in zip(labels(plain_loader), *both, strict=True):
        assert sorted(whole) == sorted(one + two)
    shards = [set(rows.locate(np.array([label for batch in part[:-2] for label in batch]))[0].tolist()) for part in both]
    assert len(shards[0] & shards[1]) <= 1  # where one lane ends inside a shard
    assert len(shards[0] | shards[1]) == len(rows.manifest.shards)


def test_more_lanes_than_a_global_batch_are_warned_of(rows: ps.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    """Lanes that a global batch cannot reach keep no ranks apart, which is said; on one rank there is nobody to keep apart."""
    ps.DataLoader(rows, 2, shuffle=True, lanes=100, topology=(0, 1))
    assert not caplog.records
    ps.DataLoader(rows, 2, shuffle=True, lanes=5, topology=(0, 2))
    assert "a global batch of 4 has no position of each of 5 lanes" in caplog.text


def test_a_row_that_comes_twice_looks_different(images: ps.Dataset) -> None:
    """In an epoch longer than a pass a row is augmented anew the second time, as it would be in the next epoch of one pass."""
    ops = {"image": [T.RandomResizedCrop(16)]}
    loader = ps.DataLoader(images, batch_size=25, shuffle=True, transforms=ops, epoch_samples=150, output="numpy")
    short = ps.DataLoader(images, batch_size=25, shuffle=True, transforms=ops, output="numpy")
    long = [plain(batch) for batch in loader]
    assert_same(long, [plain(batch) for _ in range(2) for batch in short], "two passes in one epoch")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_crosses_a_pass_inside_a_batch(images: ps.Dataset, workers: int) -> None:
    """A batch that ends one pass and begins the next augments each row by its own pass, also in a map that draws."""

    def noisy(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {"label": sample["label"], "draw": rng.random()}

    def pairs(options: dict[str, Any]) -> list[tuple[int, float]]:
        loader = ps.DataLoader(images, shuffle=True, map=T.Map(noisy, random=True), num_workers=workers, output="numpy", **options)
        return [pair for _ in range(2) for batch in loader for pair in zip(batch["label"].tolist(), batch["draw"].tolist(), strict=True)]

    assert pairs({"batch_size": 50, "epoch_samples": 75}) == pairs({"batch_size": 25})
    assert pairs({"batch_size": 50, "epoch_samples": 100})[:150] == pairs({"batch_size": 25})


def test_windows_of_tokens_begin_in_shards(tmp_path: Any) -> None:
    """Windows over a stream of tokens count to the shard they begin in, and `window_shards` keeps them together."""
    with ps.Writer(tmp_path / "t", fields={"tokens": ps.Tokens("uint16")}, shard_size="2KB") as writer:
        for n in range(200):
            writer.write({"tokens": np.full(37, n, np.uint16)})
    windows = ps.TokenWindows(ps.Dataset(tmp_path / "t"), 50)
    starts = windows.starts
    assert starts[0] == 0
    assert starts[-1] == len(windows)
    assert (np.diff(starts) >= 0).all()
    rows = windows.dataset.starts
    for shard in range(len(starts) - 1):
        for window in range(int(starts[shard]), int(starts[shard + 1])):
            assert rows[shard] * 37 <= window * 50 < rows[shard + 1] * 37
    loader = ps.DataLoader(windows, batch_size=8, shuffle=True, window_shards=2, output="numpy")
    seen = [tuple(row) for batch in loader for row in batch["tokens"].tolist()]
    assert sorted(seen) == sorted(tuple(windows[n]["tokens"].tolist()) for n in range(len(windows)))


def test_what_cannot_be_an_order_is_refused(rows: ps.Dataset) -> None:
    """Windows, lanes and lengths out of range, or without shuffling, are refused before anything is read."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"shuffle": True, "window_shards": -1}, "window_shards=-1"),
        ({"shuffle": True, "lanes": 0}, "lanes=0"),
        ({"shuffle": True, "epoch_samples": -3}, "epoch_samples=-3"),
        ({"window_shards": 3}, "shuffle=False"),
    ]
    for options, named in cases:
        with pytest.raises(BadRequest, match=named):
            ps.DataLoader(rows, **options)
    assert "window_shards=3" in repr(ps.DataLoader(rows, shuffle=True, window_shards=3))
