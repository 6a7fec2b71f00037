"""`penstock verify PATH`: read every byte of a dataset and say whether it is what was written.

Exit code 0 when all is well, 1 when a shard is damaged; the first bad shard, row and field are named. The checks are those of `shards.verify`; this
file only tells. Cost: one read of everything.
"""

from __future__ import annotations

import json
import time
from itertools import islice
from typing import Annotated

import typer
from rich.filesize import decimal

from ..shards.commits import list_versions
from ..shards.dataset import Dataset
from ..shards.verify import Problem
from ..shards.verify import verify as find_problems


def tell(problem: Problem) -> str:
    """Return a problem as one line."""
    row = problem.row if problem.dataset_row is None else f"{problem.row} (row {problem.dataset_row} of the dataset)"
    places = (("row", row), ("field", problem.field))
    return ", ".join([f"shard {problem.shard}", *(f"{name} {value}" for name, value in places if value is not None)]) + f": {problem.reason}"


def verify(
    path: Annotated[str, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")],
    version: Annotated[int | None, typer.Option(help="The version to verify; the newest unless given.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Go on behind the first problem and list them all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a dataset's checksums and structure; exit code 1 names the first bad shard and row."""
    start = time.perf_counter()
    version = version if version is not None else max(list_versions(path), default=None)
    problems = list(islice(find_problems(path, version), None if every else 1))
    if as_json:
        found = [{"shard": p.shard, "row": p.row, "dataset_row": p.dataset_row, "field": p.field, "reason": p.reason} for p in problems]
        typer.echo(json.dumps({"path": path, "version": version, "ok": not problems, "problems": found}, indent=2, ensure_ascii=False))
    elif not problems:
        with Dataset(path, version=version) as dataset:
            manifest = dataset.manifest
        size = f"{manifest.rows:,} rows in {len(manifest.shards)} shards, {decimal(manifest.bytes)}"
        typer.echo(f"{manifest.root}, version {manifest.version}: {size}, all as written ({time.perf_counter() - start:.1f} s)")
    for problem in () if as_json else problems:
        typer.echo(f"penstock: {path}, {tell(problem)}", err=True)
    if problems:
        raise typer.Exit(1)
