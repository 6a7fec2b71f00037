"""Watching workers: where a stuck one stands, one deadline a batch, and the end of those that hold the interpreter's lock."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from contracts.loaders import assert_same, plain
from inside import stored_of

import penstock as ps
from penstock.loaders import fill
from penstock.loaders.gather import Gather


def test_a_stuck_worker_tells_where_it_stands(small: ps.Dataset) -> None:
    """The error of a timeout carries the traceback of the worker that is late."""

    def stand_still(sample: dict[str, Any]) -> dict[str, Any]:
        time.sleep(60 if sample["n"] > 3 else 0)
        return {"n": sample["n"]}

    batches = iter(ps.DataLoader(small, batch_size=4, num_workers=1, timeout=6, map=stand_still))
    next(batches)
    with pytest.raises(ps.WorkerFailed, match="stage 'map'") as caught:
        next(batches)
    assert "in stand_still" in caught.value.traceback


def test_the_timeout_is_of_a_batch_and_not_of_an_answer(small: ps.Dataset) -> None:
    """Answers of other batches do not prolong the wait for the one that is due."""

    def slow(sample: dict[str, Any]) -> dict[str, Any]:
        time.sleep(60 if sample["n"] == 4 else 0.4)
        return {"n": sample["n"]}

    batches = iter(ps.DataLoader(small, batch_size=1, num_workers=2, prefetch_factor=8, timeout=5, map=slow))
    assert [int(next(batches)["n"]) for _ in range(4)] == [0, 1, 2, 3]
    began = time.monotonic()
    with pytest.raises(ps.WorkerFailed, match="timed out after 5 seconds"):
        next(batches)
    assert time.monotonic() - began < 9


def test_a_worker_in_foreign_code_dies_with_its_parent(rows: ps.Dataset) -> None:
    """A worker inside C code that keeps the interpreter's lock for a minute ends within 5 s of its parent's SIGKILL."""
    code = """
    import ctypes, sys, threading
    import penstock as ps
    loader = ps.DataLoader(ps.Dataset(sys.argv[1]), batch_size=5, num_workers=2, map=lambda s: (s["label"] and ctypes.PyDLL(None).sleep(60), {"n": 1})[1])
    threading.Timer(2.0, lambda: print("going", flush=True)).start()
    next(iter(loader))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), rows.path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_bad_data_from_a_worker_carries_its_traceback(small: ps.Dataset) -> None:
    """An error that a worker raised tells where in the worker that was."""
    with pytest.raises(ps.BadData) as caught:
        list(ps.DataLoader(small, batch_size=4, num_workers=1, map=lambda s: {"n": np.zeros(1 + (s["n"] == 9))}))
    assert "Traceback" in caught.value.worker_traceback


@pytest.mark.parametrize("num_workers", [0, 1])
def test_compressed_files_are_read_and_not_kept(tmp_path: Path, num_workers: int) -> None:
    """A foreign LZ4 file gives the rows of a plain one, and its decompressed blocks are not held for ever."""
    table = pa.table({"n": pa.array(np.arange(5000)), "x": pa.array(np.random.default_rng(0).random(5000))})
    paths = []
    for compression in ("lz4", None):
        (tmp_path / str(compression)).mkdir()
        path = tmp_path / str(compression) / "a.arrow"
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table, max_chunksize=500)
        paths.append(path)
    made = [[plain(b) for b in ps.DataLoader(ps.Dataset(p), batch_size=64, shuffle=True, num_workers=num_workers)] for p in paths]
    assert_same(made[0], made[1], "compressed")
    loader = ps.DataLoader(ps.Dataset(paths[0]), batch_size=64, shuffle=True)
    filler = fill.Filler(stored_of(loader).work)
    assert isinstance(filler._gather, Gather)
    assert not filler._gather._open(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 10_000}, "num_workers=10000"),
        ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor=0"),
        ({"pin_memory_device": "xpu"}, "pin_memory_device='xpu'"),
    ],
)
def test_spreads_that_cannot_work_are_refused(small: ps.Dataset, options: dict[str, Any], message: str) -> None:
    """More workers than a loader can watch, no batch ahead, and another device are refused by name."""
    with pytest.raises(ps.BadRequest, match=message):
        ps.DataLoader(small, batch_size=2, **options)
