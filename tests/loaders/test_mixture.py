"""Mixtures: exact proportions, each source once a pass in its own order, any number of ranks and resumes, columns of every kind."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.loaders import LEGS, Leg, assert_same, check_chain_of_resumes, check_resumes_at_every_step, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock import order
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.errors import BadRequest
from penstock.loaders import mixing
from penstock.loaders import mixture as mixtures
from penstock.loaders.law import Ordering, Stream
from penstock.loaders.mixing import shares
from penstock.loaders.mixture import MixedStream

SIZES = {"web": 500, "code": 230, "math": 90}


def written(path: Path, name: str, size: int, **options: Any) -> ps.Dataset:
    """Return a dataset whose rows say which source they are of, and which row."""
    fields = {"x": ps.Array((3,), "int32"), "n": ps.Scalar("int64"), "text": ps.Text()}
    with ps.Writer(path / name, fields=fields, shard_size="4KB", **options) as writer:
        for n in range(size):
            writer.write({"x": np.full(3, n, np.int32), "n": list(SIZES).index(name) * 10_000 + n, "text": f"{name} {n} " * (n % 4)})
    return ps.Dataset(path / name)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ps.Dataset]:
    """Return three datasets of unlike sizes, one of them of tar shards."""
    path = tmp_path_factory.mktemp("sources")
    return {name: written(path, name, size, **({"format": "tar"} if name == "math" else {})) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def small_ones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ps.Dataset]:
    """Return two datasets of very few rows."""
    path = tmp_path_factory.mktemp("small")
    return {name: written(path / name, "web", size) for name, size in (("few", 7), ("one", 1))}


def numbers(loader: ps.DataLoader) -> list[int]:
    """Return the rows of an epoch, checked column against column."""
    found = []
    for batch in loader:
        texts = [batch["text"].values[a:b].tobytes().decode() for a, b in zip(batch["text"].offsets, batch["text"].offsets[1:], strict=False)]
        for n, x, text in zip(batch["n"].tolist(), batch["x"].tolist(), texts, strict=True):
            name, row = list(SIZES)[n // 10_000], n % 10_000
            assert x == [row] * 3
            assert text == f"{name} {row} " * (row % 4)
        found += batch["n"].tolist()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_every_block_has_its_exact_shares_and_sources_their_own_order(sources: dict[str, ps.Dataset], workers: int) -> None:
    """In each block of 100 the sources stand as often as their weights say; and each source's rows come in the order it would have alone, pass after pass."""
    mixture = ps.Mixture(sources, {"web": 0.5, "code": 0.3, "math": 0.2}, block=100)
    loader = ps.DataLoader(mixture, batch_size=32, shuffle=True, seed=6, num_workers=workers, output="numpy", epoch_samples=1000)
    seen = [n for _ in range(2) for n in numbers(loader)]
    for first in range(0, 2000, 100):
        assert Counter(n // 10_000 for n in seen[first : first + 100]) == {0: 50, 1: 30, 2: 20}
    for number, (name, source) in enumerate(sources.items()):
        alone = Stream(Ordering(order.fold("penstock.source", 6, name), True), source.starts)
        own = [n % 10_000 for n in seen if n // 10_000 == number]
        assert own == alone.at(np.arange(len(own))).rows.tolist()


@pytest.mark.parametrize(("stop", "complete"), [("first", "math"), ("all", "web")])
def test_an_epoch_ends_with_the_first_or_the_last_source(sources: dict[str, ps.Dataset], stop: Any, complete: str) -> None:
    """The last sample of an epoch is the one that makes a source complete: the first to be so, or the last."""
    loader = ps.DataLoader(ps.Mixture(sources, {"web": 1, "code": 1, "math": 1}, stop=stop, block=30), batch_size=50, shuffle=True, output="numpy")
    seen = numbers(loader)
    assert len(seen) == loader.plan.rows
    counts = Counter(seen)
    index = list(SIZES).index(complete)
    own = [n for n in seen if n // 10_000 == index]
    assert sorted(own) == [index * 10_000 + n for n in range(SIZES[complete])]
    assert seen[-1] == own[-1]
    if stop == "first":
        assert max(counts.values()) == 1
    else:
        assert set(counts) == {i * 10_000 + n for i, size in enumerate(SIZES.values()) for n in range(size)}


def test_weights_follow_the_sizes_unless_given(sources: dict[str, ps.Dataset]) -> None:
    """Without weights an epoch holds sources in proportion to their sizes, and nearly every row once."""
    loader = ps.DataLoader(ps.Mixture(sources), batch_size=64, shuffle=True, output="numpy")
    seen = numbers(loader)
    assert len(set(seen)) == len(seen) > 0.98 * sum(SIZES.values())


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_cut_resumes(sources: dict[str, ps.Dataset], shuffle: bool) -> None:
    """A loader over a mixture with a schedule, cut anywhere, goes on with the same rest; without shuffling too."""
    weights = {0: {"web": 1, "code": 1, "math": 1}, 150: {"web": 3, "code": 1, "math": 0}}

    def made() -> ps.DataLoader:
        mixture = ps.Mixture(sources, weights, block=20, source_column="source")
        return ps.DataLoader(mixture, batch_size=40, shuffle=shuffle, output="numpy", epoch_samples=400)

    check_resumes_at_every_step(made)


def test_a_schedule_changes_the_shares_from_its_block_on(sources: dict[str, ps.Dataset]) -> None:
    """Weights count from the block behind their number of samples on, over the borders of epochs; without shuffling rows come in stored order."""
    weights = {0: {"web": 1, "code": 1, "math": 0}, 95: {"web": 1, "code": 3, "math": 1}}
    loader = ps.DataLoader(ps.Mixture(sources, weights, block=50), batch_size=25, output="numpy", epoch_samples=75)
    seen = [n for _ in range(2) for n in numbers(loader)]
    for first, counts in ((0, [25, 25, 0]), (50, [25, 25, 0]), (100, [10, 30, 10])):
        assert [sum(n // 10_000 == source for n in seen[first : first + 50]) for source in range(3)] == counts
    assert [n for n in seen if n < 10_000] == list(range(sum(n < 10_000 for n in seen)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(["web", "code", "math", "few", "one"]), st.integers(1, 9), min_size=1),
    st.integers(45, 120),
    st.sampled_from(["first", "all"]),
    st.booleans(),
    st.none() | st.integers(1, 900),
    LEGS,
)
def test_any_chain_of_resumes_is_one_sequence(
    sources: dict[str, ps.Dataset],
    small_ones: dict[str, ps.Dataset],
    weights: dict[str, int],
    block: int,
    stop: Any,
    shuffle: bool,
    epoch_samples: int | None,
    legs: list[Leg],
) -> None:
    """Any sources and weights, going on with other ranks and batch sizes: the ranks' batches, joined step by step, are the mixture's one sequence."""
    mixture = ps.Mixture({name: {**sources, **small_ones}[name] for name in weights}, weights, stop=stop, block=block, source_column="source")
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 2, "epoch_samples": epoch_samples, "output": "numpy"}

    def made(rank: int, world: int, size: int) -> ps.DataLoader:
        return ps.DataLoader(mixture, batch_size=size, topology=(rank, world), tail="ragged", **options)

    stream = MixedStream(mixture, Ordering(2, shuffle, epoch_samples=epoch_samples or 0))
    rows = stream.draw(0, np.arange(stream.positions)).rows
    expected = [(source, mixture[row]["n"]) for source, row in zip(stream.sources(rows).tolist(), rows.tolist(), strict=True)]
    check_chain_of_resumes(made, legs, lambda batch: zip(batch["source"].tolist(), batch["n"].tolist(), strict=True), expected)


def test_mixtures_nest(sources: dict[str, ps.Dataset]) -> None:
    """A mixture inside a mixture keeps its own proportions over its own blocks, and rows are numbered through."""
    inner = ps.Mixture({"code": sources["code"], "math": sources["math"]}, {"code": 3, "math": 1}, block=20)
    outer = ps.Mixture({"web": sources["web"], "technical": inner}, {"web": 1, "technical": 1}, block=10, source_column="source")
    loader = ps.DataLoader(outer, batch_size=16, shuffle=True, output="numpy", epoch_samples=800)
    seen = [(n, s) for batch in loader for n, s in zip(batch["n"].tolist(), batch["source"].tolist(), strict=True)]
    assert all((n >= 10_000) == s for n, s in seen)
    technical = [n for n, s in seen if s]
    for first in range(0, len(technical) - 20, 20):
        assert Counter(n // 10_000 for n in technical[first : first + 20]) == {1: 15, 2: 5}
    for index in (0, 499, 500, 729, 730, 819, -1):
        assert outer[index]["n"] == [*range(500), *range(10_000, 10_230), *range(20_000, 20_090)][index]
    with pytest.raises(IndexError, match="row 820"):
        outer[820]
    assert [row["n"] for row in outer.__getitems__([3, 501])] == [3, 10_001]


def test_where_a_row_stands(sources: dict[str, ps.Dataset]) -> None:
    """The positions of a row in an epoch are those at which the epoch holds it."""
    mixture = ps.Mixture({"both": ps.Mixture({"a": sources["code"], "b": sources["math"]}, block=10), "web": sources["web"]}, block=10)
    stream = MixedStream(mixture, Ordering(5, True, epoch_samples=700))
    for epoch in (0, 2):
        rows = stream.draw(epoch, np.arange(700)).rows
        for row in (0, 229, 230, 319, 320, 819):
            assert stream.places(epoch, row) == np.flatnonzero(rows == row).tolist()
    with pytest.raises(BadRequest, match="no row 820"):
        stream.places(0, 820)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_augmented_by_their_own_pass(images: ps.Dataset, tmp_path: Path, jpeg: Callable[[int, int, int], bytes], workers: int) -> None:
    """Images of two sources go through one chain; a source's second pass looks different from its first; and workers change nothing."""
    with ps.Writer(tmp_path / "few", fields=dict(images.fields)) as writer:
        for n in range(10):
            writer.write({"image": jpeg(n, 30, 30), "label": 1000 + n})
    mixture = ps.Mixture({"many": images, "few": ps.Dataset(tmp_path / "few")}, {"many": 1, "few": 1}, stop="all", block=10)
    options: dict[str, Any] = {"batch_size": 30, "shuffle": True, "transforms": {"image": [T.RandomResizedCrop(12)]}, "output": "numpy"}
    found = [plain(batch) for batch in ps.DataLoader(mixture, num_workers=workers, **options)]
    assert_same(found, [plain(batch) for batch in ps.DataLoader(mixture, **options)], "workers")
    looks: dict[int, set[bytes]] = {}
    for batch in found:
        for label, image in zip(batch["label"].tolist(), batch["image"], strict=True):
            looks.setdefault(label, set()).add(image.tobytes())
    assert min(len(looks[1000 + n]) for n in range(10)) >= 6  # of 7 or 8; two crops may happen to be one


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_of_tokens_mix(tmp_path: Path, workers: int) -> None:
    """Windows over two token datasets come in their shares, each its own tokens; a map sees each source's rows."""
    made = {}
    for name, first in (("a", 0), ("b", 30_000)):
        with ps.Writer(tmp_path / name, fields={"tokens": ps.Tokens("uint16")}, shard_size="3KB") as writer:
            for n in range(300):
                writer.write({"tokens": np.arange(first + n * 13, first + n * 13 + 13).astype(np.uint16)})
        made[name] = ps.TokenWindows(ps.Dataset(tmp_path / name), 32, dtype="int64")
    mixture = ps.Mixture(made, {"a": 3, "b": 1}, block=8, source_column="source")
    loader = ps.DataLoader(mixture, batch_size=8, shuffle=True, num_workers=workers, output="numpy")
    seen = []
    for batch in loader:
        for tokens, source in zip(batch["tokens"], batch["source"].tolist(), strict=True):
            assert (np.diff(tokens) == 1).all()
            assert (tokens[0] >= 30_000) == source
            seen.append(int(tokens[0]))
    assert len(set(seen)) == len(seen)
    doubled = ps.DataLoader(mixture, batch_size=8, map=lambda sample: {"first": sample["tokens"][0] * 2}, num_workers=workers, output="numpy")
    for batch in doubled:
        assert ((batch["first"] >= 60_000) == batch["source"]).all()


def test_a_state_of_another_mixture_is_refused(sources: dict[str, ps.Dataset]) -> None:
    """Other weights, another block or other sources are another digest, and a state of theirs is refused."""
    state = ps.DataLoader(ps.Mixture(sources), batch_size=4).state_dict()
    for other in (ps.Mixture(sources, block=999), ps.Mixture(sources, stop="all"), ps.Mixture({"web": sources["web"]})):
        with pytest.raises(BadRequest, match="dataset_digest was"):
            ps.DataLoader(other, batch_size=4).load_state_dict(state)
    halves, ones = (ps.Mixture(sources, dict.fromkeys(SIZES, weight)) for weight in (0.5, 1))
    ps.DataLoader(halves, batch_size=4).load_state_dict(ps.DataLoader(ones, batch_size=4).state_dict())  # the same shares


def test_weights_may_be_numpys(sources: dict[str, ps.Dataset]) -> None:
    """Weights that numpy worked out are numbers as any, and make the same mixture."""
    shown = ps.Mixture(sources, {"web": 7, "code": 2.5, "math": 1})
    assert ps.Mixture(sources, {"web": np.int64(7), "code": np.float32(2.5), "math": np.uint8(1)}).digest == shown.digest
    assert ps.Mixture(sources, {0: {"web": np.float16(7), "code": np.float64(2.5), "math": 1}}).digest == shown.digest
    with pytest.raises(BadRequest, match="not numbers of at least 0"):
        ps.Mixture(sources, {"web": np.float32("nan"), "code": 1, "math": 1})


def test_a_state_costs_the_same_for_any_mixture(sources: dict[str, ps.Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    """What names a mixture is worked out once: states, which all have it, ask no weight of a long schedule again, and a copy for a worker has it too."""
    weights = {k * 1000: dict.fromkeys(sources, k + 1) for k in range(50)}
    mixture = ps.Mixture({"inner": ps.Mixture(sources, weights), **sources})
    loader = ps.DataLoader(mixture, 4, shuffle=True)
    before = loader.state_dict()
    monkeypatch.setattr(mixing, "shares", lambda *_: pytest.fail("worked out again"))
    monkeypatch.setattr(mixtures, "shares", lambda *_: pytest.fail("worked out again"))
    assert loader.state_dict() == before
    copied = pickle.loads(pickle.dumps(mixture))
    assert (copied.digest, len(copied)) == (mixture.digest, len(mixture)) == (before["plan"]["dataset_digest"], before["plan"]["rows"])


def test_what_cannot_be_mixed_is_refused(sources: dict[str, ps.Dataset], images: ps.Dataset, tmp_path: Path) -> None:
    """Sources that differ or are empty, weights that miss one, names that are taken, and lanes are refused by name."""
    with ps.Writer(tmp_path / "empty", fields=dict(images.fields)):
        pass
    both = {"web": sources["web"], "code": sources["code"]}
    cases: list[tuple[Any, Any, str]] = [
        (({},), {}, "needs sources"),
        (({"a": [1, 2]},), {}, "is a list"),
        (({"web": sources["web"], "images": images},), {}, "'images' of a Mixture has columns"),
        (({"e": ps.Dataset(tmp_path / "empty")},), {}, "has no rows"),
        ((both, {"web": 1}), {}, "weights name"),
        ((both, {"web": 1, "code": 1, "math": 1}), {}, "weights name"),
        ((both, {"web": 1, "code": -1}), {}, "not numbers of at least 0"),
        ((both, {5: {"web": 1, "code": 1}}), {}, "begins at sample 0"),
        ((both,), {"stop": "never"}, "stop='never'"),
        ((both,), {"source_column": "n"}, "source_column='n'"),
        ((both, 3), {}, "weights=3 is neither"),
    ]
    for arguments, options, named in cases:
        with pytest.raises(BadRequest, match=named):
            ps.Mixture(*arguments, **options)
    with pytest.raises(BadRequest, match="lanes are of one dataset"):
        ps.DataLoader(ps.Mixture(both), shuffle=True, lanes=2)
    falling = {0: {"web": 1, "code": 1}, 1000: {"web": 0, "code": 1}}
    with pytest.raises(BadRequest, match="'web' is never complete"):
        ps.DataLoader(ps.Mixture({"web": sources["web"], "code": sources["code"]}, {**falling, 100: falling[1000]}, block=10, stop="all"))
    with pytest.raises(BadRequest, match="is a column of the batch already"):
        ps.DataLoader(ps.Mixture(both, source_column="s"), map=lambda sample: {"s": sample["n"]})


def test_shares_and_names_are_shown(sources: dict[str, ps.Dataset]) -> None:
    """A mixture says what it is made of."""
    mixture = ps.Mixture(sources, {"web": 0.5, "code": 0.25, "math": 0.25})
    assert "weights={'web': 0.5, 'code': 0.25, 'math': 0.25}" in repr(mixture)
    assert mixture.names == ("web", "code", "math")
    assert shares([0.5, 0.25, 0.25]) == (500, 250, 250)
