"""Dataset over files that others wrote: opened directly, without a version, and refused clearly where there is nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.tars import JPEG, tar_bytes

from penstock.errors import BadRequest, NotADataset
from penstock.fields import Scalar
from penstock.shards.dataset import Dataset
from penstock.shards.writer import Writer


def _fill(folder: Path) -> None:
    folder.mkdir()
    for part in range(3):
        table = pa.table({"n": [part * 10 + i for i in range(4)], "t": [f"{part}-{i}" for i in range(4)]})
        with pa.ipc.new_file(str(folder / f"p-{part}.arrow"), table.schema) as file:
            file.write_table(table, max_chunksize=3)
        pq.write_table(table, folder / f"q-{part}.parquet", row_group_size=3)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_pattern_a_file_and_a_folder_are_datasets(tmp_path: Path, kind: str) -> None:
    """Rows come in the order of the files, indices cross from one to the next, and the second opening gives the same."""
    _fill(tmp_path / "f")
    letter = {"arrow": "p", "parquet": "q"}[kind]
    for _ in range(2):
        with Dataset(f"{tmp_path}/f/{letter}-{{0..2}}.{kind}") as ds:
            assert (len(ds), ds.version) == (12, 0)
            assert [row["n"] for row in ds] == [part * 10 + i for part in range(3) for i in range(4)]
            assert [row["t"] for row in ds[[11, 0, -5]]] == ["2-3", "0-0", "1-3"]
            copy = pickle.loads(pickle.dumps(ds))
            assert copy.digest == ds.digest
            copy.close()
    with Dataset(tmp_path / "f" / f"{letter}-1.{kind}", columns=["n"]) as one:
        assert list(one) == [{"n": n} for n in (10, 11, 12, 13)]


def test_a_tar_is_a_dataset(tmp_path: Path) -> None:
    """A WebDataset tar needs no conversion."""
    (tmp_path / "a.tar").write_bytes(tar_bytes([("0.jpg", JPEG), ("0.cls", b"3"), ("1.jpg", JPEG), ("1.cls", b"4")]))
    with Dataset(tmp_path / "a.tar") as ds:
        assert set(ds.fields) == {"jpg", "cls"}
        assert ds.fields["cls"] == Scalar("int64")
        assert [row["cls"] for row in ds] == [3, 4]


def test_foreign_files_have_no_versions(tmp_path: Path) -> None:
    """Asking for one names the command that makes one."""
    _fill(tmp_path / "f")
    with pytest.raises(BadRequest, match="penstock index"):
        Dataset(tmp_path / "f" / "p-0.arrow", version=1)


@pytest.mark.parametrize("name", ["missing", "missing-{0..3}.tar", "missing.arrow"])
def test_nothing_to_read_is_told(tmp_path: Path, name: str) -> None:
    """A path without files is no dataset, and the message has the path."""
    with pytest.raises(NotADataset, match="missing"):
        Dataset(tmp_path / name)


def test_a_symbolic_link_that_the_user_named_is_followed(tmp_path: Path) -> None:
    """A cache of links to blobs, as the Hugging Face hub keeps, can be opened."""
    _fill(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "train.arrow").symlink_to(tmp_path / "blobs" / "p-0.arrow")
    with Dataset(tmp_path / "snapshot" / "train.arrow") as ds:
        assert [row["n"] for row in ds] == [0, 1, 2, 3]


@pytest.mark.parametrize("source", ["f", "f/p-{0..2}.arrow", "./x/../f/p-1.arrow", "ours"])
def test_a_pickled_dataset_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A worker may start elsewhere, and the user may have changed folder before it did: what travels is the absolute path or pattern."""
    _fill(tmp_path / "f")
    for path in (tmp_path / "f").glob("*.parquet"):
        path.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Writer("ours", {"n": Scalar()}) as writer:
        writer.write({"n": 1})
    ds = Dataset(source)
    assert ds.path == source
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy = pickle.loads(pickle.dumps(ds))
    assert copy.digest == ds.digest
    assert copy[0] == ds[0]
    assert pickle.loads(pickle.dumps(copy)).path == copy.path


def test_a_file_rewritten_with_equal_size_and_rows_has_another_digest(tmp_path: Path) -> None:
    """Unhashed files are told apart by their times, so that a resume against other rows is refused; the same files keep their digest."""
    _fill(tmp_path / "f")
    file = tmp_path / "f" / "p-1.arrow"
    first = Dataset(tmp_path / "f" / "p-{0..2}.arrow").digest
    assert Dataset(tmp_path / "f" / "p-{0..2}.arrow").digest == first
    before = file.stat()
    table = pa.table({"n": [50, 51, 52, 53], "t": [f"1-{i}" for i in range(4)]})
    with pa.ipc.new_file(str(file), table.schema) as sink:
        sink.write_table(table, max_chunksize=3)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file.stat().st_size == before.st_size
    with Dataset(tmp_path / "f" / "p-{0..2}.arrow") as ds:
        assert ds[4]["n"] == 50
        assert ds.digest != first
