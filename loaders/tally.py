"""What an epoch delivered so far, counted in place.

A batch of small rows is made in ten microseconds, and a new frozen value would cost three of them.
"""

from __future__ import annotations

from typing import final

from ..metrics import NO_TIME, LoaderStats, WorkTimes


@final
class Tally:
    """Counters of one epoch; `stats` gives them as a value.

    Attributes:
        batches: delivered so far.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.batches = self._samples = self._copied = self._replaced = 0
        self._elapsed_s = self._wait_s = 0.0
        self._times: WorkTimes = NO_TIME

    def arrived(self, times: WorkTimes, replaced_workers: int) -> None:
        """Add what is told once of batches that came together."""
        self._replaced = replaced_workers
        self._times = self._times.merge(times)

    def count(self, rows: int, copied: bool, wait_s: float, elapsed_s: float) -> None:
        """Add a batch that was delivered `elapsed_s` after the epoch began, and was waited for `wait_s`."""
        self.batches += 1
        self._samples += rows
        self._copied += copied
        self._wait_s += wait_s
        self._elapsed_s = elapsed_s

    def stats(self) -> LoaderStats:
        """Return what was counted."""
        return LoaderStats(
            samples=self._samples,
            batches=self.batches,
            elapsed_s=self._elapsed_s,
            wait_s=self._wait_s,
            read_s=self._times.read_ns / 1e9,
            decode_s=self._times.decode_ns / 1e9,
            transform_s=self._times.transform_ns / 1e9,
            copy_s=self._times.copy_ns / 1e9,
            copied_batches=self._copied,
            replaced_workers=self._replaced,
        )
