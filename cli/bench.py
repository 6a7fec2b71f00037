"""`penstock bench PATH`: how fast a dataset is read with the user's own transforms, at several numbers of workers, and which number is best.

Each measurement is a fresh process (`bench_one`); the numbers of workers take turns, round after round, so that a machine that drifts drifts for all; what
is told are medians. The loader has its defaults, and the page cache is as warm as the rounds make it: what is measured is the loader, not the disk.
On a terminal a table is kept up to date; elsewhere each measurement is a line. The result is written as JSON and as a picture, into the current folder
unless the user names other files; minutes of measuring are not lost with the screen.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.live import Live
from rich.table import Table

from ..errors import BadRequest, StorageError, WorkerFailed
from ..loaders.faults import rebuild
from ..shards.storage import atomic_write
from .bench_machine import machine
from .bench_rivals import DATA, TABLE, Files
from .bench_rivals import rivals as all_loaders
from .chart import Bar, Panel, draw_bars
from .tables import console, table

ALIKE = 0.03
"""Settings whose rates differ by less are taken for equally fast, and the one with fewer workers wins."""

BATCH = 256
"""Rows of a batch unless the user says otherwise."""

ROUNDS = 3
"""How often each number of workers is measured unless the user says otherwise."""

SECONDS = 3.0
"""Of one measurement, likewise."""

PLAIN = Files("penstock-bench.json", "penstock-bench.png")
"""What is written into the current folder unless the user names other files."""

LIMIT_S = 600.0
"""Seconds that one measurement may take, beside its own."""

Runs = dict[int, list[dict[str, float]]]
"""What was measured, by number of workers."""


def numbers_of(workers: str) -> list[int]:
    """Return the numbers of workers to try.

    Raises:
        BadRequest: it is no list of them.
    """
    try:
        found = sorted({int(part) for part in workers.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 0:
        raise BadRequest(f"--workers {workers!r} is not a list of numbers, such as 0,1,2,4")
    return found


def medians(runs: Runs) -> list[dict[str, float]]:
    """Return a row for each number of workers: the medians of what was measured, and how far the rates were apart."""
    rows = []
    for workers, found in sorted(runs.items()):
        if found:
            rates = [run["samples_per_s"] for run in found]
            row = {name: statistics.median(run[name] for run in found) for name in found[0]}
            rows.append({"workers": workers, "rounds": len(found), "lowest": min(rates), "highest": max(rates), **row})
    return rows


def best_of(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the row to recommend: the fewest workers among those that are as fast as the fastest."""
    fastest = max(row["samples_per_s"] for row in rows)
    return next(row for row in rows if row["samples_per_s"] >= fastest * (1 - ALIKE))


def advice(rows: Sequence[Mapping[str, float]]) -> str:
    """Return the last line: what to set, and what it brings."""
    best, first = best_of(rows), rows[0]
    gain = best["samples_per_s"] / first["samples_per_s"]
    against = "" if best is first else f", {gain:.2f} times {first['workers']:.0f}"
    kept = ", persistent_workers=True" if best["workers"] else ""
    return f"best: num_workers={best['workers']:.0f}{kept} ({best['samples_per_s']:,.0f} samples/s{against}; first batch after {best['first_batch_s']:.2f} s)"


def measured(config: Mapping[str, Any]) -> dict[str, float]:
    """Return what a fresh process measures.

    Raises:
        PenstockError: what the loader met: a request or data that it refuses, storage that fails, a worker that died.
        WorkerFailed: the process failed, or took too long.
    """
    command = [sys.executable, "-W", "ignore", "-m", f"{__package__}.bench_one", json.dumps({**config, "began": time.time()})]
    limit_s = LIMIT_S + 2 * config["seconds"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603  (our own)
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"measuring {config['workers']} workers took more than {limit_s:g} s; use a smaller --batch-size", stage="bench") from None
    lines = done.stdout.strip().splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in told:
        raise rebuild(told["error"])
    if done.returncode or not told:
        raise WorkerFailed(f"measuring {config['workers']} workers ended with code {done.returncode}: {done.stderr.strip()[-800:]}", stage="bench")
    return {str(name): float(value) for name, value in told.items()}


def as_table(path: str, rows: Sequence[Mapping[str, float]]) -> Table:
    """Return the table for a person."""
    heads = ["workers", "samples/s", "lowest to highest", "first batch", "waiting", "CPU of this process", "rounds"]
    shown = [
        [
            f"{row['workers']:.0f}",
            f"{row['samples_per_s']:,.0f}",
            f"{row['lowest']:,.0f} to {row['highest']:,.0f}",
            f"{row['first_batch_s']:.2f} s",
            f"{row['waiting']:.0%}",
            f"{row['parent_cpu']:.0%}",
            f"{row['rounds']:.0f}",
        ]
        for row in rows
    ]
    return table(path, heads, shown, right=range(len(heads)))


def picture(path: str, rows: Sequence[Mapping[str, float]]) -> Image.Image:
    """Return the rates as bars, the recommended one in another colour."""
    best = best_of(rows)
    bars = [Bar(f"{row['workers']:.0f} workers", row["samples_per_s"], "#0b7a75" if row is best else "#9aa5b1") for row in rows]
    return draw_bars([Panel(f"{path}: samples a second", bars)], advice(rows))


