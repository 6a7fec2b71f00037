"""An epoch through a pool that is no process: every order of answers, growth in several columns, errors in the middle, held batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from contracts.loaders import Plain, assert_same, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.loaders.compile import compile_work
from penstock.loaders.engine import Settings
from penstock.loaders.faults import describe
from penstock.loaders.fill import Filler
from penstock.loaders.law import Ordering
from penstock.loaders.plan import Plan
from penstock.loaders.pool import Pool, RingPlan
from penstock.loaders.pooled import Lead, PooledEpochs, Shape
from penstock.loaders.pooled_engine import PooledEngine
from penstock.loaders.protocol import Answer, Kind, Task
from penstock.loaders.ring import Ring
from penstock.loaders.slots import chunks, layout
from penstock.loaders.slotsink import BudgetTooSmall, SlotSink
from penstock.loaders.work import Work


class HandPool:
    """A pool whose tasks are done in this process, one for each call of `wait`, in an order that `choose` decides."""

    def __init__(self, work: Work, choose: Any = lambda tasks: 0) -> None:
        """Do nothing yet; `ready` says that a worker is there."""
        self.filler = Filler(work)
        self.outputs = dict(work.outputs)
        self.choose = choose
        self.tasks: deque[Task] = deque()
        self.rings: dict[int, tuple[Ring, RingPlan]] = {}
        self.fail: dict[int, dict[str, Any]] = {}
        self.ready = True
        self.mine = True
        self.timeout_s = 0.0
        self.done: list[Task] = []
        self.eager = False

    @property
    def outstanding(self) -> int:
        """Tasks not answered."""
        return len(self.tasks)

    def use(self, ring: Ring, plan: RingPlan) -> None:
        """Take a ring."""
        self.rings[plan.generation] = (Ring(slot_bytes=ring.slot_bytes, slots=plan.slots, descriptor=ring.descriptor), plan)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.tasks.append(task)

    def take_back(self) -> Task | None:
        """Keep what was submitted: a worker has it."""
        return None

    def forget_tasks(self) -> None:
        """Drop everything."""
        self.tasks.clear()

    def poll(self) -> list[Answer]:
        """Answer nothing without waiting; when `eager`, all that there is to do: workers had the time."""
        return [answer for _ in range(len(self.tasks)) for answer in self.wait()] if self.eager else []

    def wait(self, deadline: float | None = None) -> list[Answer]:
        """Do one task and answer it, as a worker does."""
        index = self.choose(len(self.tasks))
        task = self.tasks[index]
        del self.tasks[index]
        self.done.append(task)
        ring, plan = self.rings[task.ring]
        if task.ticket <= ring.cancelled:
            return [Answer(kind=Kind.DONE, ticket=task.ticket)]
        if task.run.start in self.fail:
            return [Answer(kind=Kind.ERROR, ticket=task.ticket, detail=self.fail[task.run.start])]
        try:
            times = self.filler.fill(task.epoch, task.run.positions(), SlotSink(ring, layout(self.outputs, plan.rows, plan.budgets), task, 0))
        except BudgetTooSmall as small:
            return [Answer(kind=Kind.TOO_SMALL, ticket=task.ticket, detail=small.needs)]
        return [Answer(kind=Kind.DONE, ticket=task.ticket, times=times)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 60 rows with three ragged columns, each of which has its long rows elsewhere."""
    path: Path = tmp_path_factory.mktemp("texts") / "d"
    with ps.Writer(path, fields={"n": ps.Scalar("int64"), "a": ps.Text(), "b": ps.Tokens("int32"), "c": ps.Bytes()}) as writer:
        for i in range(60):
            b = np.full(900 if i == 30 else i % 4, i, np.int32)
            writer.write({"n": i, "a": "a" * (700 if i in {11, 30} else i % 3), "b": b, "c": b"c" * (5000 if i == 47 else 0)})
    return ps.Dataset(path)


def made(
    ds: ps.Dataset, choose: Any = lambda n: 0, *, window: int = 4, parts: int = 2, batch: int = 8, budget: int = 64
) -> tuple[HandPool, PooledEpochs]:
    """Return a hand pool and the epochs over it, with small budgets."""
    work = compile_work(ds, {}, None, ordering=Ordering(4, True), tail="ragged")
    pool = HandPool(work, choose)
    budgets = {name: budget for name, output in work.outputs.items() if output.ragged}
    shape = Shape(
        outputs=dict(work.outputs), rows=batch, together=1, budgets=budgets, window=window, least=2 if parts > 1 else window, parts=parts, smallest=2
    )
    return pool, PooledEpochs(cast("Pool", pool), shape, Filler(work), helps=False)


def inline(ds: ps.Dataset, epoch: int = 0, batch: int = 8) -> list[Plain]:
    """Return what the inline loader gives."""
    loader = ps.DataLoader(ds, batch_size=batch, shuffle=True, seed=4, output="numpy")
    loader.set_epoch(epoch)
    return [plain(b) for b in loader]


