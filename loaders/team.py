"""Threads that share the calls of a kernel: large batches that are gathered in this process are copied by as many cores as torch may use.

A job is begun, and finished some time later by whoever began it; meanwhile this thread may deliver what was copied before. There is one team a
process. Its threads live in machine code (`team_kernel`), where they take part in one job after another without Python's lock, and between jobs look
for the next one, and then sleep. They are started when they are first of use and end with the process, as those of OpenMP do; a fork starts its own.

Refused: an executor of Python's threads. Copying a batch of 3 MB takes a core 340 us, two cores without a word 170, this team 190, and an executor 250.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..jit import Bound, Kernel

PARTS = 16
"""Parts of a batch: many, so that a thread that comes late, or is held up, leaves more of them to the others."""

LEAST_BYTES = 1 << 19
"""Bytes of a batch below which one thread copies it: that takes as long as waking another."""

MOST = 8
"""Threads of a team: a few cores copy what the memory can give."""

_PATIENCE = 200
"""How often a thread looks for the next job before it sleeps; a look costs a third of a microsecond, and leaves the core to others."""

_WORDS, _JOB, _SEMAPHORE = 64, 32, 40
"""Words of a control block, and where the job and the semaphore stand in it: see `team_kernel`."""

_JOB_WORDS = struct.Struct("=5q")

_serve = Kernel("loaders.team_kernel", "serve", "i8(u8 u8 u8 i8)", sources=("kernel_memory",))
_begin = Kernel("loaders.team_kernel", "begin", "i8(u8 u8 i8)", sources=("kernel_memory",))
_finish = Kernel("loaders.team_kernel", "finish", "i8(u8 u8)", sources=("kernel_memory",))


class Team:
    """The threads of this process, and the job that they are at. One is open at a time: to begin another is to finish it."""

    def __init__(self) -> None:
        """Prepare; no thread is started."""
        self._jobs = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a process just forked: threads do not come along, and may have been in the middle of a job, which is lost."""
        self._lock = threading.RLock()  # the garbage collector may close an iterator, which finishes its job, in the middle of what is done here
        self._threads = self._open = 0
        self._lost = self._jobs
        self._alive: tuple[object, ...] = (None,)
        self._block: _Block | None = None

    def begin(self, job: tuple[int, int, int, int, int], threads: int, alive: tuple[object, ...]) -> int:
        """Open a job for all threads but this one, and return its number.

        A job is to call the machine code at an address with each of some rows of arguments: address of the code, address of the rows, bytes of one,
        address of the results, 64 bits each, and number of rows. `alive` is what holds the memory that it reads and writes; it is kept until the job is
        finished, whatever becomes of who began it.
        """
        with self._lock:
            self.settle()
            block = self._block = self._block or _Block()
            while self._threads < threads - 1:
                self._threads += 1
                with contextlib.suppress(RuntimeError):  # it is not to be had, and not asked for again: the others, or this one alone, do the work
                    threading.Thread(target=block.serve, name=f"penstock-team-{self._threads}", daemon=True).start()
            self._jobs += 1
            self._alive, self._open = alive, self._jobs
            block.begin(job, self._jobs)
            return self._jobs

    def finish(self, number: int) -> bool:
        """Help with what is left of a job and return when all of it is done; return False when it was lost in a fork.

        It waits for threads that are in the middle of a part, and has no deadline for that: they copy memory, and what they wait for, such as a page of
        a file on a dead mount, this thread would wait for too.
        """
        with self._lock:
            if self._open == number:
                self.settle()
            return number > self._lost

    def settle(self, owner: object = None) -> None:
        """Finish the job that is open, if there is one, whoever began it; or only if it is the owner's, the first of what was to be kept alive."""
        if not self._open or (owner is not None and self._alive[0] is not owner):
            return
        with self._lock:
            if self._open and self._block is not None:
                self._block.finish()
            self._open, self._alive = 0, (None,)


