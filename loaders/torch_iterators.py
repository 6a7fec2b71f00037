"""torch's own iterators, for datasets, samplers and collate functions that are torch's: what happens is torch's, how batches cross is ours.

Everything that a user of torch's DataLoader can see is left to torch's classes, which these extend: who is started when, what is raised, what is warned of.
Added are the arena that batches cross in, and a `Course` that knows how far the epoch has come.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

import torch
from torch.utils.data._utils.worker import _IterableDatasetStopIteration, _ResumeIteration
from torch.utils.data.dataloader import DataLoader as TorchLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind, _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from .arena import Arena, starting_workers
from .torch_course import Course, Standing, heard, told, without_iterators
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
    """An iterator whose random numbers may be those of an earlier run, and that knows how far it has come."""

    _course: Course
    _wanted: Standing = Standing()

    @property
    def _base_seed(self) -> int:
        """What the workers' random numbers come from."""
        return self._chosen

    @_base_seed.setter
    def _base_seed(self, drawn: int) -> None:
        self._chosen = drawn if self._wanted.seed is None else self._wanted.seed


@contextlib.contextmanager
def _left_alone(standing: Standing) -> Iterator[None]:
    """Going on with an epoch draws nothing from the default generator that the run which began it has not drawn already."""
    before = torch.get_rng_state()
    try:
        yield
    finally:
        if standing.seed is not None:
            torch.set_rng_state(before)


@final
class Inline(_Seeded, _SingleProcessDataLoaderIter):
    """An epoch in this process."""

    def __init__(self, loader: TorchLoader[Any], keeper: Keeper) -> None:
        """Begin an epoch, or go on with one."""
        self._wanted = standing = keeper.take()
        iterable = loader._dataset_kind == _DatasetKind.Iterable
        self._number: int | None = None
        self._course = keeper.began(Course(loader, standing, counted=not iterable))
        every = keeper.every if iterable else 1  # rows that were asked for again would not be the same
        self._source = Source(loader.dataset, 0, loader.batch_size or 1, every, standing.workers[0] if standing.workers else (None, 0))
        stood = self._source.begin()
        with _left_alone(standing):
            numbers = told(torch.get_rng_state()) if iterable else ""
            if iterable and standing.default:
                torch.set_rng_state(heard(standing.default))
            super().__init__(loader)
            if iterable:
                self._source.forward(self._dataset_fetcher.dataset_iter, *stood)
        self._course.begin_with(self._base_seed, standing.default or numbers if iterable else "")
        self._num_yielded = standing.batches

    def _next_index(self) -> Any:
        self._number = None
        self._number, index = self._course.draw(self._sampler_iter)
        return index

    def _next_data(self) -> Any:
        try:
            data = super()._next_data()
        except StopIteration:
            self._course.finished = True
            raise
        except Exception:  # whatever it is: torch goes on behind the batch that failed
            if self._number is not None:
                self._course.give(self._number, 0, None)
            raise
        self._course.give(self._number or 0, 0, self._source.told(getattr(self._dataset_fetcher, "dataset_iter", None)))
        return data


@final
class Pooled(_Seeded, _MultiProcessingDataLoaderIter):
    """Epochs by workers."""

    def __init__(self, loader: TorchLoader[Any], keeper: Keeper) -> None:
        """Start the workers and begin an epoch, or go on with one."""
        self._process = os.getpid()
        self._keeper, self._wanted = keeper, keeper.take()
        self._arena = _made(loader.num_workers)
        standings = self._wanted.workers or ((None, 0),) * loader.num_workers
        room = None if self._arena is None else self._arena.room()
        hand = Hand(room, loader.collate_fn, loader.worker_init_fn, loader.batch_size or 1, keeper.every, standings)
        with _left_alone(self._wanted), starting_workers():
            super().__init__(_View(loader, hand))

    def _shutdown_workers(self, process: Callable[[], int] = os.getpid) -> None:  # held here, since at the interpreter's end there is no `os`
        if process() == self._process:  # a copy in a process that was forked off has nobody to wait for
            super()._shutdown_workers()
            if self._shutdown and self._arena is not None:
                self._arena.trim()
                self._arena = None

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        standing = self._wanted if first_iter else Standing(workers=without_iterators(self._course.workers))
        if not first_iter:
            self._wanted = Standing()
        iterable = self._dataset_kind == _DatasetKind.Iterable
        self._course = self._keeper.began(Course(loader, standing, counted=not iterable))
        self._skipped = self._course.next_worker
        self._numbers: dict[int, int] = {}
        super()._reset(loader, first_iter)
        self._course.begin_with(self._base_seed)
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
        self._course.give(number, worker[0] if worker else given.worker, given.told())
        return super()._process_data(given.batch, *worker)

    def _next_data(self) -> Any:
        try:
            return super()._next_data()
        except StopIteration:
            self._course.finished = True
            raise


def _made(workers: int) -> Arena | None:
    """Return an arena; None where the system has no room for one, and batches cross as torch has them cross."""
    try:
        return Arena(workers)
    except OSError:
        return None
