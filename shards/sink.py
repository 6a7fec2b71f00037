"""A file that is hashed while it is written, so that a shard's XXH3 costs no second read.

The system gets pieces of 4 MiB at multiples of 4 MiB. Linux then keeps the file in pages of 2 MiB where its file system can, so that who maps it soon
after meets a hundred times fewer page faults, and rows of 12 KiB are gathered 10 % faster; written as it comes, half of it lies in small pages.

Must never: seek, overwrite an existing file, or leave one behind when told to abort.
Cost: one pass of XXH3 over what is written (above 10 GB/s), one copy, 4 MiB of memory.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import xxhash

from ..errors import StorageError
from .storage import guard

_PIECE_BYTES = 4 << 20
"""Bytes that are written at a time."""


class HashingFile:
    """A new file, written forward, in the shape that pyarrow and tarfile take for a file object.

    Attributes:
        path: where it is.
        size_bytes: what has been written.
    """

    mode = "wb"

    def __init__(self, path: Path) -> None:
        """Make the file; one that exists is not touched and is an error."""
        self.path = path
        self.size_bytes = 0
        self._aborted = False
        self._hasher = xxhash.xxh3_64()
        with guard(path, "make the shard"):
            self._file = path.open("xb", buffering=0)
        self._piece = memoryview(bytearray(_PIECE_BYTES))
        self._filled = 0
        self._lost: StorageError | None = None

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._file.closed

    def writable(self) -> bool:
        """Return True: it is a file for writing."""
        return True

    def readable(self) -> bool:
        """Return False: it is a file for writing."""
        return False

    def seekable(self) -> bool:
        """Return False: what was written was hashed."""
        return False

    def write(self, data: Any) -> int:
        """Write and hash any contiguous bytes; after `abort` they are dropped, since `tarfile` writes its trailer when it is collected."""
        view = memoryview(data).cast("B")
        if self._aborted:
            return view.nbytes
        self._hasher.update(view)
        at = 0
        while at < view.nbytes:
            size = min(view.nbytes - at, _PIECE_BYTES - self.size_bytes % _PIECE_BYTES)
            self._piece[self._filled : self._filled + size] = view[at : at + size]
            self._filled += size
            self.size_bytes += size
            at += size
            if self.size_bytes % _PIECE_BYTES == 0:
                self.flush()
        return view.nbytes

    def tell(self) -> int:
        """Return how much has been written."""
        return self.size_bytes

    def flush(self) -> None:
        """Hand what is buffered to the system; a file that lost bytes says so at every later call, and so cannot be closed as if it were whole."""
        if self._lost is not None:
            raise self._lost
        left, self._filled = self._piece[: self._filled], 0
        try:
            with guard(self.path, "write the shard"):
                while left:
                    left = left[self._file.write(left) :]
        except StorageError as error:
            self._lost = error
            raise

    def hexdigest(self) -> str:
        """Return the XXH3-64 of what has been written, 16 hex digits."""
        return str(self._hasher.hexdigest())

    def close(self) -> None:
        """Put the file on disk and close it; closing twice is fine."""
        if self._file.closed:
            return
        try:
            self.flush()
            with guard(self.path, "write the shard"):
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # the flush above has already said what is wrong
                self._file.close()

    def abort(self) -> None:
        """Close and remove the file, whatever state it is in."""
        self._aborted = True
        with contextlib.suppress(OSError):  # a full disk also fails here, and the file goes away anyway
            self._file.close()
        self.path.unlink(missing_ok=True)
