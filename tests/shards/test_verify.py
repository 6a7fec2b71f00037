"""Verifying names the first bad shard and row, for every format, and finds nothing in what is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.shard_formats import MIXED, Rows, mixed, write_shard
from contracts.tars import npy, pairs, write_tar

from penstock.errors import BadRequest, NotADataset
from penstock.shards import commits
from penstock.shards.adopt import adopt
from penstock.shards.dataset import Dataset
from penstock.shards.tarindex import TarIndex, from_bytes, to_bytes
from penstock.shards.tarnames import Facts
from penstock.shards.tarscan import members
from penstock.shards.verify import Problem, verify


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def dataset(root: Path, kind: str, rows: Rows) -> list[str]:
    """Publish two shards of half the rows each, in blocks of about ten rows, and return their paths."""
    half = len(rows) // 2
    (root / "data").mkdir()
    shards = [
        write_shard(root / "data" / f"part-{1:020d}-{n:05d}-x.{kind}", kind, MIXED, part, block_bytes=600)
        for n, part in enumerate((rows[:half], rows[half:]))
    ]
    shards = [type(shard)(**{**shard.to_json(), "path": f"data/{shard.path}"}) for shard in shards]
    commits.commit(root, operation="create", schema=MIXED, added=shards)
    return [shard.path for shard in shards]


def found(root: Path | str) -> list[Problem]:
    """Return all problems."""
    return list(verify(str(root)))


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file, keeping its time as an attacker or a bad disk would."""
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_nothing_is_found_in_what_is_whole(tmp_path: Path, kind: str) -> None:
    """A dataset as it was written has no problem, at its newest version and at a named one."""
    dataset(tmp_path, kind, mixed(60))
    assert found(tmp_path) == []
    assert list(verify(str(tmp_path), 1)) == []


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_a_flipped_bit_is_found(tmp_path: Path, kind: str) -> None:
    """The shard and the row are named, the row counted in the shard and in the dataset, and of an Arrow shard the column."""
    rows = mixed(60)
    rows[41]["raw"] = b"FIND-ME"
    paths = dataset(tmp_path, kind, rows)
    path = tmp_path / paths[1]
    flip(path, path.read_bytes().index(b"FIND-ME") + 3)
    (problem,) = found(tmp_path)
    assert (problem.shard, problem.row, problem.dataset_row) == (paths[1], 41 - 30, 41)
    assert problem.field == ("raw" if kind == "arrow" else None)
    assert "checksum" in problem.reason


def test_a_change_outside_the_blocks_is_found(tmp_path: Path) -> None:
    """A bit that belongs to no row is noticed by the file's checksum and named without a row."""
    (path, _) = dataset(tmp_path, "tar", mixed(20))
    flip(tmp_path / path, (tmp_path / path).stat().st_size - 1)
    (problem,) = found(tmp_path)
    assert (problem.shard, problem.row) == (path, None)
    assert "restore" in problem.reason


@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_cut_and_missing_shards_are_found(tmp_path: Path, kind: str) -> None:
    """Each shard is judged by itself: one cut, one gone, both named."""
    paths = dataset(tmp_path, kind, mixed(20))
    whole = (tmp_path / paths[0]).read_bytes()
    (tmp_path / paths[0]).write_bytes(whole[:-7])
    (tmp_path / paths[1]).unlink()
    problems = found(tmp_path)
    assert [problem.shard for problem in problems] == paths
    assert "bytes" in problems[0].reason
    assert "does not exist" in problems[1].reason


def test_a_damaged_index_is_found(tmp_path: Path) -> None:
    """The index beside a tar of ours is part of the dataset."""
    (path, _) = dataset(tmp_path, "tar", mixed(20))
    flip(tmp_path / f"{path}.idx", 20)
    (tmp_path / f"{path}.idx").write_bytes(b"garbage")
    (problem,) = found(tmp_path)
    assert problem.shard == path
    assert "delete the index" in problem.reason


def test_a_shard_that_leaves_the_dataset_is_found(tmp_path: Path) -> None:
    """A symbolic link out of the dataset is refused, not followed."""
    root = tmp_path / "set"
    root.mkdir()
    (path, _) = dataset(root, "arrow", mixed(20))
    (root / path).rename(tmp_path / "elsewhere.arrow")
    (root / path).symlink_to(tmp_path / "elsewhere.arrow")
    (problem,) = found(root)
    assert problem.shard == path
    assert "outside the dataset" in problem.reason


@pytest.mark.parametrize(
    ("entries", "row", "field"),
    [
        ([("0.cls", b"1"), ("1.cls", b"cat")], 1, "cls"),
        ([("0.txt", b"1"), ("1.txt", b"2"), ("2.txt", b"\xff")], 2, "txt"),
        ([("0.json", b"{}"), ("1.json", b"{")], 1, "json"),
    ],
)
def test_bad_values_of_foreign_tars_are_found(tmp_path: Path, entries: list[tuple[str, bytes]], row: int, field: str) -> None:
    """Without checksums, numbers, texts and documents are still looked at."""
    write_tar(tmp_path / "a.tar", entries)
    (problem,) = found(tmp_path)
    assert (problem.shard, problem.row, problem.field) == ("a.tar", row, field)


