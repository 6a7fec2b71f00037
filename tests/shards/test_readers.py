"""The open readers of a dataset: thousands stay without a descriptor, what is decoded is bounded in bytes, and none is closed under its user."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.fields import Bytes, Scalar
from penstock.shards import arrow, formats, readers
from penstock.shards.columns import Column
from penstock.shards.dataset import Dataset
from penstock.shards.reader import ShardReader
from penstock.shards.readers import OpenReaders
from penstock.shards.writer import Writer


class Fake(ShardReader):
    """A reader that holds what it is told to."""

    def __init__(self, held: int, *, mapped: bool = False) -> None:
        """Hold that many bytes."""
        self.held_bytes = held
        self.mapped = mapped
        self.closed = False

    def block(self, number: int) -> dict[str, Column]:
        """Never asked."""
        raise NotImplementedError

    def check(self, number: int) -> None:
        """Never asked."""

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def many(root: Path, shards: int) -> Dataset:
    """Return a dataset of that many shards of two rows."""
    with Writer(root, {"b": Bytes(), "n": Scalar()}, shard_size=40) as writer:
        for number in range(2 * shards):
            writer.write({"b": b"%020d" % number, "n": number})
    made = Dataset(root)
    assert len(made.manifest.shards) == shards
    return made


def test_many_shards_are_opened_once_and_hold_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shuffle over 300 shards opens 300 files, not one for nearly every row, and leaves no descriptor open."""
    opened: list[Path] = []
    real = formats.map_file  # type: ignore[attr-defined]
    monkeypatch.setattr(formats, "map_file", lambda path: opened.append(path) or real(path))  # type: ignore[func-returns-value, redundant-expr]
    ds = many(tmp_path / "ds", 300)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for row in np.random.default_rng(0).permutation(600).tolist() * 2:
        assert ds[row]["n"] == row
    assert len(opened) == 300
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    ds.close()


def test_a_dropped_dataset_lets_go_of_its_maps(tmp_path: Path) -> None:
    """Without close, and without the garbage collector: nothing refers in a circle."""
    ds = many(tmp_path / "ds", 3)
    rows = [ds.reader(0).block(0)["b"].row(0), ds[3]]
    shard = str(tmp_path / "ds" / ds.manifest.shards[1].path)
    assert shard in Path("/proc/self/maps").read_text()
    gc.disable()
    try:
        del ds
        assert shard not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
    assert bytes(rows[0]) == b"%020d" % 0  # type: ignore[call-overload]


def test_the_oldest_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, not closed: it lives as long as somebody has it."""
    monkeypatch.setattr(readers, "MOST_OPEN", 2)
    found = OpenReaders(lambda _: Fake(0, mapped=True))
    first: Any = found.get(0)
    second = weakref.ref(found.get(1))
    assert found.get(0) is first
    found.get(2)
    assert second() is None
    found.get(3)
    assert len(found) == 2
    assert not first.closed  # type: ignore[attr-defined]
    assert found.get(0) is not first


def test_decoded_bytes_are_bounded_apart_from_mapped_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that decode go, oldest first, when they hold too much together, also when they grow after they were opened; mapped ones stay."""
    monkeypatch.setattr(readers, "MOST_HELD_BYTES", 100)
    made: dict[int, Fake] = {}

    def opener(shard: int) -> Fake:
        made[shard] = Fake(0, mapped=shard < 10)
        return made[shard]

    found = OpenReaders(opener)
    for shard in (*range(10), 10, 11, 12, 13):
        found.get(shard)
    for shard in (10, 11):
        made[shard].held_bytes = 60
        found.get(shard)
    found.get(12)
    assert len(found) == 13
    assert found.get(11) is made[11]
    kept = made[10]
    assert found.get(10) is not kept
    found.clear()
    assert len(found) == 0
    assert found.get(10) is made[10]


def test_one_reader_that_holds_too_much_is_still_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in use is never the one that goes."""
    monkeypatch.setattr(readers, "MOST_HELD_BYTES", 100)
    found = OpenReaders(lambda _: Fake(1000))
    first = found.get(0)
    assert found.get(0) is first
    found.get(1)
    assert len(found) == 1


@pytest.mark.parametrize("kind", ["compressed", "parquet"])
def test_decoding_readers_say_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Blocks that are memory of their own are counted and bounded; blocks that are views are not."""
    table = pa.table({"n": np.arange(4000, dtype=np.int64)})
    path = tmp_path / ("x.parquet" if kind == "parquet" else "x.arrow")
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=1000)
        monkeypatch.setattr("penstock.shards.parquet.CACHE_BYTES", 20_000)
    else:
        with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_table(table, max_chunksize=1000)
        monkeypatch.setattr(arrow, "CACHE_BYTES", 20_000)
    ds = Dataset(path)
    assert [ds[row]["n"] for row in (0, 1000, 2000, 3000, 0)] == [0, 1000, 2000, 3000, 0]
    assert 0 < ds.reader(0).held_bytes <= 20_000
    assert not ds.reader(0).mapped
    assert many(tmp_path / "ours", 2).reader(0).held_bytes == 0


def test_threads_read_while_readers_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that one thread was given is not closed by another that needs room."""
    monkeypatch.setattr(readers, "MOST_OPEN", 2)
    ds = many(tmp_path / "ds", 20)

    def read(seed: int) -> list[int]:
        return [row for row in np.random.default_rng(seed).integers(0, 40, 300).tolist() if ds[row]["n"] != row]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [[]] * 4
