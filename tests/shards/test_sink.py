"""The file that is hashed while it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from penstock.errors import StorageError
from penstock.shards import sink
from penstock.shards.sink import HashingFile


@pytest.mark.parametrize("seed", range(6))
def test_pieces_begin_at_their_multiples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever is written, flushed or taken in part by the system: the file holds it, its hash and size are told, and only a flush ends a piece early."""
    monkeypatch.setattr(sink, "_PIECE_BYTES", 1000)
    random = np.random.default_rng(seed)
    file, wanted, begun = HashingFile(tmp_path / "f"), b"", [0]
    raw: Any = file._file

    class Short:
        """A file that takes less than it is given now and then."""

        closed = False

        def write(self, data: memoryview) -> int:
            """Take a part."""
            done = int(raw.write(data[: random.integers(1, len(data) + 1)]))
            begun.append(begun[-1] + done)
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(raw, name)

    file._file = Short()  # type: ignore[assignment]
    flushed = set()
    for _ in range(20):
        data = random.bytes(int(random.choice([0, 1, 7, 999, 1000, 1001, 5300])))
        assert file.write(np.frombuffer(data, np.uint8)) == len(data)
        wanted += data
        if random.random() < 0.2:
            file.flush()
            flushed.add(len(wanted))
            assert (tmp_path / "f").read_bytes() == wanted
        assert file.size_bytes == file.tell() == len(wanted)
        assert begun[-1] in flushed or begun[-1] % 1000 == 0
    file.close()
    raw.close()
    assert (tmp_path / "f").read_bytes() == wanted
    assert file.hexdigest() == xxhash.xxh3_64_hexdigest(wanted)


def test_a_file_that_lost_bytes_is_never_closed_as_whole(tmp_path: Path) -> None:
    """After a write that failed, writing on and closing fail as well, with the same reason, and aborting leaves nothing."""
    file = HashingFile(tmp_path / "f")
    raw: Any = file._file

    class Full:
        """A file on a disk that is full, and then has room again."""

        closed, room = False, False

        def write(self, data: memoryview) -> int:
            """Fail as the system does, once."""
            if self.room:
                return int(raw.write(data))
            self.room = True
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(raw, name)

    file._file = Full()  # type: ignore[assignment]
    file.write(b"some")
    with pytest.raises(StorageError, match="disk is full"):
        file.flush()
    file.write(b"more")
    for call in (file.flush, file.close):
        with pytest.raises(StorageError, match="disk is full"):
            call()
    file.abort()
    assert not list(tmp_path.iterdir())
