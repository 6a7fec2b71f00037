"""Tars for tests: made by `tarfile`, in any of its formats, with whatever oddity a test wants."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

JPEG = b"\xff\xd8\xff\xe0" + b"jpeg" * 5
PNG = b"\x89PNG\r\n\x1a\n" + b"png" * 5

Entry = tuple[str, bytes] | tarfile.TarInfo


def tar_bytes(entries: Iterable[Entry], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar of (name, data) pairs and of bare `TarInfo`s, which get no data."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return stream.getvalue()


def write_tar(path: Path, entries: Iterable[Entry], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """Write `tar_bytes` to a file and return its path."""
    path.write_bytes(tar_bytes(entries, kind))
    return path


def pairs(rows: int, first: int = 0) -> list[Entry]:
    """Return the members of samples that hold an image and a label."""
    return [entry for row in range(first, first + rows) for entry in ((f"{row:06d}.cls", b"%d" % (row % 10)), (f"{row:06d}.jpg", JPEG + b"%d" % row))]


def npy(array: npt.NDArray[np.generic], *, pickled: bool = False) -> bytes:
    """Return an array as numpy itself saves it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def pokes(data: bytes, places: Sequence[tuple[int, bytes]], *, header: int | None = None) -> bytes:
    """Return the bytes with others at some places, and the checksum of the tar header at `header` made right again."""
    changed = bytearray(data)
    for at, new in places:
        changed[at : at + len(new)] = new
    if header is not None:
        changed[header + 148 : header + 156] = b" " * 8
        changed[header + 148 : header + 156] = b"%06o\0 " % sum(changed[header : header + 512])
    return bytes(changed)
