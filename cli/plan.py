"""`penstock plan PATH`: which samples a step of training is given, and which steps are given a sample. Arithmetic: no shard is read.

It says what a loader with these numbers delivers in an epoch that is entered at its beginning or, with `--start`, at the position of a resume. With
`--state` all that decides the order, the epoch and the position come from what `loader.state_dict()` returned, kept as JSON, and the dataset must be the
one that it names. The defaults are the loader's. It answers for loaders over datasets: `TokenWindows`, `Packed` and `Mixture` number rows of their own, and are asked
in Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..errors import BadRequest
from ..loaders import state as states
from ..loaders.law import Ordering, Stream
from ..loaders.plan import Plan, Tail, default_tail
from ..shards.dataset import Dataset
from ..shards.storage import local_path, read_file
from .tables import console, table

SHOWN = 8
"""Samples of a batch that the table shows."""

RANKS_SHOWN = 64
"""Ranks that the table shows."""

_MOST_STATE_BYTES = 2**26
"""No file that holds a state is larger."""


def plan(
    path: Annotated[str, typer.Argument(help="A dataset, or a file, folder or brace pattern of foreign shards.")],
    step: Annotated[int | None, typer.Option(min=0, help="Show the samples of this step, counted from 0.")] = None,
    sample: Annotated[int | None, typer.Option(min=0, help="Show the steps that are given this row of the dataset.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="A JSON file of the loader's state_dict(): seed, shuffle, window_shards, lanes, epoch_samples, epoch and start."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch on one rank.")] = 1,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks that share the data.")] = 1,
    rank: Annotated[int | None, typer.Option(min=0, help="Only this rank; all unless given.")] = None,
    epoch: Annotated[int | None, typer.Option(min=0, help="The epoch; the state's, or 0, unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="The loader's seed; 0 unless given.")] = None,
    shuffle: Annotated[bool | None, typer.Option("--shuffle/--no-shuffle", help="Whether the loader shuffles; it does not unless told to.")] = None,
    window_shards: Annotated[int | None, typer.Option(min=0, help="The loader's window_shards; 0 for none.")] = None,
    lanes: Annotated[int | None, typer.Option(min=1, help="The loader's lanes; 1 unless given.")] = None,
    epoch_samples: Annotated[int | None, typer.Option(min=0, help="The loader's epoch_samples; 0 for none.")] = None,
    tail: Annotated[
        str | None, typer.Option(help="What becomes of a short last batch: drop, pad or ragged; as the loader has it unless given.")
    ] = None,
    start: Annotated[int | None, typer.Option(min=0, help="The position at which the epoch is entered, as a state's `samples` has it.")] = None,
    version: Annotated[int | None, typer.Option(help="The version to look at; the state's, or the newest, unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show the samples of a step, or the steps of a sample: rows of the dataset, as a loader over the dataset itself delivers them.

    TokenWindows, Packed and Mixture number rows of their own, of which loader.plan, loader.state_at and loader.digest tell.
    """
    if (step is None) == (sample is None):
        raise BadRequest("plan needs either --step or --sample")
    if tail not in (None, "drop", "pad", "ragged"):
        raise BadRequest(f"--tail {tail!r} is not one of drop, pad, ragged")
    saved = None if state is None else _saved(state)
    given = {"seed": seed, "shuffle": shuffle, "window_shards": window_shards, "lanes": lanes, "epoch_samples": epoch_samples}
    ordering = _ordering({name: value for name, value in given.items() if value is not None}, saved)
    dataset = Dataset(path, version=version if saved is None or version is not None else saved["plan"].get("dataset_version") or None)
    stream = Stream(ordering, dataset.starts)
    at = _standing(saved, dataset, ordering, stream.positions)
    at = at._replace(epoch=at.epoch if epoch is None else epoch, samples=0 if epoch not in (None, at.epoch) else at.samples)
    at = at if start is None else at._replace(samples=start)
    states.check_epoch(at.epoch, stream.positions)
    kept: Tail = tail or default_tail(drop_last=False, world_size=world_size)  # type: ignore[assignment]  # one of the three, as was just checked
    rule = Plan(rows=stream.positions, batch_size=batch_size, rank=rank or 0, world_size=world_size, tail=kept, lanes=ordering.lanes)
    told: dict[str, Any] = {"version": dataset.version, "digest": dataset.digest, "batch_size": batch_size, "world_size": world_size, "tail": kept}
    told |= {"rows": len(dataset), **ordering.to_json(), "epoch": at.epoch, "start": at.samples}
    if step is not None:
        told["step"] = step
        told["ranks"] = [_batch(rule, stream, at.epoch, one, step, at.samples) for one in (range(world_size) if rank is None else [rank])]
    elif sample is not None:
        positions = stream.places(at.epoch, sample)
        seats = [seat for position in positions for seat in rule.seats(position, at.samples) if rank in (None, seat.rank)]
        told |= {"sample": sample, "positions": positions, "seats": [seat._asdict() for seat in seats]}
    if as_json:
        typer.echo(json.dumps(told))
    elif step is not None:
        _show_step(told)
    else:
        _show_sample(told)


def _saved(path: str) -> Mapping[str, Any]:
    """Return the state that a file holds, as far as it can be told without its dataset."""
    try:
        saved = json.loads(read_file(local_path(path), cap_bytes=_MOST_STATE_BYTES))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"--state {path}: not JSON, which json.dump(loader.state_dict(), file) would write: {error}") from None
    if not isinstance(saved, dict) or not isinstance(saved.get("plan"), dict):
        raise BadRequest(f"--state {path}: {str(saved)[:100]} is not the state_dict() of a penstock.DataLoader over a dataset")
    if saved.get("tickets") is not None:
        raise BadRequest(f"--state {path}: it is of a loader with tickets=, whose batches are drawn: who is given which is not decided before")
    return saved


def _ordering(given: Mapping[str, Any], saved: Mapping[str, Any] | None) -> Ordering:
    """Return what decides the order: as it was given, or as a state has it, which is not given twice."""
    if saved is not None and given:
        raise BadRequest(f"--state says {', '.join(given)}: leave out {', '.join('--' + name.replace('_', '-') for name in given)}")
    told = dict(given) if saved is None else {name: saved["plan"][name] for name in Ordering._fields if name in saved["plan"]}
    made = Ordering(**{"seed": 0, "shuffle": False, **told})
    if type(made.seed) is not int or type(made.shuffle) is not bool:
        raise BadRequest(f"the state's plan has seed {made.seed!r} and shuffle {made.shuffle!r}, which are no integer and no truth value")
    made.check()
    return made


def _standing(saved: Mapping[str, Any] | None, dataset: Dataset, ordering: Ordering, positions: int) -> states.Progress:
    """Return where a state stands, whose dataset must be this one."""
    if saved is None:
        return states.Progress()
    told = saved["plan"]
    if told.get("dataset_version") in (dataset.version, 0) and told.get("dataset_digest") != dataset.digest:
        raise BadRequest(
            f"--state is of a loader over something else than the dataset {dataset.path}: dataset_digest was {str(told.get('dataset_digest'))[:50]!r}, is "
            f"{dataset.digest!r}. Name the dataset that it was saved over; or, if that loader was over TokenWindows, Packed or a Mixture, whose rows are no rows of a "
            "dataset, ask it in Python: plan answers for datasets, and loader.plan, loader.state_at and loader.digest for the others"
        )
    here = states.Fingerprint(
        dataset_version=dataset.version, dataset_digest=dataset.digest, rows=len(dataset), epoch_rows=positions, ordering=ordering
    )
    return states.load(saved, here)


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
