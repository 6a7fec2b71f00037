"""Standard output whose failure is told apart from every other: a write or flush that fails raises `OutputLost`, which is no `OSError`.

So a full disk under the output, and a reader that went away, are never taken for trouble of the command's own, wherever the text came from: a
command, `--help`, `--version`. Must never: be put where somebody else reads standard output; only `main` puts it in place, for the process.
Refused: looking at each `OSError` for whose it was, which only the place that writes knows.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

_STDERR = 2


class OutputLost(Exception):
    """Standard output cannot be written.

    Attributes:
        error: what the system said.
    """

    def __init__(self, error: OSError) -> None:
        """Keep the reason."""
        self.error = error
        super().__init__(str(error))


class HeardOutput(io.TextIOWrapper):
    """Text to a stream, each failure told as `OutputLost`."""

    def write(self, text: str) -> int:
        """Write text; it may stay in the buffer."""
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLost(error) from error

    def flush(self) -> None:
        """Write out what is buffered."""
        try:
            super().flush()
        except OSError as error:
            raise OutputLost(error) from error


def hear_output() -> None:
    r"""Put `HeardOutput` in place of standard output; a stream that was closed nobody wants, and it goes nowhere.

    A file name need not be text: what is not is written as `\udcff`, which is also what JSON writes for it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:  # one that was closed must not become a file of a dataset's
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding, lines = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = HeardOutput(sys.stdout.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines)


def drop_output() -> None:
    """Send what is still buffered nowhere: it has failed once, and would fail again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
