"""The whole road, once: raw images in, a trained model out, and a kill in the middle.

    python -m benchmarks.demo --out demo_out          # what `make demo` runs

It makes a labelled image set, converts it to Arrow shards and to tar shards, and on each trains a small network with torchrun on two processes,
kills them with SIGKILL in the middle of an epoch, and goes on from the checkpoint on one process. It then shows, from what the processes noted
themselves, that every image was trained on exactly once per epoch, and that the network has learned. It fails (exit code 1) when that is not so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

import penstock as ps

from . import images

ROOT = Path(__file__).resolve().parent.parent
PENSTOCK = Path(sys.executable).parent / "penstock"
MARK = ".penstock-demo"
"""Lies in a folder that a demo made, so that another run may empty it."""

HELD_OUT = 0.2
LIMIT_S = 240
"""No run of the training script may take longer."""

GONE_S = 5
"""The loader promises that so long after a SIGKILL nothing is left."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the command line asks for."""

    out: Path
    count: int
    epochs: int
    formats: tuple[str, ...]
    global_batch: int = 64
    checkpoint_every: int = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came out for one shard format.

    Attributes:
        format: of the shards.
        convert_s: seconds that `penstock convert` took.
        images: images of the training set.
        replayed: images trained on behind the last checkpoint, which the kill threw away and the resume did again.
        accuracy: share of the held-out images whose class is found.
        reports: what each attempt reported at the end of its last whole epoch: processes, images, seconds, the loader's stats.
        problems: promises that were not kept; empty when all were.
    """

    format: str
    convert_s: float
    images: int
    replayed: int
    accuracy: float
    reports: dict[str, dict[str, Any]]
    problems: list[str]


def say(text: str) -> None:
    """Tell the person at the terminal what happens now."""
    print(f"demo: {text}", flush=True)


def run(*command: object) -> str:
    """Run a command of ours to its end; its output is shown as it comes when it fails."""
    words = [str(word) for word in command]
    shown = " ".join(["penstock" if word == str(PENSTOCK) else word for word in words])
    print(f"  $ {shown}", flush=True)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if done.returncode:
        raise SystemExit(f"demo: `{shown}` left with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def clear(out: Path) -> None:
    """Empty the output folder if a demo made it; refuse one that holds anything else."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise SystemExit(f"demo: {out} exists and was not made by this demo; choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def convert(demo: Demo, shard_format: str) -> float:
    """Convert the images to shards with the `penstock` command and return the seconds it took."""
    start = time.perf_counter()
    split = (f"--split=train={1 - HELD_OUT:g}", f"--split=test={HELD_OUT:g}")
    run(
        PENSTOCK,
        "convert",
        demo.out / "images",
        demo.out / shard_format,
        f"--format={shard_format}",
        "--shard-size=16MB",
        "--workers=2",
        "--columns=image,label,path",
        *split,
    )
    return time.perf_counter() - start


def train_command(demo: Demo, shard_format: str) -> list[str]:
    """Return the training script's module and arguments."""
    data = demo.out / shard_format
    options = {"epochs": demo.epochs, "global-batch": demo.global_batch, "checkpoint-every": demo.checkpoint_every}
    places = {"data": data / "train", "held-out": data / "test", "folder": demo.out / f"run-{shard_format}"}
    return ["-m", "benchmarks.demo_train", *(f"--{name}={value}" for name, value in {**places, **options}.items())]


