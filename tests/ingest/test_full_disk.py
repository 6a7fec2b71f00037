"""A disk that is full at the last block, or refuses the last name: nothing half written stays behind."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from penstock import Scalar
from penstock.errors import StorageError
from penstock.ingest import output as module
from penstock.ingest.output import Output
from penstock.shards.shardwriter import ShardStats

SCHEMA = {"x": Scalar("int64")}


def begun(folder: Path, shard_format: str) -> Output:
    """Return an output with a shard of three rows open."""
    output = Output(folder, "s1-00000", SCHEMA, format=shard_format, shard_bytes=10**6)  # type: ignore[arg-type]
    output.write(pa.record_batch({"x": pa.array([1, 2, 3], pa.int64())}), 0)
    return output


@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_writer_that_fails_to_close_is_aborted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str) -> None:
    """When closing a shard fails, `abort` still knows its writer and removes its file."""
    output = begun(tmp_path, shard_format)
    ((writer, _, _),) = output._open.values()

    def full() -> ShardStats:
        raise StorageError("no space left", url=tmp_path)

    monkeypatch.setattr(writer, "close", full)
    with pytest.raises(StorageError, match="no space left"):
        output.close()
    assert list(tmp_path.iterdir())
    output.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_shard_that_cannot_be_named_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_format: str) -> None:
    """When a finished shard cannot take its name, its file is removed too."""
    output = begun(tmp_path, shard_format)

    def refuse(*_: object) -> None:
        raise StorageError("cannot name", url=tmp_path)

    monkeypatch.setattr(module, "move_shard", refuse)
    with pytest.raises(StorageError, match="cannot name"):
        output.close()
    monkeypatch.undo()
    output.abort()
    assert list(tmp_path.iterdir()) == []
