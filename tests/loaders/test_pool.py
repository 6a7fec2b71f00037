"""The pool of workers: starting, handing out, replacing, waiting with an end, closing twice; with processes only where they are the point."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from contracts.loaders import assert_same, plain

import penstock as ps
from penstock.loaders import pool as pools
from penstock.loaders.batch import budgets, from_slot
from penstock.loaders.compile import compile_work
from penstock.loaders.law import Ordering
from penstock.loaders.plan import Run
from penstock.loaders.pool import Pool, RingPlan
from penstock.loaders.protocol import Answer, Kind, Task
from penstock.loaders.ring import Ring
from penstock.loaders.slots import layout


def slowly(sample: dict[str, Any]) -> dict[str, Any]:
    """Take a while for each row."""
    time.sleep(0.05)
    return sample


class Bench:
    """A pool of its own with a ring, on a small dataset."""

    def __init__(
        self, ds: ps.Dataset, *, workers: int = 1, function: Any = None, init: Any = None, timeout_s: float = 0.0, gently: bool = False
    ) -> None:
        """Prepare; no process is started."""
        self.work = compile_work(ds, {}, function, ordering=Ordering(0, False), tail="ragged")
        self.budgets = budgets([n for n, o in self.work.outputs.items() if o.ragged], 64)
        self.layout = layout(self.work.outputs, 4, self.budgets)
        self.pool = Pool(cloudpickle.dumps((init, self.work)), workers=workers, timeout_s=timeout_s, gently=gently)
        self.ring = Ring(slot_bytes=self.layout.bytes, slots=5)

    def use(self, generation: int = 0) -> None:
        """Start the workers, or give them the ring again."""
        self.pool.use(self.ring, RingPlan(rows=4, budgets=self.budgets, slots=5, generation=generation))

    def task(self, ticket: int, start: int = 0, slot: int = 0, ring: int = 0) -> Task:
        """Return a task of four rows."""
        return Task(ticket=ticket, epoch=0, run=Run(start, start + 4), slot=slot, row_start=0, ring=ring)

    def answers(self, count: int) -> list[Answer]:
        """Wait for some answers."""
        found: list[Answer] = []
        while len(found) < count:
            found += self.pool.wait(time.monotonic() + 30)
        return found

    def rows(self, slot: int) -> list[int]:
        """Return what stands in a slot."""
        numbers: list[int] = from_slot(self.ring.view(slot), self.layout, 4, [(0, 4)])["n"].tolist()
        return numbers

    def pids(self) -> list[int]:
        """Return the workers' process ids."""
        return [hand.process.pid for hand in self.pool._hands.values()]

    def close(self) -> None:
        """Close both."""
        self.pool.close()
        self.ring.close()


@pytest.fixture
def bench(small: ps.Dataset) -> Iterator[Bench]:
    """Return a bench with one worker, and close it."""
    made = Bench(small)
    yield made
    made.close()


def test_a_backlog_until_a_worker_is_ready(bench: Bench) -> None:
    """Tasks given before a worker is there wait in order, may be taken back, and are handed out when it is."""
    bench.use()
    for ticket in range(1, 6):
        bench.pool.submit(bench.task(ticket, start=4 * ticket - 4, slot=ticket - 1))
    assert bench.pool.outstanding == 5
    taken = bench.pool.take_back()
    assert taken is not None
    assert taken.ticket == 1
    found = bench.answers(4)
    assert [(a.kind, a.ticket) for a in found] == [(Kind.DONE, n) for n in (2, 3, 4, 5)]
    assert all(hand.ready for hand in bench.pool._hands.values())
    assert bench.pool.take_back() is None
    assert bench.pool.outstanding == 0
    assert bench.rows(3) == [12, 13, 14, 15]


def test_no_worker_is_given_more_than_its_queue_holds(bench: Bench) -> None:
    """However many tasks there are, a worker has at most 64 at a time, and all are answered in order."""
    bench.use()
    for ticket in range(1, 500):
        bench.pool.submit(bench.task(ticket, start=ticket % 5 * 4))
    answered: list[int] = []
    while len(answered) < 499:
        answered += [a.ticket for a in bench.pool.wait(time.monotonic() + 30)]
        assert all(len(hand.tasks) <= pools._MOST_QUEUED for hand in bench.pool._hands.values())
        assert all(hand.load == sum(task.run.rows for task in hand.tasks.values()) for hand in bench.pool._hands.values())
    assert answered == list(range(1, 500))