def lines_of(process: subprocess.Popen[str]) -> Generator[str, None, None]:
    """Yield what a process says, every tenth step of it shown; it is ended at the limit."""
    watch = threading.Timer(LIMIT_S, kill_tree, [process.pid])
    watch.start()
    try:
        assert process.stdout is not None
        for text in process.stdout:
            words = text.split()
            if words[:1] != ["epoch"] or int(words[3]) % 10 == 0:
                print(f"    {text.rstrip()}", flush=True)
            yield text
    finally:
        watch.cancel()


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all that it started; one that is gone is fine."""
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def train_and_kill(demo: Demo, shard_format: str, kill_step: int) -> list[str]:
    """Train on two processes, SIGKILL torchrun and both of them once `kill_step` of the second epoch is done, and return what is wrong then."""
    # torchrun warns unless the number of threads is set; the training script sets its own
    command = [
        "env",
        "OMP_NUM_THREADS=1",
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        f"--log-dir={demo.out / 'torchrun'}",  # it would leave a folder in /tmp when it is killed
        *train_command(demo, shard_format),
    ]
    print(f"  $ torchrun --nproc-per-node=2 {' '.join(train_command(demo, shard_format))}", flush=True)
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process,
        closing(lines_of(process)) as lines,
    ):
        try:
            if not any(text.startswith(f"epoch 1 step {kill_step} ") for text in lines):
                raise SystemExit(f"demo: training ended before step {kill_step} of epoch 1, with exit code {process.wait()}")
            return kill(process.pid)
        finally:
            kill_tree(process.pid)  # after Ctrl-C too: torchrun has a session of its own, which the terminal's signal does not reach


def kill(launcher: int) -> list[str]:
    """SIGKILL torchrun and the training processes, and see that their loader workers end by themselves."""
    ranks = psutil.Process(launcher).children()
    workers = [child for rank in ranks for child in rank.children(recursive=True)]
    for process in (psutil.Process(launcher), *ranks):
        process.kill()
    start = time.perf_counter()
    left = psutil.wait_procs(workers, timeout=GONE_S)[1]
    say(f"killed torchrun and {len(ranks)} training processes; their {len(workers)} helpers ended within {time.perf_counter() - start:.1f} s")
    return [f"{len(left)} of {len(workers)} processes outlived their parent by {GONE_S} s"] if left else []


def resume(demo: Demo, shard_format: str) -> None:
    """Go on from the checkpoint on one process."""
    command = [sys.executable, *train_command(demo, shard_format), "--resume"]
    print(f"  $ python {' '.join(command[1:])}", flush=True)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for _ in lines_of(process):
            pass
        if process.wait():
            raise SystemExit(f"demo: the resumed training left with {process.returncode}")


def ledger(run_folder: Path, attempt: str) -> Iterator[dict[str, Any]]:
    """Yield what the processes of an attempt noted, a record a batch; a line cut short by the kill was not finished and is not counted."""
    for path in sorted(run_folder.glob(f"ledger-{attempt}-*.jsonl")):
        yield from (json.loads(text) for text in path.read_text().splitlines(keepends=True) if text.endswith("\n"))


def audit(first: Iterable[dict[str, Any]], resumed: Iterable[dict[str, Any]], place: tuple[int, int], expected: set[int], epochs: int) -> list[str]:
    """Return what is wrong with the epochs that the model has really seen.

    Args:
        first: records of the killed run; those behind the checkpoint are not part of the model that was saved.
        resumed: records of the resumed run.
        place: epoch and samples of the checkpoint.
        expected: the numbers of all images of the training set.
        epochs: how many epochs were asked for.
    """
    seen: dict[int, Counter[int]] = {epoch: Counter() for epoch in range(epochs)}
    kept = (record for record in first if (record["epoch"], record["samples"]) <= place)
    for record in (*kept, *resumed):
        seen[record["epoch"]].update(record["images"])
    problems = []
    for epoch, counts in seen.items():
        wrong = {"missing": expected - set(counts), "unknown": set(counts) - expected, "seen again": {n for n, k in counts.items() if k > 1}}
        problems += [f"epoch {epoch}: {len(numbers)} images {what}, such as {min(numbers)}" for what, numbers in wrong.items() if numbers]
    return problems


def numbers_in(data: Path) -> set[int]:
    """Return the numbers of the images in a dataset, from their file names."""
    with ps.Dataset(data, columns=["path"]) as dataset:
        return {int(Path(row["path"]).stem) for row in dataset}


def check_split(train: set[int], test: set[int], count: int) -> list[str]:
    """Return what is wrong with the split: every image belongs to exactly one side."""
    lost, both = set(range(count)) - train - test, train & test
    return [f"{len(found)} images are {what} of the split" for what, found in (("in no part", lost), ("in both parts", both)) if found]


def try_format(demo: Demo, shard_format: str) -> Finding:
    """Convert, train, kill, resume, and look at what the processes noted."""
    data, run_folder = demo.out / shard_format, demo.out / f"run-{shard_format}"
    say(f"converting to {shard_format} shards")
    convert_s = convert(demo, shard_format)
    print(run(PENSTOCK, "inspect", data / "train"), flush=True)
    expected = numbers_in(data / "train")
    steps = -(-len(expected) // demo.global_batch)
    kill_step = steps // 2 // demo.checkpoint_every * demo.checkpoint_every + demo.checkpoint_every // 2 + 1
    say(f"training on two processes; SIGKILL behind step {kill_step} of {steps} of epoch 1 (the second)")
    problems = check_split(expected, numbers_in(data / "test"), demo.count) + train_and_kill(demo, shard_format, kill_step)
    say("resuming on one process from the checkpoint of two")
    resume(demo, shard_format)
    reports = {attempt: json.loads((run_folder / f"report-{attempt}.json").read_text()) for attempt in ("first", "resumed")}
    first, place = list(ledger(run_folder, "first")), (reports["resumed"]["from"]["epoch"], reports["resumed"]["from"]["samples"])
    problems += audit(first, ledger(run_folder, "resumed"), place, expected, demo.epochs)
    accuracy, chance = reports["resumed"]["accuracy"], 1 / len(images.CLASSES)
    return Finding(
        format=shard_format,
        convert_s=convert_s,
        images=len(expected),
        replayed=sum(len(record["images"]) for record in first if (record["epoch"], record["samples"]) > place),
        accuracy=accuracy,
        reports=reports,
        problems=problems + ([f"accuracy {accuracy:.2f} is not clearly above chance, {chance:.3f}"] if accuracy < 3 * chance else []),
    )


def show_findings(demo: Demo, findings: list[Finding]) -> None:
    """Print what was found, a line per format, and where the loader's time went."""
    out = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    main_table = Table(title="what came out", title_justify="left")
    for head in (
        "shards",
        "converted",
        "two processes",
        "one process",
        "held-out accuracy",
        "chance",
        "every image once per epoch",
        "trained again after the kill",
    ):
        main_table.add_column(head)
    times = Table(
        title="where the time went (seconds of the last whole epoch, rank 0; read, decode and transform are summed over workers)",
        title_justify="left",
    )
    for head in ("shards", "processes", "epoch", "waiting for data", "model", "read", "decode", "transform"):
        times.add_column(head)
    for found in findings:
        rates = [f"{report['images_per_s']:,.0f} images/s" for report in found.reports.values()]
        right = "NO" if found.problems else f"yes, {found.images:,} images x {demo.epochs} epochs"
        main_table.add_row(
            found.format,
            f"{found.convert_s:.1f} s",
            *rates,
            f"{found.accuracy:.1%}",
            f"{1 / len(images.CLASSES):.1%}",
            right,
            f"{found.replayed} images",
        )
        for report in found.reports.values():
            s = report["stats"]
            shares = (s["elapsed_s"], s["wait_s"], s["elapsed_s"] - s["wait_s"], s["read_s"], s["decode_s"], s["transform_s"])
            times.add_row(found.format, str(report["processes"]), *(f"{share:.2f}" for share in shares))
    out.print(main_table, times)