def run(epochs: PooledEpochs, ds: ps.Dataset, epoch: int = 0, batch: int = 8, keep: int = 0) -> list[Plain]:
    """Return the batches of an epoch, keeping `keep` of them alive all the time."""
    held: deque[Any] = deque(maxlen=keep or None)
    got = []
    for delivery in epochs.epoch(Plan(rows=len(ds), batch_size=batch), epoch, 0):
        got.append(plain(delivery.batches[0]))
        if keep:
            held.append((delivery.batches[0], got[-1]))
            for batch_, copy in held:
                assert_same([plain(batch_)], [copy], "a held batch changed")
    return got


def test_the_lead_grows_only_for_a_consumer_that_finds_batches_ready() -> None:
    """It is two while batches are waited for, grows by one for every four found ready in a row, to the window and no further, and falls back at once."""
    lead = Lead(most=4, least=2)
    told = []
    for ready in [False, True, True, True, False, *[True] * 13, False]:
        lead.note(ready=ready)
        told.append(lead.batches)
    assert told == [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 2]
    assert Lead(most=1, least=2).batches == 1


def test_a_loop_that_finds_its_batches_ready_gets_a_longer_lead(texts: ps.Dataset) -> None:
    """What workers finished while the loop was busy counts as found ready: batches ahead become as many as the window, and two again once it waits."""
    pool, epochs = made(texts, window=6, batch=2)
    run(epochs, texts, batch=2)  # makes the ring as large as it has to be
    pool.eager = True
    leads = []
    for number, _ in enumerate(epochs.epoch(Plan(rows=len(texts), batch_size=2), 0, 0)):
        leads.append(epochs._lead.batches)
        pool.eager = number < 24
    assert leads[0] == 2
    assert leads[20] == 6
    assert leads[-1] == 2
    pool.eager = False
    assert_same(run(epochs, texts, 1, batch=2), inline(texts, 1, batch=2), "the epoch after")
    epochs.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=st.integers(2, 6), parts=st.integers(1, 4), batch=st.integers(1, 70), keep=st.integers(0, 5), seed=st.integers(0, 2**20))
def test_any_order_of_answers_gives_the_inline_batches(texts: ps.Dataset, window: int, parts: int, batch: int, keep: int, seed: int) -> None:
    """Whatever window, chunks, batch size, held batches and order in which workers answer, with budgets that grow underway: the same bits."""
    rng = np.random.default_rng(seed)
    _, epochs = made(texts, lambda n: int(rng.integers(n)), window=window, parts=parts, batch=batch)
    for epoch in range(2):
        assert_same(run(epochs, texts, epoch, batch, keep), inline(texts, epoch, batch), f"epoch {epoch}")
    epochs.close()


def test_budgets_grow_in_several_columns_at_once(texts: ps.Dataset) -> None:
    """Chunks that are too small for different columns at the same time make one larger ring after the other until all fit, once for all epochs."""
    pool, epochs = made(texts, window=8)
    run(epochs, texts)
    rings = len(pool.rings)
    assert rings >= 3
    budgets = pool.rings[max(pool.rings)][1].budgets
    assert all(budgets[name] > 64 for name in ("a", "b", "c"))
    run(epochs, texts, 0)
    assert len(pool.rings) == rings
    epochs.close()


def test_a_worker_that_is_replaced_lays_the_ring_out_as_the_others_do(texts: ps.Dataset) -> None:
    """A budget that turns out too small while a broken epoch is wound up does not change the plan of the ring in use."""
    pool, epochs = made(texts)
    batches = epochs.epoch(Plan(rows=60, batch_size=8), 0, 0)
    next(batches)
    ring, plan = pool.rings[max(pool.rings)]
    told = dict(plan.budgets)
    assert pool.tasks
    answers: Iterator[list[Answer]] = iter([[Answer(kind=Kind.TOO_SMALL, ticket=t.ticket, detail={"a": 10**4})] for t in list(pool.tasks)])
    wait, pool.wait = pool.wait, lambda deadline=None: (pool.tasks.popleft(), next(answers))[1]  # type: ignore[method-assign]
    batches.close()  # type: ignore[attr-defined]
    epochs._settle()
    assert plan.budgets == told
    assert layout(pool.outputs, plan.rows, plan.budgets).bytes == ring.slot_bytes
    pool.wait = wait  # type: ignore[method-assign]
    assert_same(run(epochs, texts, 1), inline(texts, 1), "the epoch after")
    epochs.close()


def test_an_error_comes_in_place_of_its_batch_and_the_next_epoch_is_whole(texts: ps.Dataset) -> None:
    """Batches before the bad one arrive, the error is raised in its place, its slot is free again, and the same pool does another epoch."""
    pool, epochs = made(texts)
    pool.fail = {24: describe(ps.BadData("broken", shard="s", row=3, field="a"), "read")}
    for epoch in range(3):
        deliveries = epochs.epoch(Plan(rows=60, batch_size=8), epoch, 0)
        got = [plain(next(deliveries).batches[0]) for _ in range(3)]
        with pytest.raises(ps.BadData, match="broken"):
            next(deliveries)
        assert_same(got, inline(texts, epoch)[:3], "before the error")
    pool.fail = {}
    assert_same(run(epochs, texts, 3), inline(texts, 3), "after errors")
    epochs.close()


