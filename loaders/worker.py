"""A worker: a fresh process without torch that is told a task, fills rows of a slot, answers, and remembers nothing.

It gets its end of a socket (tasks in, answers out), a memory file with the pickled `Work`, and one to write down where it stands. What comes before
that, and how a worker ends with its parent, is in `worker_start`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

import cloudpickle

from ..metrics import WorkTimes
from .faults import describe
from .fill import Filler
from .protocol import TASK_BYTES, Answer, Kind, Task, pack_answer, unpack_task
from .ring import Ring, Stage
from .slots import Layout, layout
from .slotsink import BudgetTooSmall, SlotSink
from .work import Work

MESSAGE_BYTES = 128 * 1024
"""No message is longer."""

TRACE_SIGNAL = signal.SIGUSR1
"""Asks a worker to write down where it stands."""


Loaded: TypeAlias = "tuple[Callable[[int], object] | None, Work]"
"""The `worker_init_fn`, if there is one, and the work."""


class Worker:
    """The loop of one worker process."""

    def __init__(self, number: int, channel: socket.socket, work: Work) -> None:
        """Prepare to fill; the ring comes with the first message."""
        self._number = number
        self._channel = channel
        self._work = work
        self._filler = Filler(work)
        self._ring: Ring | None = None
        self._plan: Layout | None = None
        self._generation = -1

    def run(self) -> None:
        """Work until the parent closes the socket."""
        self._channel.send(pack_answer(Answer(kind=Kind.READY)))
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, 1)
            if descriptors:
                self._map_ring(json.loads(message), descriptors[0])
            elif len(message) == TASK_BYTES:
                task = unpack_task(message)
                if task.ring == self._generation:
                    self._channel.send(pack_answer(self._answer(task)))
            else:
                return

    def _map_ring(self, told: dict[str, Any], descriptor: int) -> None:
        self._plan = layout(self._work.outputs, told["rows"], told["budgets"])
        self._ring = Ring(slot_bytes=self._plan.bytes, slots=told["slots"], descriptor=descriptor)
        self._generation = told["generation"]
        os.close(descriptor)

    def _answer(self, task: Task) -> Answer:
        assert self._ring is not None
        assert self._plan is not None
        if task.ticket <= self._ring.cancelled:
            return Answer(kind=Kind.DONE, ticket=task.ticket)
        sink = SlotSink(self._ring, self._plan, task, self._number)
        times = WorkTimes()
        try:
            times = self._filler.fill(task.epoch, task.run.positions(), sink)
        except BudgetTooSmall as small:
            return Answer(kind=Kind.TOO_SMALL, ticket=task.ticket, detail=small.needs)
        except BaseException as error:  # noqa: BLE001  (whatever the data or the user's code raised, SystemExit too, travels to the parent)
            return Answer(kind=Kind.ERROR, ticket=task.ticket, detail=describe(error, self._ring.stage(self._number).name.lower()))
        finally:
            sink.stage(Stage.IDLE)
        return Answer(kind=Kind.DONE, ticket=task.ticket, times=times)


def load(descriptor: int) -> Loaded:
    """Return what the memory file `descriptor` holds, which is closed unless that fails."""
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as pickled:  # workers share the descriptor, so reading it would move it for all
        init, work = cloudpickle.loads(pickled)
    work.check()
    os.close(descriptor)
    return init, work


def _leave(channel: socket.socket, error: Exception, stage: str) -> None:
    """Say why this worker cannot go on, and wait until that was read."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        channel.send(pack_answer(Answer(kind=Kind.ERROR, detail=describe(error, stage))))
        while channel.recv(MESSAGE_BYTES):
            pass  # closing a socket with unread tasks would reset it, and the parent would never read the error


def main(number: int, channel_descriptor: int, trace: int, loader: Callable[[], Loaded]) -> None:
    """Run worker `number` over the descriptors that the parent passed; `loader` returns what it is to do."""
    faulthandler.register(TRACE_SIGNAL, file=trace, all_threads=False)
    channel = socket.socket(fileno=channel_descriptor)
    try:
        init, work = loader()
        if init is not None:
            init(number)
        worker = Worker(number, channel, work)
    except Exception as error:  # noqa: BLE001  (a worker that cannot start says why, then leaves)
        _leave(channel, error, "start")
        return
    try:
        worker.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent closed the socket: the work is over
    except Exception as error:  # noqa: BLE001  (not a task's, which are answered: the ring could not be mapped, say)
        _leave(channel, error, "start")
