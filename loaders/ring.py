"""The ring: one anonymous memory file, cut into slots of one batch each, that parent and workers map.

The file has no name (`memfd_create`), so nothing outlives the processes that hold it, however they die, and the size of /dev/shm does not
matter. The parent hands its descriptor to each worker once for each ring; a batch is written once, by a worker, and read where it was written. A page before
the first slot tells workers which tickets were cancelled and tells the parent what each worker is doing.

Cost: slots * slot bytes of shared memory, touched once and then reused. Refused: a fresh shared-memory file per batch, which pays a page
fault for every 4 KiB of every batch, and named segments, which a crash leaves behind.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import mmap
import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import finalize

import numpy as np
import numpy.typing as npt

from ..errors import StorageError

Token = TypeVar("Token")

HEADER_BYTES = 4096
"""The page before the first slot."""

_POPULATE_WRITE = 23
"""`MADV_POPULATE_WRITE` (Linux 5.14), which Python does not name."""

MAX_WORKERS = HEADER_BYTES // 8 - 2
"""Workers whose stage the page has room for; the number itself is the parent's."""


class Stage(enum.IntEnum):
    """What a worker is doing, as the ring's page holds it."""

    IDLE = 0
    READ = 1
    DECODE = 2
    TRANSFORM = 3
    MAP = 4


class Ring:
    """A mapped memory file of equal slots. Whoever creates it closes it; arrays that still look at it keep the memory until they are gone."""

    def __init__(self, *, slot_bytes: int, slots: int, descriptor: int | None = None) -> None:
        """Create the file, or map the one behind `descriptor`, which stays the caller's.

        Raises:
            StorageError: the system refuses a file or a mapping of that size.
        """
        self.slot_bytes = slot_bytes
        self.slots = slots
        size = HEADER_BYTES + slot_bytes * slots
        self._own = descriptor is None
        self.descriptor = os.memfd_create("penstock-ring", os.MFD_CLOEXEC) if descriptor is None else descriptor
        self._end = finalize(self, os.close, self.descriptor) if self._own else None  # also when a loader is dropped rather than closed
        try:
            if self._own:
                os.ftruncate(self.descriptor, size)
            memory = self._mapping = mmap.mmap(self.descriptor, size)
        except OSError as error:
            self.close()
            if error.errno not in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG, errno.EINVAL):
                raise
            advice = "lower batch_size or prefetch_factor"
            raise StorageError(f"no shared memory for {slots} batches of {slot_bytes:,} bytes ({error.strerror}); {advice}", url="memfd:") from error
        self._owner = Lease(np.frombuffer(memory, np.uint8))  # gone before the mapping is, behind the last array that looks at it
        self._bytes = np.asarray(self._owner)
        self._words = self._bytes[:HEADER_BYTES].view(np.int64)

    def pin(self, pin: Callable[[int, int], Callable[[], None]]) -> None:
        """Have the memory pinned, every page of it made first, until the mapping goes."""
        with contextlib.suppress(OSError):  # an older kernel: what pins it makes the pages then
            self._mapping.madvise(_POPULATE_WRITE)
        finalize(self._owner, pin(self._bytes.ctypes.data, self._bytes.size)).atexit = False

    def view(self, slot: int) -> npt.NDArray[np.uint8]:
        """Return the bytes of a slot."""
        start = HEADER_BYTES + slot * self.slot_bytes
        return self._bytes[start : start + self.slot_bytes]

    @property
    def cancelled(self) -> int:
        """Tickets up to this one need not be worked on."""
        return int(self._words[0])

    @cancelled.setter
    def cancelled(self, ticket: int) -> None:
        """Tell workers to pass over tickets up to this one."""
        self._words[0] = ticket

    def stage(self, worker: int) -> Stage:
        """Return what a worker is doing."""
        return Stage(int(self._words[1 + worker]))

    def set_stage(self, worker: int, stage: Stage) -> None:
        """Tell what this worker is doing."""
        self._words[1 + worker] = stage

    def close(self) -> None:
        """Close the descriptor if it is ours; the memory goes when the last array that looks at it does."""
        if self._end is not None:
            self._end()
        self.descriptor = -1


class Lease:
    """Owns bytes in the eyes of numpy: when the last array over them is gone, so is this."""

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        """Offer `memory` through the array interface and keep the mapping alive."""
        self._memory = memory

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Return where the bytes are; numpy makes this object the base of the array it builds."""
        return {"shape": self._memory.shape, "typestr": "|u1", "data": (self._memory.ctypes.data, False), "version": 3}


def lease(memory: npt.NDArray[np.uint8], token: Token, released: deque[Token]) -> npt.NDArray[np.uint8]:
    """Return memory as an array; when it and every array and tensor made from it are gone, `token`, such as a slot's number, is appended to `released`.

    The append may happen in any thread, which is why `released` is a deque and not the slot table.
    """
    owner = Lease(memory)
    finalize(owner, released.append, token).atexit = False
    return np.asarray(owner)
