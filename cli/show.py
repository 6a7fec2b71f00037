"""`penstock show PATH [ROW]`: rows for a person, as a table, as JSON, or as a contact sheet of their images.

Without ROW it shows rows spread evenly over the dataset, since the first rows of a converted folder are all of one class. It reads those rows
and no others.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BadRequest
from ..fields import Array, Field, Image
from ..shards.dataset import Dataset
from ..shards.storage import atomic_write
from .sheet import contact_sheet
from .tables import console, table
from .values import line, summary

TABLE_ROWS = 8
SHEET_ROWS = 48


def spread(rows: int, count: int) -> list[int]:
    """Return up to `count` row numbers, evenly spread over `rows`, the first row among them."""
    count = min(rows, count)
    return [number * rows // count for number in range(count)]


def _is_picture(field: Field) -> bool:
    picture = isinstance(field, Array) and field.dtype == "uint8" and (len(field.shape) == 2 or (len(field.shape) == 3 and field.shape[2] == 3))
    return picture or isinstance(field, Image)


def _class_names(dataset: Dataset, name: str) -> list[str] | None:
    known = dataset.metadata.get("class_names", {})
    names = known.get(name) if isinstance(known, dict) else None
    return names if isinstance(names, list) else None


def _save_sheet(dataset: Dataset, rows: list[int], png: Path) -> None:
    pictures = [name for name, field in dataset.fields.items() if _is_picture(field)]
    if not pictures:
        held = ", ".join(f"{name} ({field.kind})" for name, field in dataset.fields.items())
        raise BadRequest(f"--png {str(png)!r}: no column holds images; the columns are {held}")
    labels = {name: names for name in dataset.fields if (names := _class_names(dataset, name)) is not None}

    def tile(number: int) -> tuple[str, Any]:
        row = dataset[number]
        told = [line(dataset.fields[name], row[name], names) for name, names in labels.items()]
        return f"row {number}: {', '.join(told)}" if told else f"row {number}", row[pictures[0]]

    sheet = contact_sheet(map(tile, rows), len(rows))
    drawn = io.BytesIO()
    sheet.save(drawn, "PNG")
    atomic_write(png, drawn.getvalue())


def _print_row(dataset: Dataset, number: int) -> None:
    row = dataset[number]
    lines = [[name, field.kind, line(field, row[name], _class_names(dataset, name))] for name, field in dataset.fields.items()]
    console().print(table(f"row {number}", ["column", "kind", "value"], lines))


def _print_rows(dataset: Dataset, numbers: list[int]) -> None:
    fields = dataset.fields
    lines = [[str(n), *(line(fields[k], v, _class_names(dataset, k)) for k, v in row.items())] for n in numbers for row in [dataset[n]]]
    console().print(table(f"{len(numbers)} of {len(dataset):,} rows", ["row", *fields], lines, right=(0,)))


def show(
    path: Annotated[str, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")],
    row: Annotated[int | None, typer.Argument(help="The row, counted from 0; rows spread over the dataset unless given.")] = None,
    version: Annotated[int | None, typer.Option(help="The version to look at; the newest unless given.")] = None,
    columns: Annotated[str | None, typer.Option(help="The columns to show, separated by commas; all unless given.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help=f"How many rows: {TABLE_ROWS}, or {SHEET_ROWS} on a sheet, unless given.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a contact sheet of the images to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per row, one per line.")] = False,
) -> None:
    """Show a row, or rows spread over the dataset; with --png, their images as a contact sheet."""
    dataset = Dataset(path, columns=None if columns is None else [name.strip() for name in columns.split(",")], version=version)
    try:
        if row is not None and not 0 <= row < len(dataset):
            raise BadRequest(f"ROW: {path} has {len(dataset):,} rows, numbered from 0, and no row {row}")
        numbers = spread(len(dataset), count or (SHEET_ROWS if png is not None else TABLE_ROWS)) if row is None else [row]
        if png is not None:
            _save_sheet(dataset, numbers, png)
            typer.echo(f"{png}: {len(numbers)} of {len(dataset):,} rows", err=as_json)
        if as_json:
            for number in numbers:
                values = {k: summary(dataset.fields[k], v, _class_names(dataset, k)) for k, v in dataset[number].items()}
                typer.echo(json.dumps({"row": number, "values": values}, ensure_ascii=False))
        elif png is None:
            _print_rows(dataset, numbers) if row is None else _print_row(dataset, numbers[0])
    finally:
        dataset.close()
