"""Errors on their way from a worker to the parent: described as JSON, rebuilt as the same class, the worker's traceback behind it. Pure.

What a worker raises on purpose (the `PenstockError` family) arrives as itself. Anything else becomes a `WorkerFailed` that names the stage
and carries the traceback: the parent may lack the class, and unpickling one would run code.
"""

from __future__ import annotations

import traceback
from typing import Any

from ..errors import BadData, BadRequest, PenstockError, StorageError, WorkerFailed

_LONGEST = 40_000
"""Characters of a traceback; with the rest it must fit one message of the socket."""


def describe(error: BaseException, stage: str) -> dict[str, Any]:
    """Return what `rebuild` needs."""
    told: dict[str, Any] = {"kind": "other", "stage": stage, "type": type(error).__name__, "text": str(error)[:_LONGEST]}
    if isinstance(error, BadData):
        row = error.row if error.row is None or isinstance(error.row, str) else int(error.row)
        told |= {"kind": "data", "text": error.reason[:_LONGEST], "path": error.path, "shard": error.shard, "row": row, "field": error.field}
    elif isinstance(error, BadRequest):
        told["kind"] = "request"
    elif isinstance(error, StorageError):
        told |= {"kind": "storage", "text": error.message[:_LONGEST], "url": error.url, "attempts": error.attempts}
    elif isinstance(error, WorkerFailed):
        told |= {"kind": "failed", "text": error.message[:_LONGEST], "stage": error.stage or stage}
    told["traceback"] = "".join(traceback.format_exception(error))[-_LONGEST:]
    return told


def rebuild(told: dict[str, Any]) -> PenstockError:
    """Return the error that `describe` described."""
    if told["kind"] == "data":
        return BadData(told["text"], path=told["path"], shard=told["shard"], row=told["row"], field=told["field"])
    if told["kind"] == "request":
        return BadRequest(told["text"])
    if told["kind"] == "storage":
        return StorageError(told["text"], url=told["url"], attempts=told["attempts"])
    message = told["text"] if told["kind"] == "failed" else f"{told['type']} while in stage {told['stage']!r}: {told['text']}"
    return WorkerFailed(message, stage=told["stage"], traceback=told["traceback"])
