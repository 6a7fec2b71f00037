"""Who does a job's parts: processes on this machine, or this process itself.

Workers are started fresh (`python -c`), never forked: they import what they need and nothing of the user's `__main__`, and no torch. A part is handed to one
worker at a time over a pipe. A worker that dies is replaced and its part tried again, three times; one that says nothing for `STALL_S` is ended
and counts as dead. Every wait has that bound. Whatever happens, no worker outlives `run`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ..errors import BadData, BadRequest, PenstockError, StorageError, WorkerFailed
from .job import Job
from .part import Progress, open_stage
from .worker import ERRORS

STALL_S = 300.0
"""A worker that has not said anything for so long is taken for dead. It speaks after every chunk of about 4 MB."""

START_S = 120.0
"""How long a worker may take to start."""

ATTEMPTS = 3
"""How often a part is tried when its worker dies."""

# pyarrow imports pandas, where there is one, to convert its first list: 0.4 s that no worker has a use for, so in a worker there is none.
# The kernel ends a worker (SIGIO) when the lifeline, which only the parent holds open, closes: also one that is still importing, or in code that keeps
# the interpreter's lock. The descriptor is opened anew, because what is set on the one that was inherited would be set for all workers.
_PROGRAM = """
import fcntl, os, signal, sys
if len(sys.argv) > 4:
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    lifeline = os.open("/proc/self/fd/" + sys.argv[4], os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        os.read(lifeline, 1)
        os._exit(3)  # it closed before anybody listened
    except BlockingIOError:
        pass
class NoPandas:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, NoPandas)
sys.path[:] = {path!r}
from penstock.ingest.worker import main
main()
"""
_TAIL_BYTES = 4096
_START = -1


@dataclass
class _Process:
    """One worker and what it is doing."""

    popen: subprocess.Popen[bytes]
    log: IO[bytes]
    deadline: float
    part: int | None = None
    ready: bool = False
    buffer: bytes = b""


@dataclass
class _State:
    """What is left to do; `attempts` counts deaths in a row, of each part and of starts."""

    stage: int
    waiting: deque[int]
    attempts: dict[int, int] = field(default_factory=dict)
    done: int = 0


def run_inline(job: Job, stage: int, parts: Sequence[int], progress: Progress) -> None:
    """Do the parts in this process, one after the other."""
    doer = open_stage(stage, job)
    for part in parts:
        doer.run(part, progress)


class LocalEngine:
    """Worker processes on this machine.

    Attributes:
        workers: how many there may be at once.
    """

    def __init__(self, workers: int, lock: int | None = None) -> None:
        """Start nothing yet.

        Args:
            workers: how many processes, 1 or more.
            lock: the descriptor of the job's lock, which workers hold open so that the job is locked while one of them lives.
        """
        if workers < 1:
            raise BadRequest(f"workers: {workers!r} must be 1 or more")
        self.workers = workers
        self._lock = lock
        self._lifeline: tuple[int, int] | None = None
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []

    def run(self, job: Job, stage: int, parts: Sequence[int], progress: Progress) -> None:
        """Do the parts, in any order.

        Raises:
            PenstockError: what a part raised, as it was raised.
            WorkerFailed: a part raised something else, or its workers died three times.
        """
        state = _State(stage=stage, waiting=deque(parts))
        self._lifeline = os.pipe()
        try:
            while state.done < len(parts):
                while len(self._processes) < min(self.workers, len(parts) - state.done):
                    self._start(job, stage)
                self._feed(state)
                self._listen(state, progress)
        finally:
            self._stop()

    def _start(self, job: Job, stage: int) -> None:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process it belongs to
        program = _PROGRAM.format(path=[path for path in sys.path if path])
        assert self._lifeline is not None
        lifeline = self._lifeline[0]
        keep = (lifeline,) if self._lock is None else (self._lock, lifeline)
        popen = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", program, str(job.root), job.name, str(stage), str(lifeline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=keep,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"},
        )
        process = _Process(popen=popen, log=log, deadline=time.monotonic() + START_S)
        self._processes.append(process)
        assert popen.stdout is not None
        os.set_blocking(popen.stdout.fileno(), False)
        self._selector.register(popen.stdout, selectors.EVENT_READ, process)

    def _feed(self, state: _State) -> None:
        """Give every idle worker a part."""
        for process in self._processes:
            if process.ready and process.part is None and state.waiting:
                part = state.waiting.popleft()
                process.part = part
                process.deadline = time.monotonic() + STALL_S
                assert process.popen.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it died: its output ends, and that is where it is noticed
                    process.popen.stdin.write(json.dumps({"part": part}).encode() + b"\n")
                    process.popen.stdin.flush()

    def _listen(self, state: _State, progress: Progress) -> None:
        """Wait for the next answers, for a death, or for a deadline."""
        busy = [process for process in self._processes if process.part is not None or not process.ready]
        wait = max(min(process.deadline for process in busy) - time.monotonic(), 0.0)
        for key, _ in self._selector.select(wait):
            process: _Process = key.data
            assert process.popen.stdout is not None
            read: Callable[[], bytes | None] = process.popen.stdout.read
            data = read()
            if data is None:  # woken for nothing: it lives
                continue
            if not data:
                self._died(process, state, f"ended with exit code {self._end(process)}")
                continue
            *lines, process.buffer = (process.buffer + data).split(b"\n")
            for line in lines:
                self._answer(process, json.loads(line), state, progress)
        for process in busy:
            late = process in self._processes and (process.part is not None or not process.ready) and time.monotonic() > process.deadline
            if late:
                self._end(process)
                self._died(process, state, f"said nothing for {STALL_S if process.ready else START_S:g} s and was ended")

    def _answer(self, process: _Process, message: dict[str, Any], state: _State, progress: Progress) -> None:
        process.deadline = time.monotonic() + STALL_S
        if "ready" in message:
            process.ready = True
            state.attempts.pop(_START, None)
        elif "rows" in message:
            progress(message["rows"], message["bytes"])
        elif "done" in message:
            process.part = None
            state.attempts.pop(message["done"], None)
            state.done += 1
        else:
            raise rebuild(message["error"], state.stage, message["failed"])

    def _died(self, process: _Process, state: _State, how: str) -> None:
        """Try a dead worker's part again, or give up."""
        tail = self._tail(process)
        part = _START if process.part is None else process.part
        self._processes.remove(process)
        state.attempts[part] = state.attempts.get(part, 0) + 1
        if state.attempts[part] >= ATTEMPTS:
            what = "starting" if part < 0 else f"part {part} of stage {state.stage}"
            raise WorkerFailed(
                f"{what}: the worker {how}, {ATTEMPTS} times in a row; what is done is kept, --resume continues with this part",
                stage="start" if part < 0 else "read",
                traceback=tail,
            )
        if part >= 0:
            state.waiting.appendleft(part)

    def _end(self, process: _Process) -> int | None:
        """End a worker at once and let go of its pipes; return its exit code."""
        popen = process.popen
        assert popen.stdout is not None
        assert popen.stdin is not None
        with contextlib.suppress(KeyError, ValueError):  # it was let go of before
            self._selector.unregister(popen.stdout)
        if not popen.stdout.closed:
            popen.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what was not read is of no use to anybody
            popen.stdin.close()
        if popen.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it was told to go by closing its input; if it hangs it is killed
                return popen.wait(timeout=1.0)
            popen.kill()
        return popen.wait()

    @staticmethod
    def _tail(process: _Process) -> str:
        """Return the last lines that a worker wrote to standard error."""
        if process.log.closed:
            return ""
        size = process.log.seek(0, os.SEEK_END)
        process.log.seek(max(size - _TAIL_BYTES, 0))
        text = process.log.read().decode("utf-8", "replace").strip()
        process.log.close()
        return text

    def _stop(self) -> None:
        """End all workers."""
        for process in self._processes:
            self._end(process)
            process.log.close()
        self._processes = []
        for descriptor in self._lifeline or ():
            os.close(descriptor)
        self._lifeline = None
        self._selector.close()
        self._selector = selectors.DefaultSelector()


def rebuild(error: dict[str, Any], stage: int, part: int) -> PenstockError:
    """Return a worker's error as the parent raises it: of its class, with its place, and caused by the worker's traceback."""
    kind, message = error["kind"], error["message"]
    failed = WorkerFailed(f"part {part} of stage {stage}: {kind}: {message}", stage="read", traceback=error["traceback"])
    made: PenstockError
    if kind == "BadData":
        made = BadData(message, **error["place"])
    elif kind == "StorageError":
        made = StorageError(message, **error["place"])
    elif kind in ERRORS:
        made = ERRORS[kind](message)
    else:
        return failed
    made.__cause__ = failed
    return made
