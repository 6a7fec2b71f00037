"""One family of errors: what was asked, what there was, what to do, and whose fault it is.

Every error Penstock raises on purpose is a `PenstockError`, and each also inherits the built-in that a user would catch. An error never
carries credentials and never swallows the traceback of the process in which it happened.
"""

from __future__ import annotations

import os
from typing import Any


class PenstockError(Exception):
    """The base of every error raised on purpose.

    Attributes:
        worker_traceback: the traceback as text of the process in which it happened, or "" when that was this one.
    """

    worker_traceback: str = ""


class BadRequest(PenstockError, ValueError):
    """The caller's fault: an argument, or a combination of arguments, that cannot work. Names the argument, the value and the remedy."""


class NotADataset(BadRequest, FileNotFoundError):
    """A path that was expected to hold data holds none."""

    def __str__(self) -> str:
        """Return the message alone; `FileNotFoundError` would print an errno."""
        return str(self.args[0]) if self.args else ""


class AlreadyExists(BadRequest, FileExistsError):
    """A destination that would have been overwritten unasked."""

    def __str__(self) -> str:
        """Return the message alone; `FileExistsError` would print an errno."""
        return str(self.args[0]) if self.args else ""


class BadData(PenstockError, ValueError):
    """Data that is not what it claims to be.

    Attributes:
        path: the file or dataset at fault, or None when the value never was in a file.
        shard: the shard's path inside its dataset, or None.
        row: the row, counted inside the shard when `shard` is given and inside the source otherwise, or None.
        field: the column, or None.
        reason: what is wrong and what to do, without the place.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | os.PathLike[str] | None = None,
        shard: str | None = None,
        row: int | str | None = None,
        field: str | None = None,
    ) -> None:
        """Put the place in front of the reason."""
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
        self.shard = shard
        self.row = row
        self.field = field
        super().__init__(reason)

    def __str__(self) -> str:
        """Return `path, shard, row, field: reason`, with the parts that are known."""
        known = [
            *([str(self.path)] if self.path is not None else []),
            *(f"{name} {value}" for name, value in (("shard", self.shard), ("row", self.row), ("field", self.field)) if value is not None),
        ]
        return f"{', '.join(known)}: {self.reason}" if known else self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the place when the error crosses a process boundary."""
        return _rebuild_bad_data, (self.reason, self.path, self.shard, self.row, self.field)

    def at(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        shard: str | None = None,
        row: int | str | None = None,
        field: str | None = None,
    ) -> BadData:
        """Return the same error with the parts of the place that were not known yet."""
        return BadData(
            self.reason,
            path=self.path if self.path is not None else path,
            shard=self.shard if self.shard is not None else shard,
            row=self.row if self.row is not None else row,
            field=self.field if self.field is not None else field,
        )


def _rebuild_bad_data(reason: str, path: str | None, shard: str | None, row: int | str | None, field: str | None) -> BadData:
    return BadData(reason, path=path, shard=shard, row=row, field=field)


class WorkerFailed(PenstockError, RuntimeError):
    """A worker process died, stalled, or raised something that has no place in the data.

    Attributes:
        stage: what the worker was doing (`start`, `read`, `decode`, `transform`, `map`).
        traceback: the worker's own traceback as text, or "" when it had none (it was killed).
    """

    def __init__(self, message: str, *, stage: str = "", traceback: str = "") -> None:
        """Keep the worker's traceback and show it behind the message."""
        self.message = message
        self.stage = stage
        self.traceback = traceback
        super().__init__(message)

    def __str__(self) -> str:
        """Return the message, then the worker's traceback."""
        return f"{self.message}\n\nin the worker:\n{self.traceback}" if self.traceback else self.message


class StorageError(PenstockError, OSError):
    """Storage that did not do what was asked: no permission, a full disk, a file that vanished.

    Attributes:
        url: what was read or written.
        attempts: how many times it was tried.
    """

    def __init__(self, message: str, *, url: str | os.PathLike[str], attempts: int = 1) -> None:
        """Put the place in front of the message."""
        self.url = os.fspath(url)
        self.attempts = attempts
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        """Return `url: message`."""
        return f"{self.url}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the place when the error crosses a process boundary."""
        return _rebuild_storage_error, (self.message, self.url, self.attempts)


def _rebuild_storage_error(message: str, url: str, attempts: int) -> StorageError:
    return StorageError(message, url=url, attempts=attempts)
