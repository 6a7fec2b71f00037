"""What an epoch delivered so far, counted in place.

A batch of small rows is made in ten microseconds, and a new frozen value would cost three of them.
"""

from __future__ import annotations

from typing import final

from ..metrics import NO_TIME, LoaderStats, WorkTimes
from .engine import Delivered


@final
class Tally:
    """Counters of one epoch; `stats` gives them as a value."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._samples = self._batches = self._copied = self._replaced = 0
        self._elapsed_s = self._wait_s = 0.0
        self._times: WorkTimes = NO_TIME

    def count(self, made: Delivered, *, wait_s: float, elapsed_s: float) -> None:
        """Add a batch that was delivered `elapsed_s` after the epoch began, and was waited for `wait_s`."""
        self._samples += made.rows
        self._batches += 1
        self._copied += made.copied
        self._replaced = made.replaced_workers
        self._wait_s += wait_s
        self._elapsed_s = elapsed_s
        if made.times is not NO_TIME:
            self._times = self._times.merge(made.times)

    def stats(self) -> LoaderStats:
        """Return what was counted."""
        return LoaderStats(
            samples=self._samples,
            batches=self._batches,
            elapsed_s=self._elapsed_s,
            wait_s=self._wait_s,
            read_s=self._times.read_ns / 1e9,
            decode_s=self._times.decode_ns / 1e9,
            transform_s=self._times.transform_ns / 1e9,
            copied_batches=self._copied,
            replaced_workers=self._replaced,
        )
