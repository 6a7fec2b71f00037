"""The engine's own epoch, with workers whose times are made up: how its rate grows with workers that this machine has no cores for.

What is simulated is time alone. `loaders.pooled.PooledEpochs` itself decides how many batches are in work, how they are cut and when the next are handed
out; it is given `Workers` in place of a pool, which answer by a clock that nobody waits for. A copy of those rules was refused: they change, and a
copy would go on telling what they were.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import Any

import penstock as ps
from penstock.loaders.plan import Plan
from penstock.loaders.pooled import PooledEpochs, Shape
from penstock.loaders.pooled_engine import PooledEngine
from penstock.loaders.protocol import Answer, Kind, Task
from penstock.loaders.slots import Output

from .scaling_model import Cost, ShapeAt

OUTPUTS = {"label": Output((), "int64")}
"""What stands for a batch's columns: nothing is written into them, and slots are as small as that."""


class Workers:
    """What `loaders.pool.Pool` is to an epoch, with a clock of its own: each task goes to the worker with the fewest rows to do.

    Attributes:
        now: seconds since the beginning.
        busy_s: of these, what the parent worked.
        in_work: tasks that no answer was taken for, whenever the parent waited for one.
    """

    mine = ready = True
    timeout_s = 0.0

    def __init__(self, cost: Cost, workers: int, scatter: float, seed: int) -> None:
        """Begin with every worker idle."""
        self.now = self.busy_s = 0.0
        self.in_work: list[int] = []
        self._draw, self._scatter, self._cost = random.Random(seed), scatter, cost
        self._free_at, self._rows = [0.0] * workers, [0] * workers
        self._coming: list[tuple[float, int, int, int]] = []

    def work(self, seconds: float) -> None:
        """Let the parent work for so long."""
        self.now += seconds
        self.busy_s += seconds

    def use(self, ring: object, plan: object) -> None:
        """Take a ring, into which nothing will be written."""

    def take_back(self) -> None:
        """Return no task: all were given to workers."""

    @property
    def outstanding(self) -> int:
        """How many tasks have no answer yet."""
        return len(self._coming)

    def submit(self, task: Task) -> None:
        """Give a task to the worker with the least to do."""
        rows = task.run.rows
        worker = min(range(len(self._rows)), key=self._rows.__getitem__)
        mean_s = self._cost.work_s * rows / self._cost.rows / math.exp(self._scatter**2 / 2)
        ends = max(self._free_at[worker], self.now) + mean_s * math.exp(self._draw.gauss(0, self._scatter))
        self._free_at[worker] = ends
        self._rows[worker] += rows
        heapq.heappush(self._coming, (ends, task.ticket, worker, rows))

    def poll(self) -> list[Answer]:
        """Return the answers that have come; each takes the parent its time."""
        came = []
        until = self.now
        while self._coming and self._coming[0][0] <= until:
            _, ticket, worker, rows = heapq.heappop(self._coming)
            self._rows[worker] -= rows
            self.work(self._cost.task_s)
            came.append(Answer(kind=Kind.DONE, ticket=ticket))
        return came

    def wait(self, _deadline: float | None = None) -> list[Answer]:
        """Let time pass until there is an answer."""
        self.in_work.append(len(self._coming))
        self.now = max(self.now, self._coming[0][0])
        return self.poll()


def shapes(loader: ps.DataLoader) -> ShapeAt:
    """Return how the engine of a loader lays out and cuts its batches for any number of workers: what it says itself. No process is started."""
    stored = loader._stored  # noqa: SLF001  (the engine's own numbers are what is asked for, and no user has a use for them)
    assert stored is not None, "a loader over what Penstock stored"
    work, settings, plan = stored.work, stored._settings, stored.plan  # noqa: SLF001  (as above)
    return lambda workers: PooledEngine(work, settings._replace(num_workers=workers))._shape(plan)  # noqa: SLF001  (as above)


def simulated(
    cost: Cost, shape: Shape, workers: int, *, batches: int = 400, scatter: float = 0.3, seed: int = 0, trace: list[int] | None = None
) -> tuple[float, float]:
    """Run an epoch of `batches` batches, each taken as soon as it is there; return samples per second and the part of the time the parent was busy.

    Args:
        cost: of the parts.
        shape: as the engine has it for so many workers.
        workers: how many.
        batches: how many.
        scatter: standard deviation of the logarithm of a task's time.
        seed: of the times.
        trace: is given how many tasks were in work whenever the parent waited.
    """
    pool: Any = Workers(cost, workers, scatter, seed)
    nothing: Any = None  # no row is filled here, so there is nothing that fills them
    epochs = PooledEpochs(pool, shape._replace(outputs=OUTPUTS, budgets={}, rows=cost.rows), nothing, helps=False)
    try:
        for made in epochs.epoch(Plan(rows=batches * cost.rows, batch_size=cost.rows), 0, 0):
            pool.work(cost.batch_s * len(made.batches))
    finally:
        epochs.close()
    if trace is not None:
        trace.extend(pool.in_work)
    return cost.rows * batches / pool.now, pool.busy_s / pool.now