def test_replacing_keeps_the_tasks(bench: Bench) -> None:
    """Tasks of a killed worker are done by its replacement, which gets its number; the count of the replaced goes up."""
    bench.use()
    bench.pool.submit(bench.task(1))
    bench.answers(1)
    (pid,) = bench.pids()
    os.kill(pid, signal.SIGSTOP)
    for ticket in (2, 3):
        bench.pool.submit(bench.task(ticket, start=4 * ticket, slot=ticket))
    os.kill(pid, signal.SIGKILL)
    assert [a.ticket for a in bench.answers(2)] == [2, 3]
    assert bench.pool.replaced == 1
    assert bench.pids() != [pid]
    assert list(bench.pool._hands) == [0]
    assert bench.rows(2) == [8, 9, 10, 11]


def test_tasks_of_an_older_ring_and_cancelled_ones(bench: Bench) -> None:
    """A task of another generation is passed over without an answer, a cancelled one is answered without being done."""
    bench.use(generation=1)
    bench.ring.view(0)[:] = 0
    bench.ring.cancelled = 5
    bench.pool.submit(bench.task(4, start=4, slot=0, ring=1))
    assert bench.answers(1)[0].kind is Kind.DONE
    assert not bench.ring.view(0).any()
    bench.pool.submit(bench.task(8, start=4, slot=0, ring=0))
    bench.pool.submit(bench.task(9, start=8, slot=1, ring=1))
    assert [a.ticket for a in bench.answers(1)] == [9]
    assert not bench.ring.view(0).any()
    bench.pool.forget_tasks()
    assert bench.pool.outstanding == 0


def test_answers_to_forgotten_tasks_are_dropped(bench: Bench) -> None:
    """After forget_tasks old answers are not handed out, new ones are."""
    bench.use()
    bench.pool.submit(bench.task(1))
    bench.answers(1)
    bench.pool.submit(bench.task(2))
    bench.pool.forget_tasks()
    bench.pool.submit(bench.task(3))
    assert [a.ticket for a in bench.answers(1)] == [3]


def test_a_wait_ends_at_its_deadline_and_says_who_did_what(small: ps.Dataset) -> None:
    """A worker that is stopped is named with its process, stage and tasks when the deadline passes; poll() never waits."""
    bench = Bench(small, timeout_s=0.5)
    bench.use()
    bench.pool.submit(bench.task(1))
    bench.answers(1)
    (pid,) = bench.pids()
    os.kill(pid, signal.SIGSTOP)
    bench.pool.submit(bench.task(2))
    bench.pool.submit(bench.task(3))
    began = time.monotonic()
    assert bench.pool.poll() == []
    assert time.monotonic() - began < 0.3
    with pytest.raises(ps.WorkerFailed, match=rf"timed out after 0.5 seconds: worker 0 \(pid {pid}\) is in stage 'idle' with 2 tasks to do"):
        bench.pool.wait(time.monotonic() + 0.5)
    assert time.monotonic() - began < 4
    bench.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_epoch_that_ends_early_waits_for_stuck_workers_no_longer_than_asked(small: ps.Dataset) -> None:
    """Between two epochs `timeout=` holds too: a worker stopped in the first one is named when the second begins, after as many seconds."""
    loader = ps.DataLoader(small, 2, num_workers=1, persistent_workers=True, timeout=1, map=slowly)
    batches = iter(loader)
    next(batches)
    (child,) = psutil.Process().children()
    child.suspend()
    batches.close()
    began = time.monotonic()
    with pytest.raises(ps.WorkerFailed, match="timed out after 1 seconds: worker 0"):
        next(iter(loader))
    assert time.monotonic() - began < 5
    loader.close()


def test_a_worker_that_cannot_map_the_ring_says_why(bench: Bench) -> None:
    """What fails in a worker outside a task is raised by the pool as it was met, not told as a worker that died."""
    bench.use()
    bench.pool.submit(bench.task(1))
    bench.answers(1)
    (hand,) = bench.pool._hands.values()
    told = {"rows": 4, "budgets": {}, "slots": 2**50, "generation": 1}
    socket.send_fds(hand.channel, [json.dumps(told).encode()], [bench.ring.descriptor])
    with pytest.raises((ps.PenstockError, ValueError, OSError, OverflowError)) as met:
        bench.pool.wait(time.monotonic() + 20)
    assert "died" not in str(met.value)
    assert "timed out" not in str(met.value)


