"""Which loader is fastest, and how far from what the machine can do? All of them side by side, on six workloads.

Each configuration (a loader, a number of workers) runs in a fresh process of its own interpreter; within a workload all of them in turn, again
and again, so that drift of the machine meets each alike. The data and every loader's own format of them are made once into DIR. Rows are medians;
ratios are taken within a round. Loaders that are absent or fail are told with the reason, and never count as beaten; what was measured of a loader is
kept whatever becomes of it in another round. See docs/benchmarks.md.

    python -m benchmarks.table --data DIR --rounds 5 --json out.json --png out.png [--workloads W1,W4] [--only penstock,spdl] [--scale 0.5]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import harness
from .chart import chart
from .harness import Config, Run
from .overview import overview
from .report import FAILED, SETTING, best_settings, gathered, heading, key, markdown, ratios_of, rows_of, setting
from .rivals.registry import ALL, LOADERS, Loader
from .rivals.samples import BATCH
from .workloads import made, source

MAKING_S = 1800.0
"""Most seconds that writing a loader's own format may take."""

MOST_FAILURES = 2
"""A configuration that has failed so often is not run again: once is bad luck, twice is what it does."""


@dataclass(kw_only=True)
class Campaign:
    """What is measured, how, and what came of it so far.

    Attributes:
        data: the cache folder.
        scale: of the data.
        rounds: how often each configuration runs.
        seconds: least time of a measurement.
        warm_s: most time of the warm-up.
        workers: the numbers of workers (or threads) that are tried.
        prune: a rival's setting slower than this part of that rival's best is not run again after the first round; 0 for never.
        machine: what it ran on, and of which commit, as it was at the beginning.
        runs: of each configuration, by round.
        failures: the last words of each configuration's rounds that failed.
        absent: why a loader has no row, by workload.
    """

    data: Path
    scale: float = 1.0
    rounds: int = 5
    seconds: float = 4.0
    warm_s: float = 3.0
    workers: tuple[int, ...] = (0, 1, 2)
    prune: float = 0.0
    machine: dict[str, Any] = field(default_factory=harness.machine)
    runs: dict[str, dict[int, Run]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, workload: str, name: str, reason: str) -> None:
        """Remember why there is no row, and say so."""
        self.absent.setdefault(workload, {})[name] = reason
        print(f"  {name}: absent: {reason}", flush=True)


def last_words(error: RuntimeError) -> str:
    """Return the line of an error that says most: the last."""
    return (str(error).strip().splitlines() or ["it failed without a word"])[-1][:200]


def prepared(campaign: Campaign, loader: Loader, workload: str) -> Config:
    """Return the part of a configuration that does not depend on workers; its data are made if need be.

    Raises:
        RuntimeError: they cannot be made.
    """
    origin = source(campaign.data.resolve(), workload, campaign.scale)
    config: dict[str, Any] = {
        "module": loader.module,
        "interpreter": str(loader.interpreter),
        "kind": workload,
        "style": loader.style,
        "packages": list(loader.packages),
        "source": str(origin),
        "data": str(origin.parent / loader.reads) if loader.reads else str(origin),
        "batch_size": BATCH[workload],
        "seconds": campaign.seconds,
        "warm_s": campaign.warm_s,
    }

    def make(out: Path) -> None:
        print(f"  {loader.name}: writing its own format into {out}", flush=True)
        harness.measure({**config, "make": str(out)}, limit_s=MAKING_S)

    if loader.reads:
        made(Path(config["data"]), (origin / ".done").read_text(encoding="utf-8"), make)
    return config


def configurations(campaign: Campaign, workload: str, loaders: Sequence[Loader]) -> dict[str, Config]:
    """Return every configuration of a workload by its key; loaders that cannot run are noted."""
    found: dict[str, Config] = {}
    for loader in (one for one in loaders if workload in one.workloads):
        fewer = loader.skipped(campaign.workers)
        if reason := loader.absent() or (not loader.settings(campaign.workers) and fewer):
            campaign.note(workload, loader.name, reason)
            continue
        if fewer:
            print(f"  {loader.name}: {fewer}", flush=True)
        try:
            config = prepared(campaign, loader, workload)
        except RuntimeError as error:
            campaign.note(workload, loader.name, f"its data could not be made: {last_words(error)}")
            continue
        for workers in loader.settings(campaign.workers):
            found[key(workload, loader.name, workers)] = {**config, "workers": workers, "loader": loader.name}
    return found


