"""Our shards are plain files: pyarrow, polars, DuckDB, datasets and webdataset read them without us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from contracts.interop import ROWS, SCHEMA, as_stored, plain, row, write_ours

from penstock.fields import Scalar

NAMES = {
    name: f"{name}.{ending}" for name, ending in zip(SCHEMA, ["jpg", "cls", "json", "json", "npy", "npy", "npy", "txt", "json", "bin"], strict=True)
}
EXPECTED = [as_stored(number) for number in range(ROWS)]


@pytest.fixture(scope="module")
def arrow(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return Arrow shards of ours, several of them."""
    shards = write_ours(tmp_path_factory.mktemp("arrow") / "set", "arrow", shard_size=8000)
    assert len(shards) > 1
    return shards


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return tar shards of ours, several of them."""
    shards = write_ours(tmp_path_factory.mktemp("tar") / "set", "tar", shard_size=8000)
    assert len(shards) > 1
    return shards


def test_pyarrow_reads_our_arrow(arrow: list[Path]) -> None:
    """A plain IPC file with pyarrow, and a folder of them as a pyarrow dataset, mapped and not copied."""
    found = []
    for path in arrow:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            before = pa.total_allocated_bytes()
            table = file.read_all()
            assert pa.total_allocated_bytes() - before < 1000
            found += table.to_pylist()
    assert found == EXPECTED
    assert pads.dataset(arrow, format="ipc").to_table().to_pylist() == EXPECTED


def test_polars_reads_our_arrow(arrow: list[Path]) -> None:
    """Polars reads all columns, eagerly and lazily."""
    import polars as pl

    found = pl.concat([pl.read_ipc(path) for path in arrow]).to_dicts()
    assert [{name: plain(value) for name, value in each.items()} for each in found] == EXPECTED
    total = pl.scan_ipc(arrow).select(pl.col("label").sum()).collect().item()
    assert total == sum(each["label"] for each in EXPECTED)


def test_polars_reads_halves(tmp_path: Path) -> None:
    """Polars knows float16, which DuckDB does not."""
    import polars as pl

    write_ours(tmp_path / "set", "arrow", {"weight": Scalar("float16")})
    (shard,) = (tmp_path / "set" / "data").glob("*.arrow")
    assert pl.read_ipc(shard)["weight"].to_list() == [plain(np.float16(number / 7)) for number in range(ROWS)]


def test_duckdb_reads_our_arrow(arrow: list[Path]) -> None:
    """DuckDB queries the mapped file through pyarrow, all columns and by SQL."""
    import duckdb

    shards = pads.dataset(arrow, format="ipc")
    connection = duckdb.connect()
    connection.register("shards", shards)
    counted = connection.sql("select label, count(*), sum(octet_length(image)) from shards where label > 0 group by label order by label").fetchall()
    images = [sum(len(each["image"]) for each in EXPECTED if each["label"] == label) for label in (1, 2)]
    assert counted == [(1, 10, images[0]), (2, 10, images[1])]
    relation = connection.sql("select * from shards order by weight")
    found = [dict(zip(relation.columns, each, strict=True)) for each in relation.fetchall()]
    assert [{name: plain(value) for name, value in each.items()} for each in found] == EXPECTED
    connection.close()


def test_datasets_reads_our_arrow(arrow: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF datasets loads the files with its own Arrow builder, and wraps a table of them without one."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset("arrow", data_files=[str(path) for path in arrow], cache_dir=str(tmp_path), split="train")
    assert [{name: plain(value) for name, value in each.items()} for each in loaded] == EXPECTED
    wrapped = datasets.Dataset(pads.dataset(arrow, format="ipc").to_table())
    assert plain(wrapped[7]["grid"]) == EXPECTED[7]["grid"]
    assert wrapped.cast_column("image", datasets.Image())[7]["image"].size == (8, 8)


PROGRAM = """
import json, sys
import numpy
import webdataset

def plain(value):
    if isinstance(value, numpy.ndarray):
        return value.tolist() if value.nbytes < 100 else list(value.shape)
    return value.hex() if isinstance(value, bytes) else value

samples = webdataset.WebDataset(sys.argv[2:], shardshuffle=False)
samples = samples.decode("rgb8") if sys.argv[1] == "decode" else samples
print(json.dumps([{name: plain(value) for name, value in sample.items()} for sample in samples]))
"""


def by_webdataset(how: str, tars: list[Path]) -> list[dict[str, Any]]:
    """Return the samples as webdataset reads them, in a process of its own, since it leaves its files open."""
    command = [sys.executable, "-c", PROGRAM, how, *map(str, tars)]
    told: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return told


def test_webdataset_reads_our_tars(tars: list[Path]) -> None:
    """Keys are nine digits, suffixes are field and extension, and each value is its encoded file."""
    found = by_webdataset("read", tars)
    assert len(found) == ROWS
    first = found[0]
    assert first["__key__"] == "000000000"
    assert first["image.jpg"] == row(0)["image"].hex()
    assert first["label.cls"] == b"0".hex()
    assert {name for name in first if not name.startswith("__")} == set(NAMES.values())


def test_webdataset_decodes_our_tars(tars: list[Path]) -> None:
    """Its own decoders give back the rows that were written."""
    for number, sample in enumerate(by_webdataset("decode", tars)):
        for name, value in row(number).items():
            expected = [8, 8, 3] if name == "image" else value.hex() if name == "raw" else plain(value)
            assert sample[NAMES[name]] == expected, name