def bench(
    path: Annotated[str | None, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=f"Rows of a batch; {BATCH} unless given.")] = None,
    workers: Annotated[str | None, typer.Option(metavar="N,N,...", help="Numbers of workers to try; 0, 1, 2, 4 and so on up to the cores.")] = None,
    transforms: Annotated[
        str | None, typer.Option(metavar="FILE.py:NAME", help="Your transforms: a dict from column to ops, or a function that returns it.")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B,...", help="The columns to read.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"How often each number of workers is measured; {ROUNDS} unless given, 5 with --rivals.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.05, help=f"Of one measurement; {SECONDS:g} unless given, 4 with --rivals.")] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help=f"The result as JSON; {PLAIN.report} unless given, {TABLE.report} with --rivals.")
    ] = None,
    png: Annotated[str | None, typer.Option(metavar="FILE", help=f"The rates as bars; {PLAIN.png} unless given, {TABLE.png} with --rivals.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    rivals: Annotated[bool, typer.Option("--rivals", help="In a checkout: measure all loaders side by side instead, for hours.")] = False,
    data: Annotated[str | None, typer.Option(metavar="DIR", help=f"With --rivals: where its data are kept; {DATA} unless given.")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help=f"With --rivals: its tables; {TABLE.markdown} unless given.")] = None,
) -> None:
    """Measure the loader on a dataset with your transforms at several numbers of workers, and say which is best."""
    _check(
        {"PATH": path, "--transforms": transforms, "--columns": columns, "--batch-size": batch_size},
        {"--data": data, "--markdown": markdown},
        rivals=rivals,
    )
    usual = TABLE if rivals else PLAIN
    files = Files(report or usual.report, png or usual.png, markdown or usual.markdown)
    _check_files(*files)
    settings = None if workers is None else numbers_of(workers)
    if rivals or path is None:
        found = all_loaders(data=data or DATA, rounds=rounds, seconds=seconds, workers=settings, files=files, quiet=as_json)
        _announce(files, as_json=as_json)
        if as_json:
            typer.echo(_text(found))
        return
    tried = settings or sorted({0, *(1 << i for i in range((os.cpu_count() or 1).bit_length()))})
    chosen = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    config = {"path": path, "batch_size": batch_size or BATCH, "transforms": transforms, "columns": chosen, "seconds": seconds or SECONDS}
    rows = _campaign(config, tried, rounds or ROUNDS, quiet=as_json)
    found = {"machine": machine(), **config, "persistent_workers": True, "settings": rows, "best_workers": int(best_of(rows)["workers"])}
    _save(found, files)
    _announce(files, as_json=as_json)
    typer.echo(_text(found) if as_json else advice(rows))


def _check(plain: Mapping[str, object], of_rivals: Mapping[str, object], *, rivals: bool) -> None:
    """Refuse options that do not go together.

    Raises:
        BadRequest: they do not.
    """
    named = [name for name, value in plain.items() if value is not None]
    if rivals and named:
        raise BadRequest(f"--rivals measures data of its own; leave out {', '.join(named)}")
    if not rivals and plain["PATH"] is None:
        raise BadRequest("name a dataset (PATH) to measure, or --rivals for all loaders side by side")
    for name, value in of_rivals.items():
        if not rivals and value is not None:
            raise BadRequest(f"{name} {value!r} goes with --rivals")


def _check_files(*files: str) -> None:
    """Refuse files that cannot be written, before minutes are spent on measuring.

    Raises:
        BadRequest: two of them are one file, or one is a folder.
        StorageError: their folder does not let them.
    """
    named = [str(Path(file).absolute()) for file in files if file]
    if twice := [name for name in named if named.count(name) > 1 or Path(name).is_dir()]:
        raise BadRequest(f"{twice[0]}: is a folder, or the place of two results; give each a file of its own with --report, --png and --markdown")
    for folder in (Path(file).parent for file in files if file):
        if not os.access(folder, os.W_OK):
            raise StorageError("no file can be written in this folder; name another before minutes are spent on measuring", url=folder)


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False)


def _save(found: Mapping[str, Any], files: Files) -> None:
    """Write the report and the picture."""
    atomic_write(Path(files.report), _text(found).encode() + b"\n")
    drawn = io.BytesIO()
    picture(found["path"], found["settings"]).save(drawn, "PNG")
    atomic_write(Path(files.png), drawn.getvalue())


def _announce(files: Files, *, as_json: bool) -> None:
    """Say what was written, where it is no part of the result."""
    typer.echo(f"written: {', '.join(file for file in files if file)}", err=as_json)


def _campaign(config: Mapping[str, Any], tried: Sequence[int], rounds: int, *, quiet: bool) -> list[dict[str, float]]:
    """Measure all numbers of workers in turn, `rounds` times, showing what is known so far."""
    runs: Runs = {number: [] for number in tried}
    out = console()
    alive = out.is_terminal and not quiet
    with Live(console=out, auto_refresh=False) if alive else _Silent() as live:
        for turn in range(rounds):
            for place in range(len(tried)):
                number = tried[(place + turn) % len(tried)]
                runs[number].append(measured({**config, "workers": number}))
                if alive:
                    live.update(as_table(str(config["path"]), medians(runs)), refresh=True)
                elif not quiet:
                    rate = runs[number][-1]["samples_per_s"]
                    out.print(f"round {turn + 1} of {rounds}, {number} workers: {rate:,.0f} samples/s")
    if not alive and not quiet:
        out.print(as_table(str(config["path"]), medians(runs)))
    return medians(runs)


class _Silent:
    """Stands where there is no terminal to keep a table on."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""
