"""The arena: anonymous memory into which workers put the tensors of batches, of any size, and in which the parent reads them.

One file without a name (`memfd_create`), cut into a region for each worker. A worker takes blocks, each at the lowest gap that holds it, so that the
same pages are used again and again and a batch costs no page fault; the region is much larger than what is used of it, and only pages that were
written to exist. Which blocks are still looked at stands in the region's first page, a word for each: the worker sets it, and the parent clears it when
the last array over the block is gone. The size of /dev/shm does not matter, and nothing outlives the processes.

Cost: a word and a comparison for each block that is looked at. Refused: a file for each tensor as torch has it (a page fault for every 4 KiB of every
batch, a descriptor sent by a thread), and slots of one size as `ring` has them: nobody knows how large a stranger's batches are.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
from bisect import insort
from collections.abc import Iterable, Iterator
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple, final
from weakref import WeakValueDictionary, finalize

import numpy as np
import numpy.typing as npt

from .ring import Lease

Bytes = npt.NDArray[np.uint8]

HEADER_BYTES = 4096
"""Of a region, before its blocks."""

MOST_ALIVE = HEADER_BYTES // 8
"""Blocks of a worker that can be looked at at a time; what comes beyond goes another way."""

REGION_BYTES = 1 << 36
"""Of addresses for each worker, where the system gives them; memory is taken only for what is written to."""

LEAST_BYTES = 1 << 28
"""A region smaller than this is not worth having."""

_ALIGNMENT = 4096
"""Blocks begin at a page, so that none shares one with another."""


class Block(NamedTuple):
    """A piece of a region.

    Attributes:
        start: its first byte in the region.
        stop: behind its last.
        word: the word that says whether it is looked at.
    """

    start: int
    stop: int
    word: int


@final
class Shelf:
    """Which parts of a region are taken. Pure but for the words, which the other side clears."""

    def __init__(self, words: npt.NDArray[np.int64], size: int) -> None:
        """Take the words, int64 and all zero, one for each block that can be taken at a time, and the region's bytes."""
        self._words, self._size = words, size
        self._taken: list[Block] = []
        self._free = list(range(words.size - 1, -1, -1))

    def take(self, size: int) -> Block | None:
        """Return the lowest place of so many bytes, marked as taken; None where there is none."""
        self._sweep()
        if not self._free:
            return None
        start = HEADER_BYTES
        for block in self._taken:
            if block.start - start >= size:
                break
            start = -(-block.stop // _ALIGNMENT) * _ALIGNMENT
        if start + size > self._size:
            return None
        taken = Block(start, start + size, self._free.pop())
        self._words[taken.word] = 1
        insort(self._taken, taken)
        return taken

    def give_back(self, blocks: Iterable[Block]) -> None:
        """Let go of blocks that nobody was told of."""
        for block in blocks:
            self._words[block.word] = 0

    def _sweep(self) -> None:
        """Let go of what is no longer looked at."""
        gone = [block for block in self._taken if not self._words[block.word]]
        if gone:
            self._free.extend(block.word for block in gone)
            self._taken = [block for block in self._taken if block not in gone]


def mapped(descriptor: int, size: int, offset: int = 0) -> Bytes:
    """Return a part of a file as an array; no memory is set aside for it, and a core dump leaves it out."""
    memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, offset=offset)
    memory.madvise(mmap.MADV_DONTDUMP)
    return np.frombuffer(memory, np.uint8)