def pruned(campaign: Campaign, configs: dict[str, Config], loaders: Sequence[Loader]) -> dict[str, Config]:
    """Return the configurations worth running again: all of ours, of torch's and of limits, and each rival's settings near its best or unmeasured yet."""
    kept = {loader.name for loader in loaders if loader.family != "shards" or loader.environment == "torch"}
    rate = {name: max((run.told["samples_per_s"] for run in campaign.runs.get(name, {}).values()), default=math.inf) for name in configs}
    top = {config["loader"]: 0.0 for config in configs.values()}
    for name, config in configs.items():
        top[config["loader"]] = max(top[config["loader"]], rate[name] if name in campaign.runs else 0.0)
    return {n: c for n, c in configs.items() if c["loader"] in kept or rate[n] >= campaign.prune * top[c["loader"]]}


def measure(campaign: Campaign, workload: str, loaders: Sequence[Loader]) -> None:
    """Run a workload: every configuration in turn, `rounds` times; a failure is noted and takes away nothing that was measured."""
    print(f"{workload}:", flush=True)
    configs = configurations(campaign, workload, loaders)
    began = time.monotonic()
    read_bytes = harness.read_once(
        {Path(config["data"]) for config in configs.values()}
    )  # else the first round, which prunes, would wait for the disk
    print(f"  {read_bytes / 1e6:,.0f} MB of data read once in {time.monotonic() - began:.0f} s", flush=True)
    for turn in range(campaign.rounds):
        began, before = time.monotonic(), ("", "")
        for name in harness.turned(list(configs), turn):
            program = configs[name]["interpreter"], configs[name]["module"]
            if program != before:
                harness.warm(configs[name])
            before = program
            try:
                run = harness.measure(configs[name])
            except RuntimeError as error:
                words = campaign.failures.setdefault(name, [])
                words.append(last_words(error))
                print(f"  {name}: failed in round {turn + 1}: {words[-1]}", flush=True)
                if len(words) >= MOST_FAILURES:
                    del configs[name]
                continue
            campaign.runs.setdefault(name, {})[turn] = run
        print(f"  round {turn + 1} of {campaign.rounds}: {len(configs)} configurations in {time.monotonic() - began:.0f} s", flush=True)
        if turn == 0 and campaign.prune:
            configs = pruned(campaign, configs, loaders)


