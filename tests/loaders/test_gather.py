"""The gather kernel equals taking rows one by one, for every dtype, shape, division into shards and blocks, and order of rows."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import pytest
from blocks import Made
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.loaders import gather as gathering
from penstock.loaders import gather_kernel
from penstock.loaders.gather import MAX_BLOCKS, Gather, blocks_of, guide_of
from penstock.loaders.lookup import Lookup
from penstock.shards.columns import Column
from penstock.shards.manifest import Manifest, Shard

NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


SHARDS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 25)), min_size=1, max_size=6)
SHAPES = st.sampled_from([(), (1,), (3,), (2, 5), (1, 1, 1), (4, 3, 2), (65,)])


@settings(max_examples=120, deadline=None)
@given(shards=SHARDS, shape=SHAPES, dtype=st.sampled_from(NUMBERS), strided=st.booleans(), data=st.data())
def test_gather_equals_row_by_row(shards: list[tuple[int, int]], shape: tuple[int, ...], dtype: str, strided: bool, data: st.DataObject) -> None:
    """Any rows, repeated and in any order, over any shards and blocks, come out bit for bit, and nothing is written beyond them."""
    made = Made(shards, shape, dtype, strided=strided)
    made.unmapped = data.draw(st.sets(st.integers(0, 5), max_size=2))
    gather = made.gather()
    for _ in range(2):
        rows = np.array(data.draw(st.lists(st.integers(0, len(made.rows) - 1), max_size=150)), np.int64)
        memory = np.full((len(rows) + 2) * max(prod(shape), 1) * np.dtype(dtype).itemsize, 0xA5, np.uint8)
        size = prod(shape) * np.dtype(dtype).itemsize
        out = memory[size : size + len(rows) * size].view(dtype).reshape(len(rows), *shape)
        gather.into(rows, [out])
        assert out.tobytes() == made.rows[rows].tobytes()
        assert (memory[:size] == 0xA5).all()
        assert (memory[size + len(rows) * size :] == 0xA5).all()


@settings(max_examples=40, deadline=None)
@given(shards=SHARDS, data=st.data())
def test_each_block_is_opened_once_and_only_when_needed(shards: list[tuple[int, int]], data: st.DataObject) -> None:
    """Blocks are opened when a row of theirs is asked for the first time, and never again."""
    made = Made(shards, (2,), "int16")
    gather = made.gather()
    assert made.opened == []
    rows = np.array(data.draw(st.lists(st.integers(0, len(made.rows) - 1), min_size=1, max_size=40)), np.int64)
    for _ in range(3):
        gather.into(rows, [np.empty((len(rows), 2), np.int16)])
    assert len(made.opened) == len(set(made.opened))
    shards_of = np.searchsorted(made.manifest.starts, rows, side="right") - 1
    wanted = {(int(s), int(r - made.manifest.starts[s]) // shards[s][1]) for s, r in zip(shards_of, rows, strict=True)}
    assert set(made.opened) == wanted


def test_blocks_of_ones_own_memory_are_never_kept() -> None:
    """Rows of a shard that is no view of a file (compressed, for one) are taken one by one, among rows of others that are gathered."""
    made = Made([(20, 6), (20, 6), (20, 6)], (3,), "float32")
    made.unmapped = {1}
    gather = made.gather()
    rows = np.random.default_rng(1).permutation(60)
    out = np.empty((60, 3), np.float32)
    gather.into(rows, [out])
    assert out.tobytes() == made.rows[rows].tobytes()
    assert {shard for shard, _ in made.opened} == {0, 2}
    assert len(gather._views) == 8


def test_no_rows_are_no_work() -> None:
    """An empty list of rows opens nothing."""
    made = Made([(5, 2)], (3,), "float32")
    made.gather().into(np.empty(0, np.int64), [np.empty((0, 3), np.float32)])
    assert made.opened == []


def test_large_rows_and_many_of_them() -> None:
    """Rows larger than a page, more of them than are looked ahead for, backwards and forwards."""
    made = Made([(130, 7), (64, 64), (65, 1)], (1500,), "float32")
    gather = made.gather()
    for rows in (np.arange(259)[::-1].copy(), np.arange(259), np.full(300, 258)):
        out = np.empty((len(rows), 1500), np.float32)
        gather.into(rows.astype(np.int64), [out])
        assert out.tobytes() == made.rows[rows].tobytes()


def test_a_block_that_cannot_be_opened_fails_alone() -> None:
    """When a block is damaged the error comes through, rows before it are done, and other rows still are."""
    made = Made([(10, 5)], (), "int64")
    good = made.block

    def damaged(shard: int, block: int) -> Mapping[str, Column]:
        if block == 1:
            raise ps.BadData("broken", shard="0.arrow")
        return good(shard, block)

    made.block = damaged  # type: ignore[method-assign]
    gather = made.gather()
    out = np.zeros(3, np.int64)
    with pytest.raises(ps.BadData, match="broken"):
        gather.into(np.array([0, 1, 9]), [out])
    assert out[:2].tolist() == made.rows[:2].tolist()
    gather.into(np.array([4, 3, 2]), [out])
    assert out.tolist() == made.rows[[4, 3, 2]].tolist()


@pytest.mark.parametrize(
    ("format_", "block_rows", "rows", "suits"),
    [("arrow", 4, 10, True), ("arrow", 0, 10, False), ("tar", 10, 10, False), ("parquet", 4, 10, False), ("arrow", 1, MAX_BLOCKS + 1, False)],
)
def test_what_suits(format_: str, block_rows: int, rows: int, suits: bool) -> None:
    """Only mapped shards of equal blocks, few enough for a table, take the fast path."""
    shards = tuple(
        Shard(path=f"{n}", format=f, rows=rows, bytes=1, xxh3=None, block_rows=b) for n, (f, b) in enumerate([("arrow", 4), (format_, block_rows)])
    )
    manifest = Manifest(root="/nowhere", version=1, schema={"x": ps.Scalar()}, metadata={}, shards=shards)
    assert Gather.suits(manifest) is suits


def test_on_a_dataset_on_disk(rows: ps.Dataset) -> None:
    """On real shards of several blocks the kernel gives what `Dataset` gives, and keeps the mapped memory alive after the dataset is closed."""
    gather = Gather(rows.manifest, {"x": rows.fields["x"]}, Lookup(rows))
    wanted = np.random.default_rng(3).integers(0, len(rows), 400)
    out = np.empty((400, 32), np.float32)
    gather.into(wanted, [out])
    rows.close()
    again = np.empty_like(out)
    gather.into(wanted, [again])
    assert again.tobytes() == out.tobytes()
    assert all(np.array_equal(out[i], rows[int(row)]["x"]) for i, row in enumerate(wanted[:50]))


def test_columns_of_every_width_are_copied_in_one_pass(tmp_path: Path) -> None:
    """Columns whose rows are words, parts of words, several cache lines come out as `Dataset` gives them, whole and in parts."""
    fields = {"x": ps.Array((33,), "float32"), "y": ps.Scalar("int64"), "z": ps.Array((3,), "uint8"), "w": ps.Array((200,), "float64")}
    random = np.random.default_rng(4)
    with ps.Writer(tmp_path / "set", fields, shard_size="200KB") as writer:
        for number in range(700):
            writer.write({"x": random.random(33, np.float32), "y": number, "z": random.integers(0, 9, 3, np.uint8), "w": random.random(200)})
    dataset = ps.Dataset(tmp_path / "set")
    gather = Gather(dataset.manifest, dataset.fields, Lookup(dataset))
    for wanted in (random.integers(0, 700, 900), np.arange(700), random.integers(0, 700, 1)):
        outs = [np.empty((len(wanted), *field.shape), field.dtype) for field in fields.values()]
        gather.into(wanted, outs)
        for index, row in enumerate(wanted.tolist()):
            assert all(np.array_equal(out[index], dataset[row][name]) for name, out in zip(fields, outs, strict=True))


@settings(max_examples=60, deadline=None)
@given(heights=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=20))
def test_the_guide_leads_to_every_block(heights: list[tuple[int, int]]) -> None:
    """For any division, even of blocks of one row beside blocks of hundreds, each row's block lies between its granule's and the next one's."""
    shards = tuple(Shard(path=f"{n}", format="arrow", rows=r, bytes=1, xxh3=None, block_rows=b) for n, (r, b) in enumerate(heights))
    firsts, base = blocks_of(Manifest(root="/nowhere", version=1, schema={"x": ps.Scalar()}, metadata={}, shards=shards))
    guide, shift = guide_of(firsts)
    assert base.tolist() == np.cumsum([0] + [-(-r // b) for r, b in heights])[:-1].tolist()
    rows = np.arange(firsts[-1])
    block = np.searchsorted(firsts, rows, side="right") - 1
    assert (guide[rows >> shift] <= block).all()
    assert (block <= guide[(rows >> shift) + 1]).all()


def test_streamed_rows_are_the_same(tmp_path: Path) -> None:
    """Whole cache lines written past the caches, rows that are none beside them, and arrays that lie askew, hold what plain copying gives."""
    fields = {"x": ps.Array((256,), "float32"), "y": ps.Array((250,), "float32")}
    random = np.random.default_rng(5)
    with ps.Writer(tmp_path / "set", fields) as writer:
        for _ in range(300):
            writer.write({name: random.random(field.shape, np.float32) for name, field in fields.items()})
    dataset = ps.Dataset(tmp_path / "set")
    gather = Gather(dataset.manifest, dataset.fields, Lookup(dataset))
    wanted = random.integers(0, 300, 1500)
    plain = [np.empty((1500, *field.shape), field.dtype) for field in fields.values()]
    gather.into(wanted, plain)
    for skew in (0, 4, 32, 64):
        memory = [np.frombuffer(mmap.mmap(-1, out.nbytes + 128), np.uint8) for out in plain]
        outs = [m[skew : skew + out.nbytes].view(out.dtype).reshape(out.shape) for m, out in zip(memory, plain, strict=True)]
        gather.into(wanted, outs, streams=True)
        assert gather._tables[0].streamed.any() or skew % 64
        for m, out, known in zip(memory, outs, plain, strict=True):
            assert out.tobytes() == known.tobytes()
            assert not m[:skew].any()
            assert not m[skew + out.nbytes :].any()
        gather.into(wanted, outs)
        assert not gather._tables[0].streamed.any()


def test_the_kernel_asks_for_as_many_lines_as_are_counted() -> None:
    """The kernel and what spaces its requests agree on the cache lines that are asked for of a row."""
    assert gather_kernel.LINES == gathering.LINES
