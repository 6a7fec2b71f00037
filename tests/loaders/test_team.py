"""The team's threads carry out every part of every job once, and the bytes are those that one thread makes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from blocks import Made
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import stored_of

import penstock as ps
from penstock.jit import Bound
from penstock.loaders import inline, team, team_kernel
from penstock.loaders.gather import Gather
from penstock.loaders.lookup import Lookup
from penstock.loaders.team import LEAST_BYTES, PARTS, Copying, Spread, Team
from penstock.loaders.window_gather import WindowGather


def begun(gather: Gather, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]) -> Copying:
    """Return rows that are being copied."""
    copying = gather.prepare(rows, [out])
    copying.begin()
    return copying


@settings(max_examples=25, deadline=None)
@given(blocks=st.integers(1, 40), unmapped=st.booleans(), rows=st.integers(PARTS, 700), seed=st.integers(0, 99), threads=st.integers(2, 5))
def test_several_threads_gather_what_one_does(blocks: int, unmapped: bool, rows: int, seed: int, threads: int) -> None:
    """Large batches come out bit for bit, also while blocks are opened on the way and where some may not be kept."""
    made = Made([(100, blocks), (60, 60), (40, 7)], (8192,), "uint8")
    made.unmapped = {1} if unmapped else set()
    gather = made.gather(threads)
    for batch in range(3):
        taken = np.random.default_rng([seed, batch]).integers(0, 200, rows)
        out = np.zeros((rows, 8192), np.uint8)
        gather.into(taken, [out])
        assert out.tobytes() == made.rows[taken].tobytes()


def test_several_threads_copy_windows_as_one_does(tmp_path: Path) -> None:
    """A large batch of token windows is the same on three threads, with blocks opened on the way."""
    with ps.Writer(tmp_path / "t", {"tokens": ps.Tokens("uint16")}) as writer:
        for length in np.random.default_rng(0).integers(1, 5000, 400).tolist():
            writer.write({"tokens": np.random.default_rng(length).integers(0, 9999, length).astype(np.uint16)})
    windows = ps.TokenWindows(ps.Dataset(tmp_path / "t"), 128, dtype="int64")
    gather = WindowGather(windows, threads=3)
    for seed in range(4):
        rows = np.random.default_rng(seed).integers(0, len(windows), 1000)
        out = np.zeros((1000, 128), np.int64)
        gather.into(rows, [out])
        assert out.tobytes() == np.stack([windows.row(int(row)) for row in rows]).tobytes()


def test_a_thousand_jobs_lose_and_double_nothing() -> None:
    """Job after job, at once and after pauses in which threads fall asleep, every row is copied into its place."""
    made = Made([(500, 50)], (2048,), "uint8")
    gather = made.gather(3)
    out = np.zeros((300, 2048), np.uint8)
    for job in range(1000):
        rows = np.random.default_rng(job).integers(0, 500, 300)
        out[:] = 0
        gather.into(rows, [out])
        assert (out[:, :8] == made.rows[rows, :8]).all()
        assert (out[:, -8:] == made.rows[rows, -8:]).all()
        if job % 100 == 0:
            time.sleep(0.005)


def test_small_batches_and_one_thread_are_left_to_the_caller() -> None:
    """Few bytes, fewer rows than parts, and a single thread start no thread and do nothing."""

    class Never:
        def arguments(self, *_numbers: int) -> bytes:
            return bytes(24)

        def entry(self) -> int:
            raise AssertionError("nothing is to be called")

    for threads, size, rows in ((2, LEAST_BYTES - 1, 1000), (2, LEAST_BYTES, PARTS - 1), (1, 1 << 30, 1000)):
        spread = Spread(lambda: cast("Bound", Never()), 3, threads)
        for _ in range(2):
            spread.prepare((), size, 0, rows)
            spread.begin()
            assert spread.left() == [(0, rows)]


def test_beginning_a_job_finishes_the_one_that_is_open() -> None:
    """What was begun by one gather is whole when another one has begun, and each is still told what was left of its own."""
    made = Made([(64, 8)], (16384,), "uint8")
    first, second = made.gather(2), made.gather(2)
    rows, outs = np.arange(64), [np.zeros((64, 16384), np.uint8) for _ in range(2)]
    for gather in (first, second):  # blocks are opened
        gather.into(rows, [np.zeros((64, 16384), np.uint8)])
    one, other = begun(first, rows, outs[0]), begun(second, rows, outs[1])
    assert outs[0].tobytes() == made.rows.tobytes()
    one.finish()
    other.finish()
    assert outs[1].tobytes() == made.rows.tobytes()


def test_memory_outlives_a_job_that_nobody_finishes() -> None:
    """What a job writes to is kept until the next one begins, however its owner went away."""
    made = Made([(64, 8)], (16384,), "uint8")
    rows, out = np.arange(64), np.zeros((64, 16384), np.uint8)
    gather = made.gather(2)
    gather.into(rows, [out.copy()])
    gone = weakref.ref(gather)
    begun(gather, rows, out)
    del gather
    assert gone() is not None
    made.gather(2).into(rows, [out.copy()])
    gc.collect()
    assert gone() is None


def test_without_threads_to_be_had_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a thread, batches are as they would be with it."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(team, "TEAM", Team())
    monkeypatch.setattr(threading.Thread, "start", refused)
    made = Made([(64, 8)], (16384,), "uint8")
    gather = made.gather(4)
    rows, out = np.arange(64), np.zeros((64, 16384), np.uint8)
    for _ in range(2):
        gather.into(rows, [out])
        assert out.tobytes() == made.rows.tobytes()


def test_a_fork_starts_a_team_of_its_own() -> None:
    """A process forked in the middle of a job finishes that one, copies other large batches too, and ends."""
    made = Made([(64, 8)], (16384,), "uint8")
    gather = made.gather(2)
    rows, out = np.arange(64), np.zeros((64, 16384), np.uint8)
    gather.into(rows, [out])
    out[:] = 0
    copying = begun(gather, rows, out)
    child = os.fork()
    if child == 0:
        code = 3
        try:
            copying.finish()
            first = out.tobytes() == made.rows.tobytes()
            out[:] = 0
            gather.into(rows, [out])
            code = 0 if first and out.tobytes() == made.rows.tobytes() and team.TEAM._threads == 1 else 4
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, "the fork does not end"
        time.sleep(0.01)
    assert found[1] == 0
    copying.finish()
    assert out.tobytes() == made.rows.tobytes()


def test_threads_do_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    """A program that iterated with a team ends by itself, at once, and without a word, asleep or awake as its threads are."""
    with ps.Writer(tmp_path / "d", {"x": ps.Array((4096,), "uint8")}) as writer:
        for number in range(300):
            writer.write({"x": np.full(4096, number % 251, np.uint8)})
    program = (
        "import sys, time, penstock as ps, torch; torch.set_num_threads(3)\n"
        "loader = ps.DataLoader(ps.Dataset(sys.argv[1]), 256)\n"
        "for _ in range(3): list(loader)\n"
        "time.sleep(float(sys.argv[2])); from penstock.loaders.team import TEAM; print(TEAM._threads)"
    )
    for pause in ("0", "0.2"):
        done = subprocess.run([sys.executable, "-c", program, tmp_path / "d", pause], capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def test_the_control_block_is_as_the_kernel_has_it() -> None:
    """Both halves agree on where things stand."""
    assert (team._WORDS, team._JOB, team._SEMAPHORE) == (team_kernel.WORDS, team_kernel.JOB, team_kernel.SEMAPHORE)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 3,000 rows of 4 KiB."""
    path = tmp_path_factory.mktemp("rows") / "d"
    with ps.Writer(path, {"x": ps.Array((1024,), "int32"), "n": ps.Scalar("int64")}) as writer:
        for number in range(3000):
            writer.write({"x": np.full(1024, number, np.int32), "n": number})
    return ps.Dataset(path)


