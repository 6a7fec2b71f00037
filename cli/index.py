"""`penstock index SOURCE`: make foreign tar, Arrow or Parquet shards a dataset where they lie, without rewriting them.

The shards are read once, to be hashed and, for tars, to note where each field of each sample lies. They are never written to.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.filesize import decimal

from ..shards.adopt import adopt


def index(
    source: Annotated[str, typer.Argument(help="A file, a folder, or a pattern such as 'train-{000000..000146}.tar' (in quotes).")],
    append: Annotated[bool, typer.Option("--append", help="Add the shards to the dataset that is already there.")] = False,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="The columns to keep; files may hold others that have no field type.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Adopt foreign shards as a dataset in place: checksums, columns and, for tars, an index beside each."""
    wanted = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    made = adopt(source, hash=True, publish=True, append=append, columns=wanted)
    if as_json:
        told = {"path": made.root, "version": made.version, "rows": made.rows, "bytes": made.bytes, "shards": len(made.shards), "digest": made.digest}
        typer.echo(json.dumps({**told, "fields": {name: field.to_json() for name, field in made.schema.items()}}, indent=2, ensure_ascii=False))
        return
    columns = ", ".join(f"{name} ({field.kind})" for name, field in made.schema.items())
    typer.echo(f"{made.root}: version {made.version}, {made.rows:,} rows, {decimal(made.bytes)} in {len(made.shards)} shards; columns {columns}")
