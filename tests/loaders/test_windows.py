"""The loader over windows of tokens: what the kernel copies is what the slow way gives, inline and by workers, at every resume."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts.loaders import assert_same, check_resumes_at_every_step, plain
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock import order
from penstock import transforms as T  # noqa: N812  (the name torchvision's users know)
from penstock.loaders.window_gather import WindowGather
from penstock.shards.ipc import PlainFile
from penstock.shards.storage import map_file


def dataset_of(path: Path, dtype: str = "uint16", kind: str = "arrow") -> ps.Dataset:
    """Return documents of differing lengths, none among them, in several shards and blocks."""
    rng = np.random.default_rng(0)
    with ps.Writer(path, fields={"t": ps.Tokens(dtype)}, shard_size="8KB", format=kind) as writer:
        for _ in range(400):
            writer.write({"t": rng.integers(0, 250, int(rng.exponential(60))).astype(dtype)})
    return ps.Dataset(path)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return one such dataset."""
    return dataset_of(tmp_path_factory.mktemp("documents") / "ds")


@pytest.mark.parametrize("changed", [5, -5])
def test_a_block_that_changed_is_refused(tmp_path: Path, changed: int) -> None:
    """A block that holds more or fewer tokens than were planned is named by the kernel's way as by the slow one, and nothing outside it is read."""
    dataset = dataset_of(tmp_path / "ds")
    windows = ps.TokenWindows(dataset, 100)
    windows.documents.firsts = windows.firsts.copy()
    windows.firsts[2:] += changed
    rows = np.arange(int(windows.firsts[2]) // 100)
    for way in (
        lambda: WindowGather(windows).into(rows, [np.empty((len(rows), 100), np.uint16)]),
        lambda: [windows.row(row) for row in rows.tolist()],
    ):
        with pytest.raises(ps.BadData, match=r"changed while it was read: \d+ tokens where \d+ were planned"):
            way()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.sampled_from([None, "int64", "int32", "uint64"]), st.data())
def test_the_kernel_is_the_slow_way(documents: ps.Dataset, seq_len: int, dtype: str | None, data: st.DataObject) -> None:
    """Windows of any length, in any order and in every dtype, also in those that no kernel is made for."""
    windows = ps.TokenWindows(documents, seq_len, dtype=dtype)
    rows = np.array(data.draw(st.lists(st.integers(0, len(windows) - 1), max_size=30)), np.int64)
    out = np.empty((len(rows), seq_len), windows.field.dtype)
    WindowGather(windows).into(rows, [out])
    for number, row in enumerate(rows.tolist()):
        assert np.array_equal(out[number], windows.row(row))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64", "int16"])
@pytest.mark.parametrize("kind", ["arrow", "tar"])
def test_every_stored_dtype(tmp_path: Path, dtype: str, kind: str) -> None:
    """Whatever tokens are stored as, and wherever, batches hold them."""
    windows = ps.TokenWindows(dataset_of(tmp_path / "ds", dtype, kind), 50, dtype="int64")
    found = [row for batch in ps.DataLoader(windows, batch_size=8, output="numpy") for row in batch["t"]]
    assert [row.tolist() for row in found] == [windows.row(number).tolist() for number in range(len(windows))]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_orders(documents: ps.Dataset, workers: int) -> None:
    """A shuffled epoch holds the windows that the order names, as int64 tensors."""
    windows = ps.TokenWindows(documents, 33, dtype="int64")
    loader = ps.DataLoader(windows, batch_size=8, shuffle=True, seed=3, num_workers=workers)
    found = torch.cat([batch["t"] for batch in loader])
    rows = order.rows_at(np.arange(len(windows)), n=len(windows), seed=3, epoch=0, shuffle=True)
    assert found.dtype == torch.int64
    assert found.numpy().tolist() == [windows.row(row).tolist() for row in rows.tolist()]


def test_it_resumes_at_every_step(documents: ps.Dataset) -> None:
    """A state saved after any batch goes on with the next, and is refused by windows of another length."""
    check_resumes_at_every_step(lambda: ps.DataLoader(ps.TokenWindows(documents, 700), batch_size=4, shuffle=True, output="numpy"))
    state = ps.DataLoader(ps.TokenWindows(documents, 700), batch_size=4).state_dict()
    with pytest.raises(ps.BadRequest, match="dataset_digest"):
        ps.DataLoader(ps.TokenWindows(documents, 701), batch_size=4).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_and_maps_see_windows(documents: ps.Dataset, workers: int) -> None:
    """Ops on whole batches, on single rows and a user's function get the window as an array."""
    windows = ps.TokenWindows(documents, 64)
    options: Any = {"batch_size": 8, "num_workers": workers, "output": "numpy"}
    plainly = [plain(batch) for batch in ps.DataLoader(windows, **options)]
    cast = [plain(batch) for batch in ps.DataLoader(windows, transforms={"t": [T.Cast("int64")]}, **options)]
    assert_same(cast, [{"t": batch["t"].astype(np.int64)} for batch in plainly], "cast")
    mapped = [plain(batch) for batch in ps.DataLoader(windows, map=lambda row: {"sum": row["t"].sum(dtype=np.int64)}, **options)]
    assert_same(mapped, [{"sum": batch["t"].sum(1, dtype=np.int64)} for batch in plainly], "map")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_block_is_named(tmp_path: Path, workers: int) -> None:
    """A block that is damaged after the windows were looked up raises with its shard, in place of its batch."""
    dataset = dataset_of(tmp_path / "ds")
    windows = ps.TokenWindows(dataset, 100)
    shard = tmp_path / "ds" / dataset.manifest.shards[-1].path
    message = PlainFile(map_file(shard))._places[0][0]
    data = bytearray(shard.read_bytes())
    data[message + 8 : message + 60] = b"\xff" * 52
    shard.write_bytes(data)
    again = pickle.loads(pickle.dumps(windows))
    seen: list[int] = []

    def consume() -> None:
        seen.extend(len(batch["t"]) for batch in ps.DataLoader(again, batch_size=4, num_workers=workers, output="numpy"))

    with pytest.raises(ps.BadData, match="record batch 0") as failed:
        consume()
    assert failed.value.shard == dataset.manifest.shards[-1].path
    assert sum(seen) * 100 <= int(windows.firsts[-2])
    assert len(seen) > 5