def test_the_window_bounds_what_is_handed_out(texts: ps.Dataset) -> None:
    """No more than `window` batches are in work or ready ahead of the one delivered."""
    pool, epochs = made(texts, window=3, parts=1, budget=8192)
    batches = epochs.epoch(Plan(rows=60, batch_size=4), 0, 0)
    next(batches)
    assert max(task.run.stop for task in [*pool.tasks, *pool.done]) == 4 * 4
    next(batches)
    assert max(task.run.stop for task in [*pool.tasks, *pool.done]) == 5 * 4
    epochs.close()


def test_the_third_held_batch_is_copied(texts: ps.Dataset) -> None:
    """Two held batches lie in the ring; further ones are copied out, and once some are dropped batches lie in the ring again."""
    _, epochs = made(texts, window=2, parts=1, budget=8192)
    batches = epochs.epoch(Plan(rows=60, batch_size=4), 0, 0)
    held = [next(batches) for _ in range(5)]
    assert [delivery.copied for delivery in held] == [False, False, True, True, True]
    assert [delivery.rows for delivery in held] == [4] * 5
    held.clear()
    assert next(batches).copied is False
    epochs.close()


def test_a_resumed_epoch_begins_where_it_was_left(texts: ps.Dataset) -> None:
    """An epoch entered at a position gives the rest of the whole one's rows."""
    _, epochs = made(texts)
    rest = [n for d in epochs.epoch(Plan(rows=60, batch_size=8), 0, 20) for n in d.batches[0]["n"].tolist()]
    assert rest == [n for b in inline(texts) for n in b["n"].tolist()][20:]
    epochs.close()


def test_an_older_iteration_is_told_that_it_ended(texts: ps.Dataset) -> None:
    """When a second epoch begins the first one raises at its next batch, and the second one is not disturbed."""
    _, epochs = made(texts)
    one = epochs.epoch(Plan(rows=60, batch_size=8), 0, 0)
    next(one)
    two = epochs.epoch(Plan(rows=60, batch_size=8), 1, 0)
    first = plain(next(two).batches[0])
    with pytest.raises(ps.BadRequest, match="iteration 1 over this loader ended when iteration 2 began"):
        next(one)
    assert_same([first, *(plain(d.batches[0]) for d in two)], inline(texts, 1), "the second")
    epochs.close()


def test_a_filler_works_while_no_worker_is_ready(texts: ps.Dataset) -> None:
    """With a filler, and as long as no worker is ready, this process does the tasks, grows the ring, and raises its own errors."""
    work = compile_work(texts, {}, None, ordering=Ordering(4, True), tail="ragged")
    pool = HandPool(work)
    pool.ready = False
    pool.take_back = lambda: pool.tasks.popleft() if pool.tasks else None  # type: ignore[method-assign]
    pool.wait = lambda deadline=None: pytest.fail("nobody is there to wait for")  # type: ignore[method-assign]
    shape = Shape(outputs=dict(work.outputs), rows=8, together=1, budgets=dict.fromkeys("abc", 64), window=4, least=2, parts=2, smallest=2)
    epochs = PooledEpochs(cast("Pool", pool), shape, Filler(work), helps=True)
    assert_same(run(epochs, texts), inline(texts), "done by the parent")
    assert len(pool.rings) > 1
    epochs.close()


def test_a_ring_without_workers_is_closed(texts: ps.Dataset) -> None:
    """When workers cannot be started the error comes through and no descriptor is left."""
    work = compile_work(texts, {}, None, ordering=Ordering(4, True), tail="ragged")
    pool = HandPool(work)

    def refuse(ring: Ring, plan: RingPlan) -> None:
        raise ps.StorageError("no more processes", url="python")

    pool.use = refuse  # type: ignore[method-assign]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ps.StorageError, match="no more processes"):
        PooledEpochs(
            cast("Pool", pool),
            Shape(outputs=dict(work.outputs), rows=8, together=1, budgets=dict.fromkeys("abc", 64), window=4, least=2, parts=2, smallest=2),
            Filler(work),
            helps=False,
        )
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("batch", "workers"), [(256, 1), (256, 2), (256, 8), (64, 16), (32, 8), (16, 4), (8, 8), (1, 3)])
def test_every_worker_has_something_to_do_while_the_loop_waits(texts: ps.Dataset, batch: int, workers: int) -> None:
    """Of costly rows at least two chunks for each worker are in work, or as many batches as there may be; and two batches where that is enough."""
    work = compile_work(texts, {}, lambda row: {"n": row["n"]}, ordering=Ordering(4, True), tail="ragged")
    settings = Settings(num_workers=workers, prefetch_factor=2, persistent=False, timeout_s=0, init=None)
    shape = PooledEngine(work, settings)._shape(Plan(rows=100_000, batch_size=batch))
    cuts = len(chunks(batch, shape.parts, shape.smallest))
    assert shape.least * cuts >= 2 * workers or shape.least == shape.window
    assert shape.least == 2 or (shape.least - 1) * cuts < 2 * workers
    assert workers > 2 or batch < 256 or shape.least == 2
