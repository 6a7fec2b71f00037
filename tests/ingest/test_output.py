"""Staged shards: none larger than asked, split where the rows alone say, named so that a marker can be believed, and gone when aborted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.fields import Array, Bytes, Scalar, Schema, Text
from penstock.ingest.output import Output, Staged, by_split, file_bytes, overhead_bytes
from penstock.shards.arrow_columns import canonical
from penstock.shards.formats import open_reader
from penstock.shards.manifest import Shard

SCHEMA: Schema = {"b": Bytes(), "n": Scalar("int64"), "v": Array((3,), "float32")}


def batch(sizes: list[int], first: int = 0) -> pa.RecordBatch:
    """Return rows whose bytes have the given sizes."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * len(sizes), np.float32)), 3)
    columns = [pa.array([bytes(size) for size in sizes], pa.binary()), pa.array(range(first, first + len(sizes)), pa.int64()), vectors]
    (made,) = canonical(pa.RecordBatch.from_arrays(columns, names=list(SCHEMA)), SCHEMA)
    return made


def rows_in(folder: Path, shard: Staged, kind: str) -> list[int]:
    """Return the numbers in a staged shard, read back."""
    described = Shard(path=shard.name, format=kind, rows=shard.rows, bytes=shard.bytes, xxh3=shard.xxh3, block_rows=shard.block_rows)
    reader = open_reader(folder, described, SCHEMA)
    try:
        return [int(reader.row(number)["n"][()]) for number in range(reader.rows)]
    finally:
        reader.close()


@pytest.mark.parametrize("kind", ["arrow", "tar"])
@settings(deadline=None, max_examples=10)
@given(sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=40), limit=st.integers(1, 60_000), cuts=st.sets(st.integers(1, 39), max_size=3))
def test_no_shard_passes_the_bound(tmp_path_factory: pytest.TempPathFactory, kind: str, sizes: list[int], limit: int, cuts: set[int]) -> None:
    """Whatever the rows and the bound, a file is below it or holds one row; rows are all there, in order, however they came."""
    folder = tmp_path_factory.mktemp("out")
    bounds = [0, *sorted(cut for cut in cuts if cut < len(sizes)), len(sizes)]
    output = Output(folder, "s1-00000", SCHEMA, format=kind, shard_bytes=limit)
    for low, high in pairwise(bounds):
        output.write(batch(sizes[low:high], low), 0)
    staged = output.close()
    for shard in staged:
        assert shard.bytes == (folder / shard.name).stat().st_size
        assert shard.bytes <= limit or shard.rows == 1
    assert [number for shard in staged for number in rows_in(folder, shard, kind)] == list(range(len(sizes)))
    assert not list(folder.glob("*.tmp*"))


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_where_a_shard_ends_depends_on_rows_alone(tmp_path: Path, kind: str) -> None:
    """The same rows in one batch or one by one give the same files, byte for byte."""
    sizes = [(i * 977) % 5000 for i in range(60)]
    found = []
    for name, step in (("whole", 60), ("single", 1)):
        (tmp_path / name).mkdir()
        output = Output(tmp_path / name, "p", SCHEMA, format=kind, shard_bytes=50_000)
        for low in range(0, 60, step):
            output.write(batch(sizes[low : low + step], low), 0)
        found.append([(shard.name, shard.rows, shard.xxh3) for shard in output.close()])
    assert found[0] == found[1]
    assert len(found[0]) > 2


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_sizes_are_bounds_and_not_far_off(tmp_path: Path, kind: str) -> None:
    """What is counted for rows and file is at least the file's size, and less than a tenth more for rows of some kB."""
    made = batch([5000 + i for i in range(100)])
    output = Output(tmp_path, "p", SCHEMA, format=kind, shard_bytes=10**9)
    output.write(made, 0)
    (shard,) = output.close()
    counted = int(file_bytes(made, SCHEMA, kind).sum()) + overhead_bytes(SCHEMA, kind)
    assert shard.bytes <= counted < shard.bytes * 1.15