def failed(campaign: Campaign, workload: str, loaders: Sequence[Loader]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings that failed whenever they ran, and those that were measured in other rounds, each with what is told of it."""
    never, sometimes = {}, {}
    for loader in loaders:
        for workers in loader.settings(campaign.workers):
            name = key(workload, loader.name, workers)
            words, runs = campaign.failures.get(name), len(campaign.runs.get(name, {}))
            told = f"{loader.name}{SETTING}{workers} workers"
            if words and runs:
                sometimes[told] = f"{len(words)} of {len(words) + runs} rounds failed: {words[-1]}"
            elif words:
                never[told] = words[-1]
    return never, sometimes


def skipped(campaign: Campaign, workload: str, loaders: Sequence[Loader]) -> dict[str, str]:
    """Return which numbers of workers a loader was not tried with, of the loaders that were tried, and why."""
    absent = campaign.absent.get(workload, {})
    told = {loader.name: loader.skipped(campaign.workers) for loader in loaders if workload in loader.workloads and loader.name not in absent}
    return {name: reason for name, reason in told.items() if reason}


def result(campaign: Campaign, workloads: Sequence[str], loaders: Sequence[Loader]) -> dict[str, Any]:
    """Return everything that was found, for JSON."""
    parts = {}
    for workload in workloads:
        rows = rows_of(workload, loaders, campaign.workers, campaign.runs, campaign.failures)
        never, sometimes = failed(campaign, workload, loaders)
        parts[workload] = {
            "rows": [asdict(row) for row in rows],
            "best": [asdict(row) for row in best_settings(rows)],
            "ratios": ratios_of(workload, rows, campaign.runs),
            "absent": gathered({**campaign.absent.get(workload, {}), **never}),
            "failed": gathered(sometimes),
            "skipped": skipped(campaign, workload, loaders),
        }
    how = {name: getattr(campaign, name) for name in ("scale", "rounds", "seconds", "warm_s", "workers", "prune")}
    return {"machine": campaign.machine, "campaign": how, "workloads": parts}


def show(found: dict[str, Any]) -> None:
    """Print every row, every absence and every ratio."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    for workload, part in found["workloads"].items():
        table = Table("loader", "workers", "rounds", "samples/s", "range", "CPU s per 1,000", "peak MB", "first batch, s", title=workload)
        for row in part["rows"]:
            span = f"{row['least']:,.0f} to {row['most']:,.0f}"
            numbers = (f"{row['cpu_s_per_1000']:.3g}", f"{row['peak_mb']:,.0f}", f"{row['first_batch_s']:.2f}")
            table.add_row(row["loader"], setting(row), str(row["rounds"]), f"{row['samples_per_s']:,.0f}", span, *numbers)
        for name, reason in part["absent"].items():
            table.add_row(name, "", "", "absent", reason)
        console.print(table)
        for name, reason in part.get("failed", {}).items():
            console.print(f"{FAILED} {name}: {reason}")
        for name, reason in part.get("skipped", {}).items():
            console.print(f"{name}: {reason}")
        ratios = Table("ours over", "ratio", "range", "against", title=workload)
        for name, ratio in part["ratios"].items():
            span = f"{ratio['least']:.2f} to {ratio['most']:.2f}" if "least" in ratio else ""
            ratios.add_row(name, f"{ratio['ratio']:.2f}", span, ratio["against"])
        console.print(ratios)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for, or these words."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description="All loaders side by side; see docs/benchmarks.md.")
    parser.add_argument("--data", type=Path, required=True, help="folder for the data, kept for the next time")
    parser.add_argument("--workloads", default=",".join(ALL))
    parser.add_argument("--only", default="", help="parts of loaders' names, separated by commas")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="of the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="least time of a measurement")
    parser.add_argument("--warm", type=float, default=3.0, help="most time of a warm-up, s")
    parser.add_argument("--prune", type=float, default=0.0, help="skip a rival's settings below this part of its best after the first round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--markdown", type=Path, help="file for the tables as the README shows them")
    parser.add_argument("--from-json", type=Path, help="show an earlier result again, and measure nothing")
    return parser.parse_args(words)


def chosen(asked: argparse.Namespace) -> list[Loader]:
    """Return the loaders that the command line asks for."""
    parts = [part.strip().lower() for part in asked.only.split(",") if part.strip()]
    return [loader for loader in LOADERS if not parts or any(part in loader.name.lower() for part in parts)]


def campaigned(asked: argparse.Namespace) -> dict[str, Any]:
    """Run the campaign; what was found is saved after every workload, so that an interrupted one keeps what it has."""
    loaders, workloads = chosen(asked), asked.workloads.split(",")
    workers = tuple(int(number) for number in asked.workers.split(","))
    how = {"scale": asked.scale, "rounds": asked.rounds, "seconds": asked.seconds, "warm_s": asked.warm, "prune": asked.prune, "workers": workers}
    campaign = Campaign(data=asked.data, **how)
    found: dict[str, Any] = {}
    for number, workload in enumerate(workloads):
        measure(campaign, workload, loaders)
        found = result(campaign, workloads[: number + 1], loaders)
        if asked.json:
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def main() -> None:
    """Run the campaign, print and save what was found."""
    asked = parsed()
    began = time.time()
    found = json.loads(asked.from_json.read_text(encoding="utf-8")) if asked.from_json else campaigned(asked)
    show(found)
    if asked.png:
        asked.png.parent.mkdir(parents=True, exist_ok=True)
        chart(found).save(asked.png)
    if asked.markdown:
        asked.markdown.parent.mkdir(parents=True, exist_ok=True)
        asked.markdown.write_text("\n\n".join([heading(found), overview(found), markdown(found)]), encoding="utf-8")
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
