"""The first lines of a worker: it is tied to its parent's life, and loads what it needs gently while its parent makes the first batch.

A pipe ends when the parent does, by whatever death, upon which the worker exits at once, even while it loads or in the middle of a task.
Loading is a second of work for each worker, and on a machine with few cores it would take that second from the one process whose batch is
waited for. Niceness belongs to the thread on Linux (sched(7)) and cannot be lowered again without privilege, so a thread of its own loads and
ends, and the main thread, which then has nothing left to load, works at the priority it was started with.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import threading
from types import ModuleType
from typing import Any

_NICENESS = 10
"""Steps: a tenth of the share of a process that was left alone."""


def main(number: int, channel: int, work: int, lifeline: int, trace: int, gently: int) -> None:
    """Run worker `number` over the descriptors that its parent passed; `gently` says whether the parent works meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    _die_with_parent(lifeline)
    loaded: list[Any] = []
    if gently:
        loading = threading.Thread(target=_load, args=(work, loaded))
        loading.start()
        loading.join()
    _worker().main(number, channel, trace, lambda: loaded.pop() if loaded else _worker().load(work))


def _exit_with(lifeline: int) -> None:
    """Wait for the end of the pipe that only the parent holds open, then leave without ceremony: there is nothing to clean up."""
    os.read(lifeline, 1)
    os._exit(1)


def _die_with_parent(lifeline: int) -> None:
    """End this process when the pipe ends: a thread sees it, and a signal too, for a worker inside code that keeps the interpreter's lock."""
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)  # the descriptor that came is shared with the other workers
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()


def _worker() -> ModuleType:
    return importlib.import_module(".worker", __package__)  # by name: a module of the first line would be loaded by the main thread


def _load(work: int, loaded: list[Any]) -> None:
    os.nice(_NICENESS)
    with contextlib.suppress(Exception):  # it goes wrong again in the main thread, which says so
        loaded.append(_worker().load(work))
