"""`penstock plan PATH`: which samples a step of training is given, and which steps are given a sample. Arithmetic: no shard is read.

It says what a loader with these numbers delivers in an epoch that is entered at its beginning or, with `--start`, at the position of a resume.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..errors import BadRequest
from ..loaders.law import Ordering, Stream
from ..loaders.plan import Plan, Tail, default_tail
from ..shards.dataset import Dataset
from .tables import console, table

SHOWN = 8
"""Samples of a batch that the table shows."""

RANKS_SHOWN = 64
"""Ranks that the table shows."""


def plan(
    path: Annotated[str, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")],
    step: Annotated[int | None, typer.Option(min=0, help="Show the samples of this step, counted from 0.")] = None,
    sample: Annotated[int | None, typer.Option(min=0, help="Show the steps that are given this row of the dataset.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch on one rank.")] = 1,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks that share the data.")] = 1,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank; all unless given.")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="The epoch.")] = 0,
    seed: Annotated[int, typer.Option(help="The loader's seed.")] = 0,
    shuffle: Annotated[bool, typer.Option(help="Whether the loader shuffles.")] = True,
    window_shards: Annotated[int, typer.Option(min=0, help="The loader's window_shards; 0 for none.")] = 0,
    lanes: Annotated[int, typer.Option(min=1, help="The loader's lanes.")] = 1,
    epoch_samples: Annotated[int, typer.Option(min=0, help="The loader's epoch_samples; 0 for none.")] = 0,
    tail: Annotated[
        str | None, typer.Option(help="What becomes of a short last batch: drop, pad or ragged; as the loader has it unless given.")
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="The position at which the epoch is entered, as a state's `samples` has it.")] = 0,
    version: Annotated[int | None, typer.Option(help="The version to look at; the newest unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the samples of a step, or the steps of a sample."""
    if (step is None) == (sample is None):
        raise BadRequest("plan needs either --step or --sample")
    if tail not in (None, "drop", "pad", "ragged"):
        raise BadRequest(f"--tail {tail!r} is not one of drop, pad, ragged")
    dataset = Dataset(path, version=version)
    kept: Tail = tail or default_tail(drop_last=False, world_size=world_size)  # type: ignore[assignment]  # one of the three, as was just checked
    ordering = Ordering(seed, shuffle, window_shards, lanes, epoch_samples)
    ordering.check()
    stream = Stream(ordering, dataset.starts)
    rule = Plan(rows=stream.positions, batch_size=batch_size, rank=rank or 0, world_size=world_size, tail=kept, lanes=lanes)
    told: dict[str, Any] = {"version": dataset.version, "digest": dataset.digest, "batch_size": batch_size, "world_size": world_size, "tail": kept}
    told |= {"rows": len(dataset), **ordering.to_json(), "epoch": epoch, "start": start}
    if step is not None:
        told["step"] = step
        told["ranks"] = [_batch(rule, stream, epoch, one, step, start) for one in (range(world_size) if rank is None else [rank])]
    elif sample is not None:
        positions = stream.places(epoch, sample)
        seats = [seat for position in positions for seat in rule.seats(position, start) if rank in (None, seat.rank)]
        told |= {"sample": sample, "positions": positions, "seats": [seat._asdict() for seat in seats]}
    if as_json:
        typer.echo(json.dumps(told))
    elif step is not None:
        _show_step(told)
    else:
        _show_sample(told)


def _batch(rule: Plan, stream: Stream, epoch: int, rank: int, step: int, start: int) -> dict[str, Any]:
    """Return what one rank is given at a step."""
    own = replace(rule, rank=rank)
    steps = own.steps(start)
    if step >= steps:
        raise BadRequest(f"--step {step}: rank {rank} has {steps:,} steps from position {start:,} on, counted from 0")
    run = own.batch(step, start)
    positions = run.positions()
    return {
        "rank": rank,
        "first": int(positions.min()) if positions.size else run.start,
        "last": int(positions.max()) if positions.size else run.start - 1,
        "padding": int((positions >= rule.rows).sum()),
        "samples": stream.draw(epoch, positions % rule.rows).rows.tolist(),
    }


def _show_step(told: dict[str, Any]) -> None:
    lines = []
    for batch in told["ranks"][:RANKS_SHOWN]:
        samples = batch["samples"]
        text = ", ".join(map(str, samples[:SHOWN])) + (f", ... ({len(samples):,} in all)" if len(samples) > SHOWN else "")
        lines.append([str(batch["rank"]), f"{batch['first']:,} to {batch['last']:,}", str(batch["padding"]), text])
    more = len(told["ranks"]) - len(lines)
    title = f"step {told['step']:,} of epoch {told['epoch']}" + (f" (the first {RANKS_SHOWN} of {RANKS_SHOWN + more:,} ranks)" if more else "")
    console().print(table(title, ["rank", "positions", "padding", "samples"], lines, right=(0, 2)))


def _show_sample(told: dict[str, Any]) -> None:
    positions = " and ".join(f"{position:,}" for position in told["positions"]) or "no position"
    title = f"sample {told['sample']:,} stands at {'position ' if told['positions'] else ''}{positions} of epoch {told['epoch']}"
    lines = [[f"{seat['step']:,}", str(seat["rank"]), str(seat["row"]), "yes" if seat["padding"] else "no"] for seat in told["seats"]]
    console().print(
        table(title if lines else f"{title}, and is given to nobody", ["step", "rank", "row of the batch", "padding"], lines, right=(0, 1, 2))
    )