@final
class Room:
    """The arena as it is handed to workers when they start."""

    def __init__(self, descriptor: int, size: int, number: int) -> None:
        """Note where it is."""
        self._descriptor, self._size, self.number = descriptor, size, number

    def open(self, worker: int) -> tuple[Bytes, Shelf]:
        """Map a worker's region, in the worker."""
        memory = mapped(self._descriptor, self._size, worker * self._size)
        return memory, Shelf(memory[:HEADER_BYTES].view(np.int64), self._size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the descriptor along with the process that is being started."""
        return _received, (DupFd(self._descriptor), self._size, self.number)


def _received(descriptor: Any, size: int, number: int) -> Room:
    return Room(descriptor.detach(), size, number)


class _Forks:
    """Counts the forks of this process that are not a loader's own.

    What was leased before one is looked at by the child too, for as long as that likes.
    """

    count = 0
    expected = 0

    @classmethod
    def happened(cls) -> None:
        """Count one."""
        cls.count += not cls.expected


os.register_at_fork(after_in_parent=_Forks.happened)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """While a loader starts its workers, which look at no batch."""
    _Forks.expected += 1
    try:
        yield
    finally:
        _Forks.expected -= 1


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_PUNCH_HOLE = 3
"""`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`."""


def _release(words: npt.NDArray[np.int64], leased: dict[tuple[int, int], Block], key: tuple[int, int], process: int, forks: int) -> None:
    """Say that a block is no longer looked at.

    A process that was forked off has copies of what looks at it, whose end says nothing; and while it lives the block is not written to.
    """
    if os.getpid() == process and forks == _Forks.count:
        del leased[key]
        words[key[1]] = 0


_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()
_numbers = itertools.count()


def arena(number: int) -> Arena:
    """Return the arena of that number, which lives in this process.

    Raises:
        KeyError: it is gone.
    """
    return _arenas[number]


@final
class Arena:
    """The parent's side. Arrays over its blocks keep the memory until they are gone."""

    def __init__(self, workers: int) -> None:
        """Create the file and map it.

        Raises:
            OSError: the system has no room for even small regions.
        """
        self.number = next(_numbers)
        self.region_bytes = REGION_BYTES
        self.descriptor = os.memfd_create("penstock-arena", os.MFD_CLOEXEC)
        self._end = finalize(self, os.close, self.descriptor)
        while True:
            try:
                os.ftruncate(self.descriptor, self.region_bytes * workers)
                self._memory = mapped(self.descriptor, self.region_bytes * workers)
                break
            except OSError:
                if self.region_bytes <= LEAST_BYTES:
                    self.close()
                    raise
                self.region_bytes //= 4
        self._leased: dict[tuple[int, int], Block] = {}
        _arenas[self.number] = self

    def room(self) -> Room:
        """Return the workers' side; it may be sent to a worker while that is started."""
        return Room(self.descriptor, self.region_bytes, self.number)

    def lease(self, worker: int, block: Block) -> Bytes:
        """Return a block's bytes, uint8 `[stop - start]`; when they and all arrays and tensors over them are gone, the worker may write there again."""
        region = self._region(worker)
        owner = Lease(region[block.start : block.stop])
        self._leased[worker, block.word] = block
        words = region[:HEADER_BYTES].view(np.int64)
        finalize(owner, _release, words, self._leased, (worker, block.word), os.getpid(), _Forks.count).atexit = False
        return np.asarray(owner)

    def bytes_of(self, worker: int, block: Block) -> Bytes:
        """Return a block's bytes, uint8 `[stop - start]`, to be read until `free` is called for it."""
        return self._region(worker)[block.start : block.stop]

    def free(self, worker: int, block: Block) -> None:
        """Say that a block was read, and that the worker may write there again."""
        self._region(worker)[:HEADER_BYTES].view(np.int64)[block.word] = 0

    def _region(self, worker: int) -> Bytes:
        return self._memory[worker * self.region_bytes : (worker + 1) * self.region_bytes]

    def trim(self) -> None:
        """Give back all memory but that of blocks that are looked at; for when the workers are gone."""
        kept = sorted(
            (worker * self.region_bytes + block.start, worker * self.region_bytes + block.stop) for (worker, _), block in list(self._leased.items())
        )
        at = 0
        for start, stop in [*kept, (self._memory.size, self._memory.size)]:
            begin, end = -(-at // _ALIGNMENT) * _ALIGNMENT, start // _ALIGNMENT * _ALIGNMENT
            if end > begin:
                _LIBC.fallocate(self.descriptor, _PUNCH_HOLE, begin, end - begin)  # where the system refuses, memory goes with the last array
            at = stop

    def close(self) -> None:
        """Close the descriptor."""
        self._end()
