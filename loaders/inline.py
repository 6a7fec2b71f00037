"""The reference loader: the plan carried out in this process, into arrays that are made for it.

Every other path must give the same bits. It is also what `num_workers=0` runs: no process and no shared memory, though threads may copy large runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..errors import PenstockError, WorkerFailed
from ..metrics import WorkTimes
from .batch import Batch, Bytes, Ragged, fixed_view, offsets_of, parted
from .engine import Delivered, Engine, RunSource
from .fill import Filler, Prepared
from .plan import Plan, Run
from .ring import Stage, lease
from .sink import Sink
from .slots import ALIGNMENT, Layout, Output, layout
from .work import Work

_SPARE = 3
"""Dropped runs of batches whose memory is kept: a loop holds one batch while the next is made, and the one after it is begun."""

_LEAST_BYTES = 1 << 20
"""Bytes of a run below which C's allocator itself reuses memory, and for less than a lease costs."""

_AHEAD_BYTES = 16 << 20
"""Bytes of a run up to which it is begun while the one before is used."""

_IDLE_BYTES = 16 << 20
"""Bytes of a run up to which its memory is kept from one epoch to the next."""


def aligned(size: int) -> Bytes:
    """Return new memory at a multiple of `ALIGNMENT`."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def fixed_layout(outputs: Mapping[str, Output], rows: int) -> Layout:
    """Return where the fixed columns of so many rows lie in their memory."""
    return layout({name: output for name, output in outputs.items() if not output.ragged}, rows, {})


class OwnArrays(Sink):
    """Cuts fixed columns out of memory that it is given, and allocates ragged ones."""

    far = False

    def __init__(self, outputs: Mapping[str, Output], rows: int, memory: Callable[[int], Bytes] = aligned, places: Layout | None = None) -> None:
        """Note the shape of the batch, and ask for memory for its fixed columns; `places` is what `fixed_layout` says, when it is known."""
        self._outputs = outputs
        self._rows = rows
        self._layout = places or fixed_layout(outputs, rows)
        self._memory = memory(self._layout.bytes)
        self._made: Batch = {}
        self._stage = Stage.IDLE

    def fixed(self, name: str) -> npt.NDArray[Any]:
        """Return the column's part of the memory, the same array when asked again."""
        if name not in self._made:
            self._made[name] = fixed_view(self._memory, self._layout.columns[name], 0, self._rows)
        made: npt.NDArray[Any] = self._made[name]
        return made

    def ragged(self, name: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a new array that holds exactly these rows."""
        offsets = offsets_of(lengths)
        values = np.empty(int(offsets[-1]), self._outputs[name].dtype)
        self._made[name] = Ragged(values=values, offsets=offsets)
        return values

    def stage(self, stage: Stage) -> None:
        """Remember it for a message."""
        self._stage = stage

    @property
    def now(self) -> str:
        """What is being done."""
        return self._stage.name.lower()

    def batch(self) -> Batch:
        """Return the columns in the order of the outputs."""
        return {name: self._made[name] for name in self._outputs}


class Reused:
    """Memory of large batches that were dropped, filled again: new memory costs a page fault every 4 KiB, and lies in no cache."""

    def __init__(self) -> None:
        """Begin with none."""
        self._dropped: deque[Bytes] = deque(maxlen=_SPARE)
        self._idle = True

    def memory(self, size: int) -> Bytes:
        """Return `size` bytes at a multiple of `ALIGNMENT`; many are lent again once nothing refers to them."""
        if size < _LEAST_BYTES:
            return aligned(size)
        try:
            memory = self._dropped.pop()
        except IndexError:  # all are in use, or none was lent yet
            memory = aligned(size)
        if memory.nbytes < size:
            memory = aligned(size)
        self._idle = memory.nbytes <= _IDLE_BYTES
        return lease(memory, memory, self._dropped)[:size]

    def rest(self) -> None:
        """Let go of large memory; what is still in use is not lent again."""
        if not self._idle:
            self._dropped = deque(maxlen=_SPARE)


class Filling:
    """A run of batches that is being filled; other threads may be at it until its result is asked for."""

    def __init__(self, filler: Filler, sink: OwnArrays, epoch: int, run: Run) -> None:
        """Prepare; an error is kept for `result`."""
        self._filler, self._sink, self._run = filler, sink, run
        self._prepared: Prepared | None = None
        self._made: tuple[list[Batch], WorkTimes] | None = None
        self._error: PenstockError | None = None
        with self._keeping_errors():
            self._prepared = filler.prepare(epoch, run.positions(), sink)

    def begin(self) -> None:
        """Let other threads begin, if there are any."""
        if self._prepared is not None:
            self._prepared.begin()

    def settle(self) -> None:
        """Finish, if that was not done yet. A filler has one run under way, and one prepared."""
        if self._prepared is None:
            return
        with self._keeping_errors():
            times = self._filler.finish(self._prepared)
            self._made = parted(self._sink.batch(), self._run), times
        self._prepared = None

    def result(self) -> tuple[list[Batch], WorkTimes]:
        """Return the batches, and where the time went; asked for once. Several share their memory, and hold fixed columns only.

        Raises:
            PenstockError: a row is bad, or what is no `PenstockError` was raised: then it is the cause of a `WorkerFailed`, as from a worker.
        """
        self.settle()
        if self._error is not None:
            raise self._error
        assert self._made is not None
        made = self._made
        del self._made, self._sink  # memory goes with its batches
        return made

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        try:
            yield
        except PenstockError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001  (whatever an op of the user's raises)
            stage = self._sink.now
            self._error = WorkerFailed(f"{type(error).__name__} in stage {stage!r}: {error}", stage=stage)
            self._error.__cause__ = error


def fill_run(filler: Filler, sink: OwnArrays, epoch: int, run: Run) -> tuple[list[Batch], WorkTimes]:
    """Return the batches of `run`, and where the time went; see `Filling.result`."""
    filling = Filling(filler, sink, epoch, run)
    filling.begin()
    return filling.result()


@final
class InlineEngine(Engine):
    """Works in this process; where other threads may copy rows, they do so for the next run while this one is delivered."""

    def __init__(self, work: Work, *, threads: int = 1) -> None:
        """Note the work, and how many threads may copy a large batch; nothing is opened."""
        self._work = work
        self._threads = threads
        self._filler: Filler | None = None
        self._fillings: list[Filling] = []
        self._reused = Reused()
        self._places: Layout | None = None

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield batches in arrays of their own, or, when they are small and cheap, several at a time in arrays that they share."""
        source = runs or plan.runs(start, self._work.together(plan.batch_size))
        following: Filling | None = None
        number = -1
        try:
            while (run := source.get(number := number + 1, wait=True)) is not None:
                filling = following or self._begun(epoch, run)
                after = source.get(number + 1, wait=False) if number else None
                following = None if after is None else self._prepared(epoch, after)
                try:
                    batches, times = filling.result()
                except PenstockError:
                    if run.batches == 1:
                        raise
                    yield from self._one_by_one(epoch, run)
                    following = None
                    continue
                if following is not None:
                    following.begin()
                yield Delivered(batches, run.size, times)
        finally:
            if following is not None:
                following.settle()
            self._reused.rest()

    def _one_by_one(self, epoch: int, run: Run) -> Generator[Delivered, None, None]:
        """Yield the batches of a run that failed, up to the bad one."""
        for one in run.each():
            batches, times = self._begun(epoch, one).result()
            yield Delivered(batches, one.size, times)

    def _begun(self, epoch: int, run: Run) -> Filling:
        """Return a run that is being filled; what earlier iterations over this loader have prepared is finished."""
        first = self._filler is None
        if self._filler is None:
            self._filler = Filler(self._work, threads=self._threads)
        for filling in self._fillings:
            filling.settle()
        filling = Filling(self._filler, self._sink(run.rows), epoch, run)
        self._fillings = [filling]
        if not first:  # that one is waited for, starting threads takes milliseconds, and no block is open yet
            filling.begin()
        return filling

    def _prepared(self, epoch: int, run: Run) -> Filling | None:
        """Return a run that threads may begin with while the one before it is used; None when there are none, or it is memory nobody asked for yet."""
        assert self._filler is not None
        if not self._filler.ahead or self._work.row_bytes * run.rows > _AHEAD_BYTES:
            return None
        for filling in self._fillings[:-1]:
            filling.settle()
        try:
            filling = Filling(self._filler, self._sink(run.rows), epoch, run)
        except MemoryError:  # it is tried again in its turn
            return None
        self._fillings = [*self._fillings[-1:], filling]
        return filling

    def _sink(self, rows: int) -> OwnArrays:
        """Return where so many rows go; nearly all runs are of the same size."""
        outputs = self._work.outputs
        if self._places is None or self._places.rows != rows:
            self._places = fixed_layout(outputs, rows)
        return OwnArrays(outputs, rows, self._reused.memory, self._places)

    def close(self) -> None:
        """Let go of memory that is not in use."""
        for filling in self._fillings:
            filling.settle()
        self._fillings = []
        self._reused = Reused()
