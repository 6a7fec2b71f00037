"""`penstock verify` names what is damaged and leaves with 1; `penstock index` adopts foreign shards without touching them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import penstock as ps
from penstock.cli.app import app


def run(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def write(path: Path, rows: int = 800, shard_format: str = "arrow") -> list[Path]:
    """Write a dataset of several shards and return their files in order."""
    fields = {"x": ps.Array((16,), "float32"), "text": ps.Text()}
    with ps.Writer(path, fields, format=shard_format, shard_size=10_000) as writer:
        for number in range(rows):
            writer.write({"x": np.full(16, number, np.float32), "text": f"row {number}"})
    return [path / shard.path for shard in ps.Dataset(path).manifest.shards]


def flip(file: Path, place: int) -> None:
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_a_whole_dataset_is_verified(tmp_path: Path, shard_format: str) -> None:
    """When every byte is as written the exit code is 0 and the rows are counted."""
    files = write(tmp_path / "ds", shard_format=shard_format)
    told = run("verify", tmp_path / "ds")
    assert told.exit_code == 0, told.stderr
    assert f"version 1: 800 rows in {len(files)} shards, " in told.stdout
    found = json.loads(run("verify", tmp_path / "ds", "--json").stdout)
    assert (found["ok"], found["version"]) == (True, 1)


@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_a_flipped_byte_is_named(tmp_path: Path, shard_format: str) -> None:
    """One changed byte of a value in the third shard: exit code 1, and that shard and that row of it, and of the dataset, are named."""
    files = write(tmp_path / "ds", shard_format=shard_format)
    start = int(ps.Dataset(tmp_path / "ds").manifest.starts[2])
    row = start + 1
    flip(files[2], files[2].read_bytes().index(f"row {row}".encode()) + 1)
    told = run("verify", tmp_path / "ds")
    assert told.exit_code == 1
    field = ", field text: " if shard_format == "arrow" else ": "
    assert f"shard data/{files[2].name}, row 1 (row {row} of the dataset){field}" in told.stderr
    assert "Traceback" not in told.stderr
    (found,) = json.loads(run("verify", tmp_path / "ds", "--json").stdout)["problems"]
    assert (found["shard"], found["row"], found["dataset_row"]) == (f"data/{files[2].name}", 1, row)
    assert found["field"] == ("text" if shard_format == "arrow" else None)


def test_all_problems_are_listed_when_asked(tmp_path: Path) -> None:
    """The first problem is enough for the exit code; `--all` goes on to the others."""
    files = write(tmp_path / "ds")
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[3].unlink()
    short, whole = run("verify", tmp_path / "ds"), run("verify", tmp_path / "ds", "--all")
    assert (short.exit_code, whole.exit_code) == (1, 1)
    assert [files[n].name in short.stderr for n in (1, 3)] == [True, False]
    assert [files[n].name in whole.stderr for n in (1, 3)] == [True, True]


def test_an_older_version_is_verified_by_itself(tmp_path: Path) -> None:
    """Damage in a shard that a version does not have is no damage of that version."""
    first = write(tmp_path / "ds")
    with ps.Writer(tmp_path / "ds", mode="append") as writer:
        writer.write({"x": np.zeros(16, np.float32), "text": "late"})
    (late,) = {tmp_path / "ds" / shard.path for shard in ps.Dataset(tmp_path / "ds").manifest.shards} - set(first)
    late.unlink()
    assert run("verify", tmp_path / "ds", "--version", 1).exit_code == 0
    assert run("verify", tmp_path / "ds").exit_code == 1


def foreign(folder: Path, files: int = 2) -> list[Path]:
    """Write Parquet files as another program would."""
    folder.mkdir()
    paths = [folder / f"part-{number}.parquet" for number in range(files)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"n": pa.array(range(number * 10, number * 10 + 10)), "name": [str(k) for k in range(10)]}), path)
    return paths


def test_index_adopts_in_place(tmp_path: Path) -> None:
    """The files stay as they were, and the dataset in their folder has their rows, checksums and columns."""
    paths = foreign(tmp_path / "foreign")
    before = [path.read_bytes() for path in paths]
    told = run("index", tmp_path / "foreign" / "part-{0..1}.parquet")
    assert told.exit_code == 0, told.stderr
    assert "version 1, 20 rows, " in told.stdout
    assert "columns n (scalar), name (text)" in told.stdout
    assert [path.read_bytes() for path in paths] == before
    dataset = ps.Dataset(tmp_path / "foreign")
    assert dataset[13] == {"n": 13, "name": "3"}
    assert all(shard.xxh3 for shard in dataset.manifest.shards)
    assert run("verify", tmp_path / "foreign").exit_code == 0


def test_index_twice_needs_append(tmp_path: Path) -> None:
    """A dataset that is there is not touched unasked; with `--append` files that are new are added to it."""
    foreign(tmp_path / "foreign")
    assert run("index", tmp_path / "foreign").exit_code == 0
    again = run("index", tmp_path / "foreign")
    assert again.exit_code == 1
    assert "--append" in again.stderr
    pq.write_table(pa.table({"n": pa.array([99]), "name": ["new"]}), tmp_path / "foreign" / "part-2.parquet")
    told = json.loads(run("index", tmp_path / "foreign", "--append", "--json").stdout)
    assert (told["version"], told["rows"], told["shards"]) == (2, 21, 3)


def test_index_keeps_the_columns_asked_for(tmp_path: Path) -> None:
    """With `--columns` the others are left out, also one whose type has no field."""
    (tmp_path / "foreign").mkdir()
    table = pa.table({"n": [1, 2], "when": pa.array([0, 1], pa.timestamp("s"))})
    pq.write_table(table, tmp_path / "foreign" / "a.parquet")
    refused = run("index", tmp_path / "foreign")
    assert refused.exit_code == 1
    assert "field when" in refused.stderr
    assert json.loads(run("index", tmp_path / "foreign", "--columns", "n", "--json").stdout)["fields"] == {"n": {"kind": "scalar", "dtype": "int64"}}


def test_index_of_nothing_is_refused(tmp_path: Path) -> None:
    """An empty folder and a name that matches nothing are refused by name, with exit code 1."""
    for source in (tmp_path, tmp_path / "no-{0..3}.tar"):
        told = run("index", source)
        assert told.exit_code == 1
        assert str(source).split("{", maxsplit=1)[0] in told.stderr
