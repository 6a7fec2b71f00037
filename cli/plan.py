"""`penstock plan PATH`: which samples a step of training is given, and which steps are given a sample. Arithmetic: no shard is read.

It says what a loader with these numbers delivers in an epoch that is entered at its beginning or, with `--start`, at the position of a resume.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import typer

from .. import order
from ..errors import BadRequest
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
    rule = Plan(rows=len(dataset), batch_size=batch_size, rank=rank or 0, world_size=world_size, tail=kept)
    law: dict[str, Any] = {"n": len(dataset), "seed": seed, "epoch": epoch, "shuffle": shuffle}
    told: dict[str, Any] = {"version": dataset.version, "digest": dataset.digest, "batch_size": batch_size, "world_size": world_size, "tail": kept}
    told |= {"rows": len(dataset), "seed": seed, "epoch": epoch, "shuffle": shuffle, "start": start}
    if step is not None:
        told["step"] = step
        told["ranks"] = [_batch(rule, law, one, step, start) for one in (range(world_size) if rank is None else [rank])]
    elif sample is not None:
        position = order.position_of(sample, **law)
        seats = [seat for seat in rule.seats(position, start) if rank in (None, seat.rank)]
        told |= {"sample": sample, "position": position, "seats": [seat._asdict() for seat in seats]}
    if as_json:
        typer.echo(json.dumps(told))
    elif step is not None:
        _show_step(told)
    else:
        _show_sample(told)


def _batch(rule: Plan, law: dict[str, Any], rank: int, step: int, start: int) -> dict[str, Any]:
    """Return what one rank is given at a step."""
    own = Plan(rows=rule.rows, batch_size=rule.batch_size, rank=rank, world_size=rule.world_size, tail=rule.tail)
    steps = own.steps(start)
    if step >= steps:
        raise BadRequest(f"--step {step}: rank {rank} has {steps:,} steps from position {start:,} on, counted from 0")
    span = own.span(step, start)
    positions = np.arange(span.start, span.stop)
    return {
        "rank": rank,
        "start": span.start,
        "stop": span.stop,
        "padding": int((positions >= rule.rows).sum()),
        "samples": order.rows_at(positions % rule.rows, **law).tolist(),
    }


def _show_step(told: dict[str, Any]) -> None:
    lines = []
    for batch in told["ranks"][:RANKS_SHOWN]:
        samples = batch["samples"]
        text = ", ".join(map(str, samples[:SHOWN])) + (f", ... ({len(samples):,} in all)" if len(samples) > SHOWN else "")
        lines.append([str(batch["rank"]), f"{batch['start']:,} to {batch['stop'] - 1:,}", str(batch["padding"]), text])
    more = len(told["ranks"]) - len(lines)
    title = f"step {told['step']:,} of epoch {told['epoch']}" + (f" (the first {RANKS_SHOWN} of {RANKS_SHOWN + more:,} ranks)" if more else "")
    console().print(table(title, ["rank", "positions", "padding", "samples"], lines, right=(0, 2)))


def _show_sample(told: dict[str, Any]) -> None:
    title = f"sample {told['sample']:,} stands at position {told['position']:,} of epoch {told['epoch']}"
    lines = [[f"{seat['step']:,}", str(seat["rank"]), str(seat["row"]), "yes" if seat["padding"] else "no"] for seat in told["seats"]]
    console().print(
        table(title if lines else f"{title}, and is given to nobody", ["step", "rank", "row of the batch", "padding"], lines, right=(0, 1, 2))
    )
