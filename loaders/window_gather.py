"""Copies windows of tokens from mapped shards into a batch: a kernel call for a batch, or for each part of a large one; no Python per window.

A table holds the address of every block that was opened; a block that is not open yet stops the kernel, is opened, and the kernel goes on. Blocks
that are memory of their own (tars, compressed files) are taken window by window, by `TokenWindows.row`, which this equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..jit import Held, Kernel
from ..shards.columns import FixedColumn
from ..shards.windows import TokenWindows
from .lookup import Place
from .team import Copying, Spread

_STORED = ("u1", "u2", "u4", "i4", "i8")
_MADE = ("i4", "i8")
_PAIRS = {(kind, kind) for kind in _STORED} | {(kind, made) for kind in _STORED for made in _MADE if np.can_cast(kind, made, "safe")}

_gather = Kernel(
    "loaders.window_kernel",
    "gather_windows",
    *(f"i8({stored}[:] {made}[:] i8[:] u8[:] i8 i8 i8 i8 u8)" for stored, made in sorted(_PAIRS)),
    sources=("kernel_memory",),
)


class WindowGather:
    """The table of the blocks under some windows."""

    def __init__(self, windows: TokenWindows, *, threads: int = 1) -> None:
        """Prepare an empty table; large batches are copied by so many threads."""
        stored, made = windows.dataset.fields[windows.column].dtype, windows.field.dtype
        self._windows = windows
        self._addresses = np.zeros(max(len(windows.blocks), 1), np.uint64)
        self._views: list[npt.NDArray[Any]] = []
        self._quick = (np.dtype(stored).str[1:], np.dtype(made).str[1:]) in _PAIRS
        if self._quick:
            held = [*map(Held, (np.empty(1, stored), np.empty(1, made), windows.firsts, self._addresses))]
            self._spreads = [Spread(lambda: _gather.bind(*held, windows.seq_len), 4, threads) for _ in range(2)]

    def into(self, rows: npt.NDArray[np.int64], outs: Sequence[npt.NDArray[Any]]) -> None:
        """Copy windows `rows` into the one array of `outs`, `[rows, seq_len]`; both are C-contiguous.

        Raises:
            BadData: a block is damaged; names shard, row and column.
        """
        copying = self.prepare(rows, outs)
        copying.begin()
        copying.finish()

    @property
    def shared(self) -> bool:
        """Whether other threads work between `begin` and `finish` of what was prepared."""
        return self._quick and self._spreads[0].shared

    def prepare(self, rows: npt.NDArray[np.int64], outs: Sequence[npt.NDArray[Any]], *, streams: bool = False) -> Copying:  # noqa: ARG002  (as `Gather` has it)
        """Return what does what `into` does; windows always go through the caches. The one prepared before may be under way, the one before that may not."""
        (out,) = outs
        if not self._quick:
            return Copying(None, lambda: self._one_by_one(rows, out))
        self._spreads.reverse()
        spread = self._spreads[0]
        spread.prepare((self, rows, out), out.nbytes, rows.ctypes.data, rows.size, out.ctypes.data)
        return Copying(spread, lambda: self._finish(spread, rows, out))

    def _one_by_one(self, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        for number, row in enumerate(rows.tolist()):
            out[number] = self._windows.row(row)

    def _finish(self, spread: Spread, rows: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        at, to = rows.ctypes.data, out.ctypes.data
        for begin, end in spread.left():
            done = begin
            while (done := spread.call(at, end, done, to)) < end:
                if not self._open(int(rows[done])):
                    out[done] = self._windows.row(int(rows[done]))
                    done += 1

    def _open(self, window: int) -> bool:
        """Note where the blocks of a window lie; return False when one is memory of its own, which must not be kept."""
        windows = self._windows
        start = window * windows.seq_len
        first = int(np.searchsorted(windows.firsts, start, side="right")) - 1
        last = int(np.searchsorted(windows.firsts, start + windows.seq_len, side="left"))
        for block in range(first, last):
            if self._addresses[block] or windows.firsts[block] == windows.firsts[block + 1]:
                continue
            if not windows.dataset.reader(windows.blocks[block][0]).mapped:
                return False
            run = windows.documents.run(block)
            if run.base is None:
                return False
            self._views.append(run)
            self._addresses[block] = run.ctypes.data
        return True


class WindowLookup:
    """Finds windows for what is done to them one by one."""

    def __init__(self, windows: TokenWindows) -> None:
        """Keep the windows."""
        self._windows = windows

    def places(self, rows: npt.NDArray[np.int64]) -> list[Place]:
        """Return each window as a block of one row.

        Raises:
            BadData: a block is damaged; names shard, row and column.
        """
        windows = self._windows
        return [Place({windows.column: FixedColumn(values=windows.row(row)[None])}, 0, row, windows.path, "(windows)", row) for row in rows.tolist()]
