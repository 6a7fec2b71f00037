"""Errors on their way from a worker to the parent: described as JSON, rebuilt as the same class, the worker's traceback behind it. Pure.

What a worker raises on purpose (the `PenstockError` family) arrives as itself. Anything else becomes a `WorkerFailed` that names the stage
and carries the traceback: the parent may lack the class, and unpickling one would run code.
"""

from __future__ import annotations

import json
import traceback
from typing import Any

from ..errors import AlreadyExists, BadData, BadRequest, NotADataset, PenstockError, StorageError, WorkerFailed

_LONGEST_BYTES = 36_000
"""Bytes of JSON that a message's text may take, and a traceback too; with the place they fit one message of the socket."""

_PLACE_BYTES = 12_000
"""The same for each part of the place."""

_REQUESTS: dict[str, type[BadRequest]] = {kind.__name__: kind for kind in (BadRequest, NotADataset, AlreadyExists)}


def describe(error: BaseException, stage: str) -> dict[str, Any]:
    """Return what `rebuild` needs, short enough for one message."""
    told: dict[str, Any] = {"kind": "other", "stage": stage, "type": _cut(type(error).__name__, _PLACE_BYTES), "text": _text(error)}
    if isinstance(error, BadData):
        row = error.row if error.row is None or isinstance(error.row, str) else int(error.row)
        place = {"path": error.path, "shard": error.shard, "row": row, "field": error.field}
        told |= {"kind": "data", "text": error.reason, **{k: _cut(v, _PLACE_BYTES) if isinstance(v, str) else v for k, v in place.items()}}
    elif isinstance(error, BadRequest):
        told["kind"] = "request"
    elif isinstance(error, StorageError):
        told |= {"kind": "storage", "text": error.message, "url": _cut(error.url, _PLACE_BYTES), "attempts": error.attempts}
    elif isinstance(error, WorkerFailed):
        told |= {"kind": "failed", "text": error.message, "stage": error.stage or stage}
    told["text"] = _cut(told["text"], _LONGEST_BYTES)
    told["traceback"] = _cut("".join(traceback.format_exception(error)), _LONGEST_BYTES, keep_end=True)
    return told


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (a user's error class may fail to say what happened; that it happened must arrive all the same)
        return "(an error whose text cannot be had)"


def _cut(text: str, longest_bytes: int, *, keep_end: bool = False) -> str:
    """Return as much of a text's beginning, or end, as JSON can say in so many bytes: one character may take twelve."""
    while (size := len(json.dumps(text))) > longest_bytes:
        keep = min(len(text) * longest_bytes // size, len(text) - 1)
        text = text[len(text) - keep :] if keep_end else text[:keep]
    return text


def rebuild(told: dict[str, Any]) -> PenstockError:
    """Return the error that `describe` described, with the worker's traceback in `worker_traceback`."""
    error = _rebuilt(told)
    error.worker_traceback = told["traceback"]
    return error


def _rebuilt(told: dict[str, Any]) -> PenstockError:
    if told["kind"] == "data":
        return BadData(told["text"], path=told["path"], shard=told["shard"], row=told["row"], field=told["field"])
    if told["kind"] == "request":
        return _REQUESTS.get(told["type"], BadRequest)(told["text"])
    if told["kind"] == "storage":
        return StorageError(told["text"], url=told["url"], attempts=told["attempts"])
    message = told["text"] if told["kind"] == "failed" else f"{told['type']} while in stage {told['stage']!r}: {told['text']}"
    return WorkerFailed(message, stage=told["stage"], traceback=told["traceback"])