def test_splits_grow_side_by_side(tmp_path: Path) -> None:
    """Rows of three splits land in files of their own, numbered a split, whatever their order; close returns them by split and number."""
    output = Output(tmp_path, "p", SCHEMA, format="arrow", shard_bytes=40_000)
    for number in range(30):
        output.write(batch([4000], number), (2, 0, 1)[number % 3])
    staged = output.close()
    assert [shard.split for shard in staged] == sorted(shard.split for shard in staged)
    for split, remainder in ((2, 0), (0, 1), (1, 2)):
        mine = [shard for shard in staged if shard.split == split]
        assert [shard.name for shard in mine] == [f"p-{split:03d}-{number:05d}.arrow" for number in range(len(mine))]
        assert [number for shard in mine for number in rows_in(tmp_path, shard, "arrow")] == list(range(remainder, 30, 3))


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_abort_leaves_finished_shards_only(tmp_path: Path, kind: str) -> None:
    """An abort in mid-shard removes what grows; what was finished keeps its name, and doing the part again replaces it."""
    output = Output(tmp_path, "p", SCHEMA, format=kind, shard_bytes=30_000)
    output.write(batch([5000] * 12), 0)
    output.abort()
    output.abort()
    before = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in before if ".tmp" in name]
    again = Output(tmp_path, "p", SCHEMA, format=kind, shard_bytes=30_000)
    again.write(batch([5000] * 12), 0)
    staged = again.close()
    assert before <= {path.name for path in tmp_path.iterdir()}
    assert sum(shard.rows for shard in staged) == 12


def test_leftover_of_a_dead_process_with_our_number_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a process of the same number left is replaced."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / "p-000-00000.7.tmp").write_bytes(b"old")
    output = Output(tmp_path, "p", SCHEMA, format="arrow", shard_bytes=10**6)
    output.write(batch([1]), 0)
    assert [shard.rows for shard in output.close()] == [1]


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=50))
def test_rows_of_each_split_stay_in_order(splits: list[int]) -> None:
    """Every row of a split is named once, in order; those of none are not."""
    found = dict(by_split(np.array(splits), 4))
    assert set(found) == {split for split in splits if split >= 0}
    for split, rows in found.items():
        assert rows.tolist() == [number for number, of in enumerate(splits) if of == split]


def test_text_and_bytes_count_alike(tmp_path: Path) -> None:
    """Each ragged value counts with its own length: the longest row is the largest."""
    (made,) = canonical(pa.record_batch([pa.array(["", "é" * 50, "x" * 3000])], ["t"]), {"t": Text()})
    for kind in ("arrow", "tar"):
        sizes = file_bytes(made, {"t": Text()}, kind)
        assert sizes.tolist() == sorted(sizes.tolist())
        assert sizes[2] > 3000


@pytest.mark.parametrize("limit", [1, 6_000, 10**6])
def test_rows_that_a_tar_refuses_are_told_and_the_others_written(tmp_path: Path, limit: int) -> None:
    """Wherever shards end, each refused row is named by its place and its reason, the rows around it are written, and no shard is empty."""
    schema = {"__key__": Text(), "n": Scalar("int64")}
    keys = ["a.b", "k1", "k2", "c.d", "e.f", "k3", "g.h"]
    (made,) = canonical(pa.record_batch([pa.array(keys), pa.array(range(len(keys)))], list(schema)), schema)
    output = Output(tmp_path, "p", schema, format="tar", shard_bytes=limit)
    for given_, rows in ((made, [0, 3, 4, 6]), (made.slice(3, 2), [0, 1])):
        refused = output.write(given_, 0)
        assert [(row, field) for row, field, _ in refused] == [(row, "__key__") for row in rows]
        assert all("cannot name files" in reason for *_, reason in refused)
    staged = output.close()
    assert sum(shard.rows for shard in staged) == 3
    assert min(shard.rows for shard in staged) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name for shard in staged for name in (shard.name, f"{shard.name}.idx"))


def test_part_whose_rows_are_all_refused_leaves_no_shard(tmp_path: Path) -> None:
    """A tar that nothing was written to is no shard, and its file is gone."""
    schema = {"__key__": Text(), "n": Scalar("int64")}
    (made,) = canonical(pa.record_batch([pa.array(["a.b"]), pa.array([1])], list(schema)), schema)
    output = Output(tmp_path, "p", schema, format="tar", shard_bytes=10**6)
    assert len(output.write(made, 0)) == 1
    assert output.close() == []
    assert not list(tmp_path.iterdir())
