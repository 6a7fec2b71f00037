"""The engine of a loader with workers: owns their pool, and counts what was replaced.

The pool is kept between epochs when workers are persistent, and closed at an epoch's end (however it ends) when they are not.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from typing import final

import cloudpickle

from ..errors import BadRequest
from .batch import budgets
from .engine import Delivered, Engine, RunSource, Settings
from .fill import Filler
from .plan import Plan
from .pool import Pool
from .pooled import PooledEpochs, Shape
from .slots import chunks
from .ways import stored_row_bytes
from .work import Work

_SMALLEST_CHUNK = 8
"""Rows; below this a message costs more than it spreads."""

_TASKS = 2
"""Chunks in work for each worker: one under way, and one in its queue for when others are held up by a slow row."""

_LARGE_BATCH = 32 << 20
"""Bytes of a batch that takes so long that nobody has to have one ready: each worker has one in work, and that is enough until the consumer falls behind."""


@final
class PooledEngine(Engine):
    """Has workers do it."""

    def __init__(self, work: Work, settings: Settings) -> None:
        """Note the work; no process is started."""
        self._work = work
        self._settings = settings
        self._kept: tuple[Pool, PooledEpochs] | None = None
        self._under_way: PooledEpochs | None = None
        self._runs = 0

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield batches in the ring's slots, or copied out of them."""
        if plan.steps(start) == 0:
            return
        if self._kept is not None and not self._kept[0].mine:
            self._kept = None  # in a fork: the workers are the parent's
        pool, epochs = self._kept or self._start(plan)
        if self._settings.persistent:
            self._kept = (pool, epochs)
        replaced = pool.replaced
        self._runs += 1
        mine = self._runs
        self._under_way = epochs
        try:
            for made in epochs.epoch(plan, epoch, start, runs):
                yield made._replace(replaced_workers=pool.replaced - replaced)
        except BaseException as error:  # Ctrl-C too: kept workers must not outlive a broken epoch unnoticed
            if not isinstance(error, GeneratorExit) and self._runs == mine:  # an iteration that was told it is over leaves the next one's alone
                self.close()
            raise
        finally:
            if self._runs == mine:
                self._under_way = None
            if self._kept is None or self._kept[0] is not pool:
                pool.close()
                epochs.close()

    def _start(self, plan: Plan) -> tuple[Pool, PooledEpochs]:
        work, settings = self._work, self._settings
        try:
            pickled = cloudpickle.dumps((settings.init, work))
        except Exception as error:  # whatever a user's object raises when it is pickled
            raise BadRequest(
                f"the transforms, map or worker_init_fn cannot be sent to workers: {error}; use num_workers=0 or a function without such parts"
            ) from error
        helps = (work.steps is None or work.steps.mapping is None) and settings.init is None  # a user's code belongs into workers
        pool = Pool(pickled, workers=settings.num_workers, timeout_s=settings.timeout_s, gently=helps)
        try:
            epochs = PooledEpochs(pool, self._shape(plan), Filler(work), helps=helps, pin=settings.pin)
        except BaseException:  # Ctrl-C too: processes that were started must end
            pool.close()
            raise
        weakref.finalize(epochs, pool.close)
        return pool, epochs

    def _shape(self, plan: Plan) -> Shape:
        work, settings = self._work, self._settings
        ragged = [name for name, output in work.outputs.items() if output.ragged]
        mean_row_bytes = stored_row_bytes(work.dataset) if ragged else 0
        window = max(settings.prefetch_factor * settings.num_workers, 2)
        rows = min(plan.batch_size, -(-plan.rows // plan.world_size))  # a batch may be asked for that is larger than the dataset
        return Shape(
            outputs=dict(work.outputs),
            rows=rows,
            together=min(work.together(rows), max(plan.steps(), 1)),
            budgets=budgets(ragged, mean_row_bytes),
            window=window,
            least=self._least(rows, window),
            parts=settings.num_workers if work.splits else 1,
            smallest=_SMALLEST_CHUNK,
            held=settings.held,
        )

    def _least(self, rows: int, window: int) -> int:
        """Return how many batches are in work as long as the consumer waits for each: as few as keep every worker busy, a slow row in one of its chunks included."""
        workers = self._settings.num_workers
        if self._work.splits:
            cuts = len(chunks(rows, workers, _SMALLEST_CHUNK))
            return min(max(-(-_TASKS * workers // cuts), 2), window)
        return min(max(workers, 2), window) if self._work.row_bytes * rows >= _LARGE_BATCH else window

    def ready(self) -> bool:
        """Return whether workers have finished the next batch."""
        if self._under_way is None:
            return False
        try:
            return self._under_way.ready()
        except BaseException:  # as in the epoch itself: a pool that is broken is not kept
            self.close()
            raise

    def close(self) -> None:
        """End persistent workers, if there are any; the next epoch starts new ones."""
        if self._kept is not None:
            (pool, epochs), self._kept = self._kept, None
            pool.close()
            epochs.close()
