"""A worker process of a conversion: parts come as JSON lines on standard input, answers go as JSON lines to standard output.

    in   {"part": 7}
    out  {"ready": true} | {"rows": 512, "bytes": 4190000} | {"done": 7} | {"failed": 7, "error": {...}}

The process ends when standard input closes, also in the middle of a part: a thread watches for that, so a parent that was killed leaves no worker
behind. Nothing is printed; whatever a library prints to standard output would break the protocol and is sent to standard error instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from ..errors import AlreadyExists, BadData, BadRequest, NotADataset, PenstockError, StorageError
from .job import Job
from .part import open_stage

ERRORS: dict[str, type[PenstockError]] = {kind.__name__: kind for kind in (BadData, AlreadyExists, NotADataset, BadRequest, StorageError)}
"""Errors that the parent raises again as what they are, the narrower before the wider."""

_GONE = 3


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON values, with its traceback."""
    return {
        "kind": next((name for name, kind in ERRORS.items() if isinstance(error, kind)), type(error).__name__),
        "message": error.reason if isinstance(error, BadData) else getattr(error, "message", str(error)),
        "place": _place(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _place(error: BaseException) -> dict[str, Any]:
    """Return where an error says it happened, as its class takes it."""
    if isinstance(error, BadData):
        row = error.row if isinstance(error.row, str | None) else int(error.row)  # NumPy's numbers are no JSON
        return {"path": error.path, "shard": error.shard, "row": row, "field": error.field}
    return {"url": error.url, "attempts": error.attempts} if isinstance(error, StorageError) else {}


def _watch(lines: Iterable[str], tasks: queue.SimpleQueue[int]) -> None:
    """Hand tasks on; when there can be no more, end the process, whatever it is doing."""
    for line in lines:
        tasks.put(json.loads(line)["part"])
    os._exit(_GONE)


def serve(job: Job, stage: int, lines: Iterable[str], answers: TextIO) -> None:
    """Do the parts that are asked for until the parent is gone."""

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    tasks: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(lines, tasks), daemon=True).start()
    doer = open_stage(stage, job)
    say(ready=True)
    while True:
        part = tasks.get()  # ends with the process: the watcher sees the parent go
        try:
            doer.run(part, lambda rows, size: say(rows=rows, bytes=size))
        except Exception as error:  # noqa: BLE001 - whatever it was, the parent must hear of it and decide
            say(failed=part, error=describe_error(error))
        else:
            say(done=part)


def main() -> None:
    """Run as a worker of the job that the arguments name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        serve(Job(Path(sys.argv[1]), sys.argv[2]), int(sys.argv[3]), sys.stdin, answers)
