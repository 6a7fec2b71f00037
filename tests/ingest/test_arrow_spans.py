"""A run of an Arrow file is read from its own record batch: nothing before it is decompressed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from contracts.raw import rows_of, run

from penstock.ingest.locate import locate
from penstock.ingest.source import Chunk
from penstock.ingest.sources_table import PIECE_BYTES, ArrowSource

ROWS, BATCH = 3000, 700


def written(path: Path, kind: str, codec: str | None) -> Path:
    """Write a file or stream whose batches are larger than a piece, with a short one at the end."""
    table = pa.table({"x": list(range(ROWS)), "text": [f"{i:04d}" * 500 for i in range(ROWS)]})
    opener = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with opener(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as out:
        out.write_table(table, max_chunksize=BATCH)
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_every_run_alone_gives_its_rows(tmp_path: Path, kind: str, codec: str | None) -> None:
    """Each piece, and each run of two, read alone, holds exactly its rows with their numbers."""
    source = ArrowSource(locate(str(written(tmp_path / "a.arrow", kind, codec))).files)
    described = source.describe(None)
    spans = source.pieces(described).spans
    assert len(spans.start) > ROWS / BATCH, PIECE_BYTES
    for width in (1, 2):
        for at in range(len(spans.start) - width + 1):
            part = type(spans).from_json(spans.to_json()[at : at + width])
            chunks = list(source.read(part, described))
            assert all(isinstance(chunk, Chunk) for chunk in chunks)
            rows = [row for chunk in chunks if isinstance(chunk, Chunk) for row in chunk.rows.tolist()]
            values = [value for chunk in chunks if isinstance(chunk, Chunk) for value in chunk.columns["x"].to_pylist()]
            assert rows == values == list(range(int(spans.start[at]), int(spans.stop[at + width - 1])))


def test_no_batch_before_a_run_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the last run of a compressed file opens its last record batch alone."""
    source = ArrowSource(locate(str(written(tmp_path / "a.arrow", "file", "zstd"))).files)
    described = source.describe(None)
    spans = source.pieces(described).spans
    asked: list[int] = []
    original = ArrowSource._all

    def noted(self: ArrowSource, number: int, begin: int = 0, first: int = 0) -> object:
        for found in original(self, number, begin, first):
            asked.append(found[0])
            yield found

    monkeypatch.setattr(ArrowSource, "_all", noted)
    list(source.read(type(spans).from_json(spans.to_json()[-1:]), described))
    assert asked == [ROWS // BATCH * BATCH]


def test_compressed_file_converts_whole(tmp_path: Path) -> None:
    """A compressed file of several parts loses and doubles nothing."""
    run(written(tmp_path / "a.arrow", "file", "lz4"), tmp_path / "out")
    assert [row["x"] for row in rows_of(tmp_path / "out")] == list(range(ROWS))