def loader_of(dataset: ps.Dataset, threads: int, size: int, *, shuffle: bool = True) -> ps.DataLoader:
    """Return a loader without workers that may use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return ps.DataLoader(dataset, size, shuffle=shuffle, output="numpy")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [200, 333, 3000])
def test_runs_begun_ahead_are_the_batches_of_one_thread(rows: ps.Dataset, size: int) -> None:
    """Two epochs through threads that are a run ahead, held or dropped by the consumer, equal those of a loader with one thread, also after a resume."""
    one, several = loader_of(rows, 1, size), loader_of(rows, 3, size)
    for _ in range(2):
        wanted, got = list(one), list(several)
        assert [batch["n"].tolist() for batch in got] == [batch["n"].tolist() for batch in wanted]
        assert all((batch["x"] == batch["n"][:, None]).all() for batch in got)
        assert all((batch["x"] == batch["n"][:, None]).all() for batch in several)
        list(one)
    iterator = iter(several)
    next(iterator)
    state = several.state_dict()
    again = loader_of(rows, 2, size)
    again.load_state_dict(state)
    assert [batch["n"].tolist() for batch in iterator] == [batch["n"].tolist() for batch in again]


def test_two_iterations_over_one_loader_do_not_mix(rows: ps.Dataset) -> None:
    """Iterations that take turns over one loader, and over another, each with a run begun ahead, deliver their own rows."""
    loader, other = loader_of(rows, 2, 200), loader_of(rows, 2, 150)
    iterators = [iter(loader), iter(loader), iter(other)]
    taken: list[list[int]] = [[], [], []]
    for _ in range(15):
        for number, iterator in enumerate(iterators):
            batch = next(iterator)
            assert (batch["x"] == batch["n"][:, None]).all()
            taken[number] += batch["n"].tolist()
    assert [len(set(one)) for one in taken] == [3000, 3000, 2250]


def test_an_iteration_that_is_dropped_leaves_nothing_begun(rows: ps.Dataset) -> None:
    """A loop that ends early waits for what it had begun, and lets its memory go."""
    loader = loader_of(rows, 2, 200)
    for number, _ in enumerate(loader):
        assert (team.TEAM._open > 0) == (number > 0), "the first batch is waited for"
        if number:
            break
    gc.collect()
    assert team.TEAM._open == 0
    assert team.TEAM._alive == (None,)


def test_an_error_in_a_run_begun_ahead_comes_in_its_place(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches before a damaged block are delivered, though the run with the damaged one was begun before them."""
    loader = loader_of(rows, 2, 200)
    opened = Lookup.block

    def damaged(self: Lookup, shard: int, number: int) -> Any:
        if number == 1:
            raise ps.BadData("broken", shard="0")
        return opened(self, shard, number)

    monkeypatch.setattr(Lookup, "block", damaged)
    unshuffled = loader_of(rows, 2, 200, shuffle=False)
    got: list[int] = []
    with pytest.raises(ps.BadData, match="broken"):
        got.extend(number for batch in unshuffled for number in batch["n"].tolist())
    first = int(stored_of(unshuffled).work.dataset.manifest.shards[0].block_rows)  # type: ignore[union-attr]
    assert got == list(range(first // 200 * 200))
    with pytest.raises(ps.BadData, match="broken"):
        list(loader)


def test_a_collector_in_the_middle_of_a_job_may_finish_it() -> None:
    """What closes an iterator while the team's lock is held by the same thread, as garbage collection does, does not wait for ever."""
    made = Made([(64, 8)], (16384,), "uint8")
    rows, outs = np.arange(64), [np.zeros((64, 16384), np.uint8) for _ in range(2)]
    first, second = made.gather(2), made.gather(2)
    for gather in (first, second):  # blocks are opened
        gather.into(rows, [np.zeros((64, 16384), np.uint8)])
    copying = begun(first, rows, outs[0])
    assert team.TEAM._open > 0
    with team.TEAM._lock:
        copying.finish()
    second.into(rows, [outs[1]])
    assert outs[0].tobytes() == outs[1].tobytes() == made.rows.tobytes()


def test_a_job_that_was_interrupted_is_finished_before_its_tables_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """When Ctrl-C comes just after a job was opened, the next one over the same tables waits for it, and both have their own rows."""
    made = Made([(64, 8)], (16384,), "uint8")
    gather = made.gather(2)
    rows, outs = np.arange(64), [np.zeros((64, 16384), np.uint8) for _ in range(3)]
    gather.into(rows, [outs[2]])
    begin = Team.begin

    def interrupted(self: Team, job: tuple[int, int, int, int, int], threads: int, alive: tuple[object, ...]) -> int:
        begin(self, job, threads, alive)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Team, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begun(gather, rows, outs[0])
    gather.into(rows[::-1].copy(), [outs[1]])
    assert outs[0].tobytes() == made.rows.tobytes()
    assert outs[1].tobytes() == made.rows[::-1].tobytes()


def test_a_first_run_that_cannot_begin_says_why(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error before anything is delivered comes as it is."""
    loader = loader_of(rows, 2, 200)
    monkeypatch.setattr("penstock.loaders.inline.fixed_layout", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(MemoryError, match="no room"):
        next(iter(loader))


def test_no_memory_for_the_next_run_keeps_nobody_from_this_one(rows: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cannot be begun ahead is begun in its turn."""
    loader = loader_of(rows, 2, 200)
    prepared, real = [], inline.OwnArrays

    def scarce(*given: Any) -> inline.OwnArrays:
        prepared.append(given[1])
        if len(prepared) % 2:
            raise MemoryError
        return real(*given)

    wanted = [batch["n"].tolist() for batch in loader_of(rows, 1, 200)]
    iterator = iter(loader)
    got = [next(iterator)["n"].tolist() for _ in range(2)]
    monkeypatch.setattr(inline, "OwnArrays", scarce)
    assert [*got, *(batch["n"].tolist() for batch in iterator)] == wanted
    assert len(prepared) > 2


def test_memory_goes_with_its_batches(rows: ps.Dataset) -> None:
    """A batch that was dropped is in nobody's hands, also after the epoch, with one thread and with several."""
    for threads in (1, 2):
        loader = loader_of(rows, threads, 3000)
        (batch,) = loader
        gone = weakref.ref(batch["x"].base)
        del batch
        gc.collect()
        assert gone() is None
