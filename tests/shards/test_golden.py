"""Golden bytes: the format does not change unnoticed, and what was written long ago is read."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contracts.shard_formats import same

from penstock.shards import commits
from penstock.shards.dataset import Dataset
from penstock.shards.manifest import Commit

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def make() -> Any:
    """Return the module that makes the golden files."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_commit_has_the_golden_bytes(tmp_path: Path, make: Any) -> None:
    """The golden commit is what is written today, and reads as what it was."""
    made = make.commit(make.write_arrow(tmp_path / "golden.arrow"))
    data = (GOLDEN / "commit.json").read_bytes()
    assert Commit.from_json(data).schema == made.schema
    assert Commit.from_json(data).to_json() == data
    if pa.__version__.split(".")[0] == "26":  # the shard's hash stands in the commit
        assert made.to_json() == data


def test_an_arrow_shard_has_the_golden_bytes(tmp_path: Path, make: Any) -> None:
    """With the Arrow library that wrote it, the golden shard is what is written today, byte for byte."""
    if pa.__version__.split(".")[0] != "26":  # another major version may lay out its messages anew; the values are compared below
        return
    make.write_arrow(tmp_path / "golden.arrow")
    assert (tmp_path / "golden.arrow").read_bytes() == (GOLDEN / "golden.arrow").read_bytes()


def test_a_dataset_of_long_ago_is_read(tmp_path: Path, make: Any) -> None:
    """The golden shard under a commit gives every golden row, and each block has its checksum."""
    shard = Commit.from_json((GOLDEN / "commit.json").read_bytes()).added[0]
    (tmp_path / "data").mkdir()
    shutil.copy(GOLDEN / "golden.arrow", tmp_path / shard.path)
    commits.commit(tmp_path, operation="create", schema=make.SCHEMA, added=[shard])
    with Dataset(tmp_path) as ds:
        for row, expected in zip(ds, make.ROWS, strict=True):
            assert all(same(row[name], expected[name]) for name in make.SCHEMA)
        reader: Any = ds.reader(0)
        assert reader.block_starts.tolist() == [0, 4, 7]
        for number in range(2):
            reader.check(number)
