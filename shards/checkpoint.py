"""The list of a version's shards as one Arrow file, so that opening does not read every commit since the first.

A checkpoint says nothing that the commits do not say. It is written behind the version it describes, put if absent, and a damaged one is
named with its remedy: delete it, and the commits are read instead. Cost: about 60 bytes a shard; reading it is O(shards).
Refused: JSON, three times as large; reading either is the cost of 100,000 checked shards, not of the format.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from ..errors import BadData, BadRequest
from ..fields import schema_from_json, schema_to_json
from .checkpoint_names import CHECKPOINTS, checkpoint_path
from .manifest import FORMAT_VERSION, MAX_COMMIT_BYTES, MAX_SHARDS, Manifest, Shard, check_metadata, parse_json
from .storage import make_folder, put_if_absent, read_file, sweep_temporaries

_KEY = b"penstock"
_TYPES = {"path": pa.string(), "format": pa.string(), "rows": pa.int64(), "bytes": pa.int64(), "xxh3": pa.string(), "block_rows": pa.int64()}


def write_checkpoint(root: Path, manifest: Manifest) -> None:
    """Keep the shards of a version."""
    described = {
        "format_version": FORMAT_VERSION,
        "version": manifest.version,
        "schema": schema_to_json(manifest.schema),
        "metadata": manifest.metadata,
        "digest": manifest.digest,
    }
    columns = [pa.array([getattr(shard, name) for shard in manifest.shards], kind) for name, kind in _TYPES.items()]
    schema = pa.schema(list(_TYPES.items()), metadata={_KEY: json.dumps(described, ensure_ascii=False, allow_nan=False).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    make_folder(root / CHECKPOINTS)
    sweep_temporaries(root / CHECKPOINTS)
    put_if_absent(checkpoint_path(root, manifest.version), sink.getvalue().to_pybytes())


def read_checkpoint(root: Path, version: int) -> Manifest:
    """Return the version that a checkpoint describes.

    Raises:
        BadData: the file is damaged; the commits still hold all it said.
    """
    path = checkpoint_path(root, version)
    try:
        return _parse(root, version, read_file(path, cap_bytes=MAX_COMMIT_BYTES))
    except (pa.ArrowException, OSError, BadData, BadRequest, KeyError, TypeError) as error:
        reason = error.reason if isinstance(error, BadData) else str(error)
        raise BadData(f"the checkpoint is damaged ({reason}); delete it, the commits hold all it says", path=path) from error


def _parse(root: Path, version: int, data: bytes) -> Manifest:
    with pa.ipc.open_file(pa.py_buffer(data)) as file:
        table = file.read_all()
    table.validate(full=True)
    described = parse_json((table.schema.metadata or {}).get(_KEY, b""))
    if described["format_version"] != FORMAT_VERSION or described["version"] != version:
        raise BadData(f"it says version {described['version']} in format {described['format_version']}")
    if table.schema.names != list(_TYPES) or table.num_rows > MAX_SHARDS:
        raise BadData(f"it has columns {table.schema.names} and {table.num_rows} shards")
    made = Manifest(
        root=str(root),
        version=version,
        schema=schema_from_json(described["schema"]),
        metadata=check_metadata(described["metadata"]),
        shards=tuple(Shard(**row) for row in table.to_pylist()),
    )
    if made.digest != described["digest"]:
        raise BadData(f"its shards have digest {made.digest} where {described['digest']} was written")
    return made
