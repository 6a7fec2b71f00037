"""The worker processes of one loader: started fresh, told tasks, watched, replaced when they die, and gone when the pool is closed.

A task is owned by one worker from the moment it is sent. When that worker dies its unanswered tasks go, once the process is reaped and can
write no more, to its replacement; since a task always writes the same bytes, the stream does not change. Nothing is shared between workers
but the ring. Every wait ends: by an answer, a death, or a deadline that says what each worker was doing.

Refused: one queue that all workers read from, because after a kill nobody can say which task was in the dead hands.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakSet

from ..errors import BadRequest, StorageError, WorkerFailed
from .faults import rebuild
from .protocol import Answer, Kind, Task, pack_task, unpack_answer
from .ring import Ring, Stage
from .worker import MESSAGE_BYTES, TRACE_SIGNAL

_MOST_DEATHS = 3
"""Workers that may die one after the other without a task being finished in between."""

_STALL_S = 600.0
"""Seconds without any answer after which workers are taken for stuck when the loader has no timeout of its own."""

_MOST_QUEUED = 64
"""Tasks one worker is given before it answers: a few hundred would fill both sockets, and each side would wait for the other to read."""

_SEND_S = 60
"""Whole seconds that a message to a worker may wait for room in its socket, which holds more than it is ever given at once."""

_TRACE_S = 0.3
"""Seconds that workers have to write down where they stand."""

_CLOSE_S = 2.0
"""Seconds a worker has to leave by itself when the pool is closed."""

_COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from penstock.loaders.worker_start import main; main(*map(int, sys.argv[2:]))"


@dataclass
class _Hand:
    """One worker as the parent sees it."""

    number: int
    process: subprocess.Popen[bytes]
    channel: socket.socket
    trace: int
    alive: int
    tasks: dict[int, Task] = field(default_factory=dict)
    load: int = 0
    """Rows of `tasks`, counted as they come and go: adding them up for every task sent would cost the cube of the workers for a batch."""
    ready: bool = False

    def give(self, task: Task) -> None:
        """Note a task that it was told."""
        self.tasks[task.ticket] = task
        self.load += task.run.rows

    def answered(self, ticket: int) -> bool:
        """Return whether it had this task, which it has no more."""
        task = self.tasks.pop(ticket, None)
        self.load -= task.run.rows if task is not None else 0
        return task is not None

    def forget(self) -> None:
        """Take all its tasks from it."""
        self.tasks.clear()
        self.load = 0

    def close(self) -> None:
        """Close its descriptors, upon which it ends."""
        self.channel.close()
        os.close(self.trace)
        os.close(self.alive)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait: a process started meanwhile inherits that, until it ignores Ctrl-C altogether, which would stop its imports loudly."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RingPlan(NamedTuple):
    """What a worker must know of the ring.

    Attributes:
        rows: rows of a full batch.
        budgets: bytes a row of each ragged column may need.
        slots: slots of the ring.
        generation: number of the ring in its pool.
    """

    rows: int
    budgets: dict[str, int]
    slots: int
    generation: int


class Pool:
    """Worker processes. Whoever creates one closes it."""

    def __init__(self, pickled_work: bytes, *, workers: int, timeout_s: float, gently: bool = False) -> None:
        """Prepare the descriptors; processes start with the first ring.

        Args:
            pickled_work: `(worker_init_fn or None, Work)`, pickled.
            workers: how many processes.
            timeout_s: seconds that the consumer waits for a batch, for messages; 0 for no limit of its own.
            gently: whether the first workers leave the processor to this process while they start.
        """
        self._gently = gently
        self._workers = workers
        self.timeout_s = timeout_s
        self._selector = selectors.DefaultSelector()
        self._hands: dict[int, _Hand] = {}
        self._ring: Ring | None = None
        self._plan: RingPlan | None = None
        self._backlog: deque[Task] = deque()
        self._deaths = 0
        self.replaced = 0
        self._closed = False
        self._pid = os.getpid()
        self._work = os.memfd_create("penstock-work", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._work), "wb") as file:
            file.write(pickled_work)
        _POOLS.add(self)

    @property
    def mine(self) -> bool:
        """Whether this process started the workers, and is not a fork of the one that did."""
        return os.getpid() == self._pid

    @property
    def outstanding(self) -> int:
        """Tasks that were sent and not answered."""
        return len(self._backlog) + sum(len(hand.tasks) for hand in self._hands.values())

    @property
    def ready(self) -> bool:
        """Whether a worker has started."""
        return any(hand.ready for hand in self._hands.values())

    def use(self, ring: Ring, plan: RingPlan) -> None:
        """Give every worker a ring, and start the workers if they are not running. Tasks of an older ring are passed over by them."""
        self._ring = ring
        self._plan = plan
        if not self._hands:
            for number in range(self._workers):
                self._start(number, gently=self._gently)
        else:
            for hand in list(self._hands.values()):
                self._send_ring(hand)

    def _start(self, number: int, *, gently: bool = False) -> _Hand:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
        trace = os.memfd_create("penstock-trace", os.MFD_CLOEXEC)
        lifeline, alive = os.pipe()  # one each: with one for all, some kernels signal every worker when one of them ends
        passed = (theirs.fileno(), self._work, lifeline, trace)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        command = [sys.executable, "-c", _COMMAND, json.dumps(sys.path), *map(str, (number, *passed, int(gently)))]
        with _interrupts_wait():
            try:
                process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603  (our own interpreter)
            except OSError as error:
                ours.close()
                os.close(trace)
                os.close(alive)
                raise StorageError(f"worker {number} could not be started: {error.strerror}", url=sys.executable) from error
            finally:
                theirs.close()
                os.close(lifeline)
            hand = self._hands[number] = _Hand(number=number, process=process, channel=ours, trace=trace, alive=alive)
            self._selector.register(ours, selectors.EVENT_READ, hand)
        self._send_ring(hand)
        return hand

    def _send_ring(self, hand: _Hand) -> None:
        assert self._ring is not None
        assert self._plan is not None
        told = {"rows": self._plan.rows, "budgets": self._plan.budgets, "slots": self._plan.slots, "generation": self._plan.generation}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the next wait sees that and replaces it
            socket.send_fds(hand.channel, [json.dumps(told).encode()], [self._ring.descriptor])

    def submit(self, task: Task) -> None:
        """Send a task to the ready worker with the least to do; keep it until there is one with room for it."""
        self._backlog.append(task)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._backlog:
            open_hands = [hand for hand in self._hands.values() if hand.ready and len(hand.tasks) < _MOST_QUEUED]
            if not open_hands:
                return
            self._send(min(open_hands, key=lambda hand: hand.load), self._backlog.popleft())

    def take_back(self) -> Task | None:
        """Return the first task that no worker was given yet, which is then the caller's to do; or None."""
        return self._backlog.popleft() if self._backlog else None

    def _send(self, hand: _Hand, task: Task) -> None:
        hand.give(task)
        try:
            hand.channel.send(pack_task(task))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died: the task goes to its replacement
        except BlockingIOError:
            raise WorkerFailed(f"worker {hand.number} has read no task for {_SEND_S:g} seconds: {self._doing()}", stage=self._slowest()) from None

    def forget_tasks(self) -> None:
        """Take every unanswered task for answered; only before a new ring is given, whose memory they cannot touch."""
        self._backlog.clear()
        for hand in self._hands.values():
            hand.forget()

    def poll(self) -> list[Answer]:
        """Return the answers that have come, without waiting.

        Raises:
            BadRequest: the pool is closed.
        """
        self._check_open()
        return [answer for key, _ in self._selector.select(0) for answer in self._hear(key.data)]

    def wait(self, deadline: float | None = None) -> list[Answer]:
        """Return answers as soon as there is one.

        Args:
            deadline: on the monotonic clock; without one, 10 minutes from now.

        Raises:
            BadRequest: the pool is closed.
            WorkerFailed: none came in time, or workers keep dying.
            PenstockError: a worker could not start; the error is the worker's.
        """
        self._check_open()
        limit_s = self.timeout_s if deadline is not None and self.timeout_s else _STALL_S
        deadline = time.monotonic() + _STALL_S if deadline is None else deadline
        while True:
            answers = [a for key, _ in self._selector.select(max(deadline - time.monotonic(), 0)) for a in self._hear(key.data)]
            if answers:
                return answers
            if time.monotonic() >= deadline:
                message = f"DataLoader timed out after {limit_s:g} seconds: {self._doing()}"
                raise WorkerFailed(message, stage=self._slowest(), traceback=self._traces())

    def _check_open(self) -> None:
        if self._closed:
            raise BadRequest(
                f"the {self._workers} workers of this iteration were closed, by close() on the loader or after an error; begin a new iteration"
            )

    def _hear(self, hand: _Hand) -> list[Answer]:
        answers: list[Answer] = []
        while True:
            try:
                message = hand.channel.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return answers
            except ConnectionResetError:
                message = b""
            if not message:
                self._replace(hand)
                return answers
            answer = unpack_answer(message)
            if answer.kind is Kind.ERROR and answer.ticket < 0:
                raise rebuild(answer.detail or {})
            if answer.kind is Kind.READY:
                hand.ready = True
            elif hand.answered(answer.ticket):
                self._deaths = 0
                answers.append(answer)
            self._hand_out()

    def _replace(self, hand: _Hand) -> None:
        """Reap a dead worker, start another in its place and give it the dead one's tasks."""
        del self._hands[hand.number]  # first: what is closed here must not be closed again when Ctrl-C comes between
        self._selector.unregister(hand.channel)
        hand.close()
        code = self._reap(hand.process)
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            first = min(hand.tasks.values(), key=lambda task: task.ticket, default=None)
            where = f" while it filled positions {first.run.start} to {first.run.stop - 1} of epoch {first.epoch}" if first else " while it started"
            stage = self._ring.stage(hand.number).name.lower() if self._ring else "start"
            raise WorkerFailed(f"worker {hand.number} {_ending(code)}{where}; {self._deaths} workers died without finishing a task", stage=stage)
        self.replaced += 1
        fresh = self._start(hand.number)
        for task in hand.tasks.values():
            self._send(fresh, task)

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        try:
            return process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL  # the kernel still holds it; it will be gone when it comes back from there

    def _doing(self) -> str:
        assert self._ring is not None
        return "; ".join(
            f"worker {hand.number} (pid {hand.process.pid}) is in stage {self._ring.stage(hand.number).name.lower()!r} with {len(hand.tasks)} tasks to do"
            for hand in self._hands.values()
        )

    def _traces(self) -> str:
        """Return where each worker that has work to do stands, by its own word; one that is stopped says nothing."""
        late = [hand for hand in self._hands.values() if hand.tasks and hand.ready]
        for hand in late:
            with contextlib.suppress(ProcessLookupError):  # it died just now
                hand.process.send_signal(TRACE_SIGNAL)
        time.sleep(_TRACE_S)  # the signal has no answer to wait for
        return "\n".join(f"worker {hand.number}:\n{os.pread(hand.trace, MESSAGE_BYTES, 0).decode(errors='replace')}" for hand in late)

    def _slowest(self) -> str:
        assert self._ring is not None
        stages = [self._ring.stage(hand.number) for hand in self._hands.values() if hand.tasks]
        return max(stages, default=Stage.IDLE).name.lower()

    def close(self) -> None:
        """Close every descriptor and end every worker; a process forked from the owner only closes its copies. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        for hand in self._hands.values():
            hand.close()
        self._selector.close()
        os.close(self._work)
        if self.mine:
            self._reap_all()

    def _reap_all(self) -> None:
        deadline = time.monotonic() + _CLOSE_S
        for hand in self._hands.values():
            try:
                hand.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                hand.process.kill()
        for hand in self._hands.values():
            self._reap(hand.process)
        self._hands.clear()


_POOLS: WeakSet[Pool] = WeakSet()


def _close_in_fork() -> None:
    """Let go, in a process just forked, of the descriptors that tell workers that their owner lives."""
    for pool in list(_POOLS):
        pool.close()


os.register_at_fork(after_in_child=_close_in_fork)


def _ending(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
