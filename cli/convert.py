"""`penstock convert SRC DST`: raw data into a dataset. Reads options, calls `ingest.convert`, shows the report; decides nothing itself."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..ingest.convert import convert as run

Options = list[str] | None


def convert(
    src: Annotated[str, typer.Argument(help="A file, a folder, a glob ('raw/*.csv') or a brace pattern ('{000..009}.tar'); quote patterns.")],
    dst: Annotated[str, typer.Argument(help="The dataset's folder; with --split, the folder that holds one dataset a split.")],
    shard_format: Annotated[str, typer.Option("--format", help="Of the shards: arrow or tar.")] = "arrow",
    shard_size: Annotated[str, typer.Option(help="What no shard's file exceeds, unless by its only row; such as 128MB or 1GiB.")] = "128MB",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; one a core by default, 0 for none. Does not change the result.")] = None,
    shuffle: Annotated[int | None, typer.Option(metavar="SEED", help="Store the rows in an order drawn from all of them.")] = None,
    split: Annotated[Options, typer.Option(metavar="NAME=FRACTION", help="Repeat for each split; a row's split follows from its key.")] = None,
    split_key: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column whose value chooses the split.")] = None,
    resize_short: Annotated[int | None, typer.Option(min=1, metavar="N", help="Scale images down to N pixels on the short side.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, metavar="N", help="Scale images down to at most N pixels.")] = None,
    reencode: Annotated[str | None, typer.Option(metavar="ENCODING[:QUALITY]", help="Write every image anew, such as jpeg:90.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B,...", help="The columns to keep.")] = None,
    tokenize: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_FILE", help="Write text as tokens: a tokenizer.json, a folder with one, or a name on the Hugging Face hub."),
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="COLUMN", help="The column that is tokenized; it is written as `tokens`.")] = "text",
    end_token: Annotated[str | None, typer.Option(metavar="TOKEN", help="A token put behind every row, such as '<|endoftext|>'.")] = None,
    special_tokens: Annotated[bool, typer.Option(help="Whether the tokenizer adds what it adds to every text.")] = True,
    max_bad: Annotated[str | None, typer.Option(metavar="N|X%", help="Rows that may be set aside; by default 0.1% of samples, no structure.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the dataset that is there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make a new version without the rows that are there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished conversion, with the same options but without --append or --overwrite.")
    ] = False,
    check: Annotated[str, typer.Option(help="decode: an image must really decode; header: its header must make sense.")] = "decode",
    kind: Annotated[
        str | None, typer.Option("--from", help="The kind of source: images, files, tar, parquet, csv, jsonl, arrow, numpy, hf, penstock.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Show the report as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Convert raw data (images in class folders, files, tars, Parquet, CSV, JSON Lines, Arrow, NumPy, HF datasets) into a dataset.

    A killed conversion is continued by the same command with --resume in place of --append or --overwrite. Rows that cannot be read are set aside in
    DST/_penstock/quarantine with the reason.
    """
    report = run(
        src,
        dst,
        format=shard_format,
        shard_size=shard_size,
        workers=workers,
        shuffle=shuffle,
        split=split,
        split_key=split_key,
        resize_short=resize_short,
        max_pixels=max_pixels,
        reencode=reencode,
        columns=None if columns is None else [name.strip() for name in columns.split(",") if name.strip()],
        tokenize=tokenize,
        text_column=text_column,
        end_token=end_token,
        special_tokens=special_tokens,
        max_bad=max_bad,
        append=append,
        overwrite=overwrite,
        resume=resume,
        check=check,
        progress=not quiet,
        kind=kind,
    )
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else str(report))