def main() -> None:
    """Run the demo that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description="Images in, a trained model out, over a kill.")
    parser.add_argument("--out", type=Path, default=Path("demo_out"))
    parser.add_argument("--count", type=int, default=3000, help="images to make")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--formats", default="arrow,tar", help="shard formats, separated by commas")
    asked = parser.parse_args()
    demo = Demo(out=asked.out.resolve(), count=asked.count, epochs=asked.epochs, formats=tuple(asked.formats.split(",")))
    start = time.perf_counter()
    clear(demo.out)
    say(f"making {demo.count:,} images of {len(images.CLASSES)} classes")
    print(f"    {run(sys.executable, '-m', 'benchmarks.images', demo.out / 'images', f'--count={demo.count}')}", end="", flush=True)
    findings = [try_format(demo, shard_format) for shard_format in demo.formats]
    sheet = demo.out / "contact_sheet.png"
    run(PENSTOCK, "show", demo.out / demo.formats[0] / "train", f"--png={sheet}")
    show_findings(demo, findings)
    (demo.out / "report.json").write_text(json.dumps([asdict(found) for found in findings], indent=2))
    say(f"contact sheet: {sheet}")
    say(f"figures: {demo.out / 'report.json'}; everything took {time.perf_counter() - start:.0f} s")
    problems = [f"{found.format}: {problem}" for found in findings for problem in found.problems]
    if problems:
        raise SystemExit("\n".join(f"demo: FAILED: {problem}" for problem in problems))
    say("every promise was kept")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