def test_a_tar_that_cannot_be_adopted_is_a_problem(tmp_path: Path) -> None:
    """A cut foreign tar, and an array that lies, are findings and not failures of the tool."""
    path = write_tar(tmp_path / "a.tar", pairs(3))
    path.write_bytes(path.read_bytes()[:3000])
    (problem,) = found(tmp_path)
    assert problem.shard == "a.tar"
    assert "cut short" in problem.reason
    write_tar(path, [("0.npy", npy(np.zeros(3))[:-1])])
    (problem,) = found(tmp_path)
    assert problem.field == "npy"


def test_an_adopted_tar_names_the_row_of_a_flipped_bit(tmp_path: Path) -> None:
    """Publishing foreign tars takes checksums of samples, so damage after it has a row."""
    path = write_tar(tmp_path / "a.tar", pairs(30))
    adopt(str(tmp_path), hash=True, publish=True)
    at = next(m for m in members(path.read_bytes()) if m.name == "000017.jpg").start + 9
    stat = path.stat()
    flip(path, at)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (problem,) = found(tmp_path)
    assert (problem.shard, problem.row) == ("a.tar", 17)


def _parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True)


def test_a_flipped_bit_in_parquet_is_found(tmp_path: Path) -> None:
    """Parquet's own page checksums name the row group, also without checksums of ours."""
    _parquet(tmp_path / "a.parquet", pa.table({"t": [f"row number {i}" for i in range(30)]}))
    path = tmp_path / "a.parquet"
    assert found(tmp_path) == []
    flip(path, path.read_bytes().index(b"row number 15") + 2)
    (problem,) = found(path)
    assert (problem.shard, problem.row) == ("a.parquet", 10)


def test_text_that_is_no_text_is_found(tmp_path: Path) -> None:
    """Foreign Arrow and Parquet strings are checked to be UTF-8."""
    good = pa.array([b"abc", b"d\xffe"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 2, good.buffers())
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema([("t", pa.string())])) as writer:
        writer.write_batch(pa.record_batch({"t": bad}))
    (problem,) = found(tmp_path)
    assert problem.shard == "a.arrow"
    assert "UTF" in problem.reason.upper()


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    """A missing folder, a missing version, and a version of foreign files are the caller's errors."""
    with pytest.raises(NotADataset):
        found(tmp_path / "gone")
    write_tar(tmp_path / "a.tar", pairs(3))
    with pytest.raises(BadRequest, match="no versions"):
        list(verify(str(tmp_path), 1))
    adopt(str(tmp_path), hash=True, publish=True)
    with pytest.raises(BadRequest, match="version 7"):
        list(verify(str(tmp_path), 7))


def test_a_problem_is_a_value() -> None:
    """Problems compare by what they say, so reports can be compared."""
    values: dict[str, Any] = {"shard": "a", "row": 1, "field": None, "reason": "r"}
    assert Problem(**values) == Problem(**values)


def test_an_index_that_is_whole_and_wrong_is_found(tmp_path: Path) -> None:
    """An index whose own checksum fits is still compared with the tar: a length, a key or a column that it makes up is named."""
    paths = dataset(tmp_path, "tar", mixed(60))
    place = tmp_path / f"{paths[1]}.idx"
    index = from_bytes(np.fromfile(place, np.uint8))
    name = next(name for name in index.facts if index.sizes[name][7] > 1)
    sizes = index.sizes[name].copy()
    sizes[7] -= 1
    keys = pa.array([*index.keys.to_pylist()[:-1], "other"])
    facts = {**index.facts, name: Facts(group="bytes")}
    for change, row in ({"sizes": {**index.sizes, name: sizes}}, 7), ({"keys": keys}, 29), ({"facts": facts}, None):
        place.write_bytes(to_bytes(TarIndex(**{**vars(index), "hashes": None, **change})))
        (problem, *_) = found(tmp_path)
        assert (problem.shard, problem.row) == (paths[1], row)
        assert "delete the index" in problem.reason or "stored as bytes" in problem.reason
    place.write_bytes(to_bytes(index))
    assert found(tmp_path) == []


@pytest.mark.parametrize("step", [1, 5])
def test_no_flipped_bit_of_an_index_passes_with_other_rows(tmp_path: Path, step: int) -> None:
    """Wherever a bit of the index flips, verifying says so or every row is what it was."""
    (shard, _) = dataset(tmp_path, "tar", mixed(4))
    place = tmp_path / f"{shard}.idx"
    whole = place.read_bytes()
    with Dataset(tmp_path) as ds:
        good = repr(list(ds))
    for at in range(step, len(whole), 97):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        if not found(tmp_path):
            with Dataset(tmp_path) as ds:
                assert repr(list(ds)) == good
