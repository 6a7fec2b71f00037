"""The first lines of a worker: what it needs is loaded gently while its parent makes the first batch.

Loading is a second of work for each worker, and on a machine with few cores it would take that second from the one process whose batch is
waited for. Niceness belongs to the thread on Linux (sched(7)) and cannot be lowered again without privilege, so a thread of its own loads and
ends, and the main thread, which then has nothing left to load, works at the priority it was started with.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
from types import ModuleType

_NICENESS = 10
"""Steps: a tenth of the share of a process that was left alone."""


def main(number: int, channel: int, work: int, lifeline: int, trace: int, gently: int) -> None:
    """Run worker `number` over the descriptors that its parent passed; `gently` says whether the parent works meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    if gently:
        loading = threading.Thread(target=_load, args=(work,))
        loading.start()
        loading.join()
    _worker().main(number, channel, work, lifeline, trace)


def _worker() -> ModuleType:
    return importlib.import_module(".worker", __package__)  # by name: a module of the first line would be loaded by the main thread


def _load(work: int) -> None:
    os.nice(_NICENESS)
    with contextlib.suppress(Exception):  # it goes wrong again in the main thread, which says so
        _worker().load(work)
