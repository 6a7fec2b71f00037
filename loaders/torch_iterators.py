"""torch's own iterators, for datasets, samplers and collate functions that are torch's: what happens is torch's, how batches cross is ours.

Everything that a user of torch's DataLoader can see is left to torch's classes, which these extend: who is started when, what is raised, what is warned of.
Added are the arena that batches cross in, and a `Course` that knows how far the epoch has come.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, final

from torch.utils.data._utils.worker import _IterableDatasetStopIteration, _ResumeIteration
from torch.utils.data.dataloader import DataLoader as TorchLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind, _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from .arena import Arena
from .torch_course import Course, Standing
from .torch_worker import Given, Hand, Source


class _View:
    """A loader as torch's iterators see it: with other functions for its workers."""

    def __init__(self, loader: TorchLoader[Any], hand: Hand) -> None:
        """Put the hand's functions in the place of the loader's."""
        self._loader = loader
        self.collate_fn, self.worker_init_fn = hand.collate, hand.begin

    def __getattr__(self, name: str) -> Any:
        """Return what the loader has."""
        return getattr(self._loader, name)


class Keeper(Protocol):
    """Who knows where the next epoch begins, and wants to know how far the present one has come."""

    every: int

    def take(self) -> Standing:
        """Return where the next epoch begins, once."""

    def began(self, course: Course) -> Course:
        """Hear of an epoch that begins, and return its course."""


class _Seeded(_BaseDataLoaderIter):
    """An iterator whose workers' seed may be that of an earlier run, and that knows how far it has come."""

    _course: Course
    _wanted: int | None = None

    @property
    def _base_seed(self) -> int:
        """What the workers' random numbers come from."""
        return self._chosen

    @_base_seed.setter
    def _base_seed(self, drawn: int) -> None:
        self._chosen = drawn if self._wanted is None else self._wanted


@final
class Inline(_Seeded, _SingleProcessDataLoaderIter):
    """An epoch in this process."""

    def __init__(self, loader: TorchLoader[Any], keeper: Keeper) -> None:
        """Begin an epoch, or go on with one."""
        standing = keeper.take()
        self._wanted = standing.seed
        self._course = keeper.began(_course(loader, standing))
        self._source = Source(loader.dataset, 0, loader.batch_size or 1, keeper.every, standing.workers[0] if standing.workers else (None, 0))
        stood = self._source.begin()
        super().__init__(loader)
        self._course.seed = self._base_seed
        if loader._dataset_kind == _DatasetKind.Iterable:
            self._source.forward(self._dataset_fetcher.dataset_iter, *stood)
        self._num_yielded = standing.batches

    def _next_index(self) -> Any:
        self._number, index = self._course.draw(self._sampler_iter)
        return index

    def _next_data(self) -> Any:
        try:
            data = super()._next_data()
        except StopIteration:
            self._course.finished = True
            raise
        except Exception:  # whatever it is: torch goes on behind the batch that failed
            self._course.give(self._number, 0, None)
            raise
        self._course.give(self._number, 0, self._source.told(getattr(self._dataset_fetcher, "dataset_iter", None)))
        return data


@final
class Pooled(_Seeded, _MultiProcessingDataLoaderIter):
    """Epochs by workers."""

    def __init__(self, loader: TorchLoader[Any], keeper: Keeper) -> None:
        """Start the workers and begin an epoch, or go on with one."""
        self._process = os.getpid()
        self._keeper, self._standing = keeper, keeper.take()
        self._wanted = self._standing.seed
        self._arena = _made(loader.num_workers)
        standings = self._standing.workers or ((None, 0),) * loader.num_workers
        room = None if self._arena is None else self._arena.room()
        hand = Hand(room, loader.collate_fn, loader.worker_init_fn, loader.batch_size or 1, keeper.every, standings)
        super().__init__(_View(loader, hand))

    def _shutdown_workers(self, process: Callable[[], int] = os.getpid) -> None:  # held here, since at the interpreter's end there is no `os`
        if process() == self._process:  # a copy in a process that was forked off has nobody to wait for
            super()._shutdown_workers()

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        standing, self._standing = self._standing, Standing()
        self._course = self._keeper.began(_course(loader, standing))
        self._course.seed = self._base_seed
        self._skipped = self._course.next_worker if self._dataset_kind == _DatasetKind.Iterable else 0
        self._numbers: dict[int, int] = {}
        super()._reset(loader, first_iter)
        self._num_yielded = standing.batches

    def _next_index(self) -> Any:
        self._numbers[self._send_idx], index = self._course.draw(self._sampler_iter)
        return index

    def _try_put_index(self) -> None:
        while self._skipped:  # whose turn it was not
            self._skipped -= 1
            next(self._worker_queue_idx_cycle)
        super()._try_put_index()

    def _get_data(self) -> Any:
        idx, data = super()._get_data()
        if isinstance(idx, _ResumeIteration) or isinstance(data, _IterableDatasetStopIteration):
            return idx, data
        given = data.open() if isinstance(data, Given) else Given(data)
        return idx, (self._numbers.pop(idx, 0), given)

    def _process_data(self, data: Any, *worker: int) -> Any:  # torch says from 2.6 on which worker it was
        number, given = data
        self._course.give(number, worker[0] if worker else given.worker, given.state)
        return super()._process_data(given.batch, *worker)

    def _next_data(self) -> Any:
        try:
            return super()._next_data()
        except StopIteration:
            self._course.finished = True
            raise


def _course(loader: Any, standing: Standing) -> Course:
    return Course(loader._index_sampler, loader.generator, loader.num_workers, standing, counted=loader._dataset_kind != _DatasetKind.Iterable)


def _made(workers: int) -> Arena | None:
    """Return an arena; None where the system has no room for one, and batches cross as torch has them cross."""
    try:
        return Arena(workers)
    except OSError:
        return None