def test_closing_twice_and_using_what_is_closed(bench: Bench) -> None:
    """close() may come twice, ends processes and descriptors, and what comes after it is told so."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names only)
    bench.use()
    pids = bench.pids()
    bench.pool.close()
    bench.pool.close()
    assert len(os.listdir("/proc/self/fd")) < before  # noqa: PTH208  (names only)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for call in (bench.pool.poll, bench.pool.wait):
        with pytest.raises(ps.BadRequest, match="the 1 workers of this iteration were closed"):
            call()


def test_a_worker_that_cannot_start_says_why_once(small: ps.Dataset) -> None:
    """An error in the init function arrives as the worker told it, whatever was queued for it."""

    def init(number: int) -> None:
        raise ps.BadData("no such licence", path="here", row=number)

    bench = Bench(small, init=init)
    bench.use()
    bench.pool.submit(bench.task(1))
    with pytest.raises(ps.BadData, match="here, row 0: no such licence"):
        bench.answers(1)
    bench.close()


def test_a_gentle_worker_works_at_its_parents_priority(small: ps.Dataset) -> None:
    """A worker that loaded gently fills rows at the niceness that its parent has, having loaded at a higher one."""
    bench = Bench(small, gently=True)
    bench.use()
    (pid,) = bench.pids()
    nicest = os.getpriority(os.PRIO_PROCESS, 0)
    while not bench.pool.ready:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  (names only)
            with contextlib.suppress(ProcessLookupError):  # that thread ended just now
                nicest = max(nicest, os.getpriority(os.PRIO_PROCESS, int(thread)))
        bench.pool.poll()
    bench.pool.submit(bench.task(1))
    bench.answers(1)
    assert bench.rows(0) == [0, 1, 2, 3]
    assert nicest > os.getpriority(os.PRIO_PROCESS, 0) == os.getpriority(os.PRIO_PROCESS, pid)
    bench.close()


@pytest.mark.parametrize("gently", [False, True])
def test_a_work_that_changed_is_refused(small: ps.Dataset, gently: bool) -> None:
    """A worker that opens another dataset than was planned with refuses to work, however it was started."""
    bench = Bench(small)
    object.__setattr__(bench.work, "digest", "0" * 16)
    bench.pool.close()
    bench.pool = Pool(cloudpickle.dumps((None, bench.work)), workers=1, timeout_s=0, gently=gently)
    bench.use()
    with pytest.raises(ps.BadData, match=r"the files changed while they were read: digest \w+ where 0000000000000000 was planned"):
        bench.answers(1)
    bench.close()


def test_a_missing_interpreter_is_a_storage_error(small: ps.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no process can be started the error names the interpreter, and nothing is left open."""
    bench = Bench(small)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names only)
    with pytest.raises(ps.StorageError, match=r"/nowhere/python: worker 0 could not be started: No such file or directory"):
        bench.use()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  (names only)
    bench.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (7, "exited with code 7"),
        (-9, r"was killed by SIGKILL (out of memory?)"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by 99"),
    ],
)
def test_endings_in_words(code: int, words: str) -> None:
    """How a process ended is said in words."""
    assert pools._ending(code) == words


def test_errors_in_the_middle_then_a_whole_epoch_with_persistent_workers(small: ps.Dataset) -> None:
    """A map that fails in one epoch and not in the next: batches before the error arrive, and the next epoch is whole."""

    def picky(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if sample["n"] == 13 and rng.random() < 2 and not os.environ.get("PENSTOCK_TEST_CALM"):
            raise ValueError("unlucky")
        return {"n": sample["n"]}

    loader = ps.DataLoader(small, batch_size=5, num_workers=2, persistent_workers=True, map=ps.transforms.Map(picky, random=True), output="numpy")
    batches = iter(loader)
    assert [next(batches)["n"].tolist() for _ in range(2)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    with pytest.raises(ps.WorkerFailed, match="map raised ValueError: unlucky, at row 13"):
        next(batches)
    assert loader.state_dict()["samples"] == 10
    os.environ["PENSTOCK_TEST_CALM"] = "1"
    try:
        assert_same(
            [plain(b) for b in loader], [plain(b) for b in ps.DataLoader(small, batch_size=5, output="numpy", map=lambda s: {"n": s["n"]})], "next"
        )
    finally:
        del os.environ["PENSTOCK_TEST_CALM"]
        loader.close()
