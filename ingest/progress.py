"""Shows how far a conversion is: a bar with rows, bytes, rate and time left on a terminal, a plain line every few seconds elsewhere.

Everything goes to standard error; standard output belongs to the report. Cost: at most ten drawings a second.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from .report import human_bytes, human_count, human_share

PLAIN_EVERY_S = 5.0
"""How often a plain line is written."""


class Silent:
    """Shows nothing; also the contract of what shows something."""

    def start(self) -> None:
        """Begin to show."""

    def close(self) -> None:
        """End; twice is fine."""

    def stage(self, name: str, total_bytes: int, done_bytes: int) -> None:
        """Begin a stage, of which some may be done already."""

    def add(self, rows: int, size_bytes: int) -> None:
        """Count what has been done."""


class _Counting(Silent):
    """Shared by those that show something."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream`, or standard error."""
        self._stream = stream or sys.stderr
        self._name, self._total, self._rows, self._bytes = "", 0, 0, 0
        self._began = time.monotonic()
        self._first = 0

    def stage(self, name: str, total_bytes: int, done_bytes: int) -> None:
        """Begin a stage."""
        self._name, self._total, self._rows, self._bytes = name, total_bytes, 0, done_bytes
        self._began, self._first = time.monotonic(), done_bytes
        self._show()

    def add(self, rows: int, size_bytes: int) -> None:
        """Count what has been done."""
        self._rows += rows
        self._bytes = min(self._bytes + size_bytes, self._total)
        self._show()

    def _show(self) -> None:
        raise NotImplementedError

    def _rates(self) -> tuple[float, float]:
        seconds = max(time.monotonic() - self._began, 1e-3)
        return self._rows / seconds, (self._bytes - self._first) / seconds


class Bar(_Counting):
    """A bar on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Draw on `stream`, or standard error."""
        super().__init__(stream)
        self._bar = Progress(
            TextColumn("{task.description}"),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            BarColumn(None, table_column=Column(ratio=1)),  # last, and of what width is left: numbers are never cut at 80 columns
            console=Console(file=self._stream),
            expand=True,
            transient=True,
        )
        self._task = self._bar.add_task("planning", total=None, shown="")

    def start(self) -> None:
        """Begin to draw."""
        self._bar.start()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _show(self) -> None:
        rows, rate = self._rates()
        shown = f"{self._rows:,} rows  {human_share(self._bytes, self._total)}  {human_count(rows)} rows/s  {human_bytes(rate)}/s"
        self._bar.update(self._task, description=self._name, total=max(self._total, 1), completed=self._bytes, shown=shown)


class Lines(_Counting):
    """Plain lines, for logs."""

    _last = 0.0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last < PLAIN_EVERY_S and self._rows:
            return
        self._last = now
        rows, rate = self._rates()
        left = f", {(self._total - self._bytes) / rate:.0f} s left" if rate > 0 else ""
        text = f"{self._name}: {self._rows:,} rows, {human_bytes(self._bytes)} of {human_bytes(self._total)}, {rows:,.0f} rows/s, {human_bytes(rate)}/s{left}"
        self._stream.write(text + "\n")
        self._stream.flush()


def shown(wanted: bool) -> Silent:
    """Return what shows progress: nothing, a bar, or lines when standard error is not a terminal."""
    if not wanted or sys.stderr is None:  # closed: there is nobody to show it to
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()
