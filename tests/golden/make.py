"""Makes the golden files: what this format version looks like on disk, byte for byte.

Run as `python tests/golden/make.py` only when the format itself is meant to change, and say so in CHANGELOG.md. The tests compare what is
written today with these files, and read these files as a dataset of long ago.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from penstock.fields import Array, Bytes, Image, Json, Scalar, Schema, Text, Tokens
from penstock.shards.manifest import Commit, Shard
from penstock.shards.shardwriter import open_shard_writer

HERE = Path(__file__).parent

SCHEMA: Schema = {
    "image": Image("jpeg"),
    "x": Array((4,), "float32"),
    "grid": Array((2, 3), "uint8"),
    "label": Scalar("int64"),
    "even": Scalar("bool"),
    "caption": Text(),
    "tokens": Tokens("int32"),
    "raw": Bytes(),
    "note": Json(),
}

ROWS: list[dict[str, Any]] = [
    {
        "image": b"\xff\xd8\xff\xe0" + bytes([i] * i),
        "x": np.arange(4, dtype=np.float32) / 4 + i,
        "grid": np.arange(6, dtype=np.uint8).reshape(2, 3) + i,
        "label": i - 3,
        "even": i % 2 == 0,
        "caption": "é" * i,
        "tokens": np.arange(i % 4, dtype=np.int32),
        "raw": bytes(range(i)),
        "note": {"n": i, "of": [1, None, "ü"]},
    }
    for i in range(7)
]


def write_arrow(path: Path) -> Shard:
    """Write the golden rows in blocks of a few rows; return the shard."""
    writer = open_shard_writer(path, SCHEMA, block_bytes=300)
    for row in ROWS:
        writer.write_row({name: field.encode(row[name]) for name, field in SCHEMA.items()})
    stats = writer.close()
    return Shard(path="data/golden.arrow", format="arrow", rows=stats.rows, bytes=stats.bytes, xxh3=stats.xxh3, block_rows=stats.block_rows)


def commit(shard: Shard) -> Commit:
    """Return the golden commit, in which every key has a value."""
    return Commit(
        version=2,
        parent=1,
        time="2025-01-31T12:00:00Z",
        operation="append",
        schema=SCHEMA,
        metadata={"class_names": {"label": ["Katze", "犬"]}},
        added=(shard,),
        removed=("data/old.arrow",),
        job="golden",
        offset={"partition 0": 17},
    )


if __name__ == "__main__":
    (HERE / "golden.arrow").unlink(missing_ok=True)
    (HERE / "commit.json").write_bytes(commit(write_arrow(HERE / "golden.arrow")).to_json())
