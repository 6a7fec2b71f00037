"""`penstock inspect PATH`: what a dataset holds: columns, rows, shards, sizes, metadata and versions.

It reads commits, never rows, so it costs the same for any number of rows. Foreign shards are opened as `Dataset` opens them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from ..shards.arrow_types import arrow_type
from ..shards.commits import list_versions, read_commit
from ..shards.dataset import Dataset
from .tables import console, table

SHOWN_SHARDS = 10
"""Shards listed for a person unless `--all` asks for the rest."""


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return everything the command shows, as JSON values."""
    manifest = dataset.manifest
    versions = list_versions(manifest.root) if manifest.version else []
    return {
        "path": manifest.root,
        "version": manifest.version,
        "digest": manifest.digest,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "fields": [{"name": name, "arrow": str(arrow_type(field)), **field.to_json()} for name, field in manifest.schema.items()],
        "metadata": manifest.metadata,
        "shards": [shard.to_json() for shard in manifest.shards],
        "versions": [_version(manifest.root, version) for version in versions],
    }


def _version(root: str, version: int) -> dict[str, Any]:
    commit = read_commit(root, version)
    return {
        "version": version,
        "time": commit.time,
        "operation": commit.operation,
        "shards_added": len(commit.added),
        "rows_added": sum(shard.rows for shard in commit.added),
        "shards_removed": len(commit.removed),
    }


def _print(found: dict[str, Any], shown: int) -> None:
    out = console()
    version = f"version {found['version']}" if found["version"] else "foreign shards, not published"
    out.print(f"{found['path']}: {found['rows']:,} rows, {decimal(found['bytes'])} in {len(found['shards'])} shards, {version}")
    out.print(f"digest {found['digest']}")
    described = [
        [f["name"], f["kind"], ", ".join(f"{k}={v}" for k, v in f.items() if k not in {"name", "kind", "arrow"}), f["arrow"]] for f in found["fields"]
    ]
    out.print(table("columns", ["name", "kind", "arguments", "arrow type"], described))
    shards = [[s["path"], s["format"], f"{s['rows']:,}", decimal(s["bytes"]), s["xxh3"] or "not hashed"] for s in found["shards"][:shown]]
    out.print(table("shards", ["path", "format", "rows", "size", "xxh3"], shards, right=(2, 3)))
    if len(found["shards"]) > shown:
        out.print(f"and {len(found['shards']) - shown:,} more shards; --all lists them")
    if found["versions"]:
        versions = [[str(v["version"]), v["time"], v["operation"], f"{v['rows_added']:,}", str(v["shards_removed"])] for v in found["versions"]]
        out.print(table("versions", ["version", "time", "operation", "rows added", "shards removed"], versions, right=(0, 3, 4)))
    for name, value in found["metadata"].items():
        out.print(f"metadata {name}: {json.dumps(value, ensure_ascii=False)}")


def inspect(
    path: Annotated[str, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")],
    version: Annotated[int | None, typer.Option(help="The version to look at; the newest unless given.")] = None,
    every: Annotated[bool, typer.Option("--all", help=f"List every shard, not only the first {SHOWN_SHARDS}.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say what a dataset holds: columns, rows, shards, sizes, metadata and versions."""
    dataset = Dataset(path, version=version)
    try:
        found = describe(dataset)
    finally:
        dataset.close()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(found, len(found["shards"]) if every else SHOWN_SHARDS)