class _Block:
    """A control block, and the kernels bound to it."""

    def __init__(self) -> None:
        """Have all machine code ready: here, and not in several threads at once."""
        libc = ctypes.CDLL(None)
        self._words = np.zeros(_WORDS, np.int64)
        address = self._words.ctypes.data
        wait, wake, relax = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in (libc.sem_wait, libc.sem_post, libc.sched_yield))
        libc.sem_init(ctypes.c_void_p(address + 8 * _SEMAPHORE), 0, 0)
        self._begin, self._finish = _begin.bind(address, wake), _finish.bind(address, relax)
        self._serve = _serve.bind(address, wait, relax, _PATIENCE)
        self._serve.entry()

    def begin(self, job: tuple[int, int, int, int, int], number: int) -> None:
        """Open a job."""
        _JOB_WORDS.pack_into(self._words.data, 8 * _JOB, *job)
        self._begin(number)

    def finish(self) -> None:
        """Carry out what is left of the job, and close it."""
        self._finish()

    def serve(self) -> None:
        """Take part in jobs for ever."""
        self._serve()


TEAM = Team()
"""Of this process."""

os.register_at_fork(after_in_child=TEAM.forget)


class Spread:
    """A kernel over the rows of a batch, which the team calls in parts when they are many bytes."""

    def __init__(self, bind: Callable[[], Bound], numbers: int, threads: int) -> None:
        """Prepare; `bind` returns the kernel, with scratch of its own, to be called with so many numbers: address, end and beginning of rows, others."""
        self.call = bind()
        self.shared = threads > 1
        """Whether other threads work between `begin` and `left`."""
        self._threads = min(threads, MOST)
        self._calls = [bind() for _ in range(PARTS if self.shared else 0)]
        self._words = np.array([np.frombuffer(call.arguments(*[0] * numbers), np.int64) for call in self._calls])
        self._numbers = self._words[..., -numbers:]
        self._done = np.zeros(PARTS, np.int64)
        self._ends = np.zeros(PARTS, np.int64)
        self._rest = (self._words.ctypes.data, self._words.strides[0], self._done.ctypes.data, PARTS)
        self._cut_for = self._count = self._job = 0
        self._alive: tuple[object, ...] = ()

    def prepare(self, alive: tuple[object, ...], size: int, at: int, count: int, *others: int) -> None:
        """Prepare to call the kernel over `count` rows of `size` bytes together; `alive` holds their memory on either side.

        Only then may tables change that the calls before it read.
        """
        TEAM.settle(self)  # an iteration that was interrupted may have left a job of these words, and of the tables they name
        self._count, self._job, self._alive = count, 0, ()
        if not self.shared or size < LEAST_BYTES or count < PARTS:
            return
        if count != self._cut_for:
            bounds = np.arange(PARTS + 1) * count // PARTS
            self._cut_for, self._ends = count, bounds[1:]
            self._numbers[:, 1], self._numbers[:, 2] = bounds[1:], bounds[:-1]
        self._numbers[:, 0] = at
        if others:
            self._numbers[:, 3:] = others
        self._alive = (self, alive)

    def begin(self) -> None:
        """Have the team begin with what was prepared, if it is large."""
        if self._alive:
            alive, self._alive = self._alive, ()
            self._job = TEAM.begin((self.call.entry(), *self._rest), self._threads, alive)

    def left(self) -> list[tuple[int, int]]:
        """Wait for the team; return what is left for `call`, as `(begin, end)`: all that is small, or not open."""
        self._alive = ()
        if not self._job or not TEAM.finish(self._job):
            return [(0, self._count)]
        if self._done.tobytes() == self._ends.tobytes():
            return []
        return [(int(self._done[part]), int(self._ends[part])) for part in np.flatnonzero(self._done < self._ends)]


class Copying(NamedTuple):
    """Rows that are to be copied: begun, which leaves them to other threads, if there are any, and finished. Doing either again changes nothing.

    Attributes:
        spread: what is called for large batches, if anything is.
        rest: waits for it, and does what is left.
    """

    spread: Spread | None
    rest: Callable[[], None]

    def begin(self) -> None:
        """Let other threads begin."""
        if self.spread is not None:
            self.spread.begin()

    def finish(self) -> None:
        """Have all rows copied.

        Raises:
            BadData: a block is damaged; names shard, row and column.
        """
        self.rest()
