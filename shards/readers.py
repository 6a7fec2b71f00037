"""The readers a dataset has open: found by shard, opened when first asked for, kept while they are cheap, and let go of without closing.

A reader holds no descriptor (`storage.map_file`), so thousands can stay: a mapped one is address space and a few tens of kilobytes of footer
and views. One that decodes (Parquet, compressed Arrow) also holds what it decoded; of those, the ones used last stay, up to a number of bytes.

Must never: close a reader, since another thread may have been given it a moment ago. The reference is dropped, and the last user frees it.
Cost: a lock and two look-ups of a dict. Refused: a bound on the number alone, by which a global shuffle over more shards opens a file a row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from .reader import ShardReader

MOST_OPEN = 4096
"""Readers that stay, of about 60 KB each: 240 MB at most, for 500 GB of shards of the usual size. A map or two each, of the 65,530 that Linux lets
a process have."""

MOST_HELD_BYTES = 1 << 30
"""Decoded bytes that all readers of a dataset hold together, besides what the one in use holds."""


class OpenReaders:
    """Readers by shard number."""

    def __init__(self, opener: Callable[[int], ShardReader]) -> None:
        """Keep what opens a shard; nothing is opened yet."""
        self._opener = opener
        self._lock = threading.Lock()
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._held: OrderedDict[int, int] = OrderedDict()
        self._total_bytes = 0
        self._last = -1

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def get(self, shard: int) -> ShardReader:
        """Return the reader of a shard, opening it if need be."""
        with self._lock:
            found = self._open.get(shard)
            if found is None:
                found = self._open[shard] = self._opener(shard)
                if len(self._open) > MOST_OPEN:
                    self._drop(next(iter(self._open)))
            else:
                self._open.move_to_end(shard)
            if not found.mapped:
                self._weigh(shard)
        return found

    def _weigh(self, shard: int) -> None:
        """Note what this reader and the one asked for before it, which has been used since, hold now; let go of the oldest when it is too much."""
        for number in (self._last, shard):
            if (reader := self._open.get(number)) is not None:
                held = reader.held_bytes
                self._total_bytes += held - self._held.pop(number, 0)
                if held:
                    self._held[number] = held
        self._last = shard
        while self._total_bytes > MOST_HELD_BYTES and len(self._held) > 1:
            self._drop(next(iter(self._held)))

    def _drop(self, shard: int) -> None:
        self._open.pop(shard, None)
        self._total_bytes -= self._held.pop(shard, 0)

    def let_go_of_pages(self) -> None:
        """Have this process forget which pages of the open shards are in memory."""
        with self._lock:
            readers = list(self._open.values())
        for reader in readers:
            reader.let_go_of_pages()

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._open.clear()
            self._held.clear()
            self._total_bytes = 0
