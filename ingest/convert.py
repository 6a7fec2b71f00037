"""Raw data into a dataset, as a job that survives being killed.

Plan (what is there, where to cut), parts (read, normalise, write; in any order, by anybody), publish (one commit). The plan does not depend on the number of
workers, so neither do the shards: byte for byte. Finished parts are never done again. Memory does not depend on the source's size, except
for its list of files and its list of pieces, and for a CSV whose quotes do not stand around whole values (`5" pipe`): it cannot be cut, so one worker
parses the file whole, up to 2 GiB of it, and a larger one is set aside. Refused: a scheduler of our own; one machine's processes do the parts, and
the same parts can run elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import BadData, BadRequest
from ..shards.manifest import parse_size
from ..shards.storage import local_path
from .assign import parse_splits
from .destination import Decision, Step, bases, decide
from .engines import LocalEngine, run_inline
from .job import Intent, Job, Marker, Plan, check_unchanged, fingerprint
from .locate import Located, locate
from .output import Staged
from .plan import check_source, make_plan
from .progress import Silent, shown
from .publish import discard, judge, keep_report, kept_report, make_report, publish, write_quarantine
from .report import MaxBad, Report, SplitReport, parse_max_bad
from .settings import ImageRule, Settings, parse_reencode
from .shuffle import plan_tasks, write_tasks
from .tokenize import rule_of


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    format: str = "arrow",  # noqa: A002 - the design's name
    shard_size: str | int = "128MB",
    workers: int | None = None,
    shuffle: int | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
    split_key: str | None = None,
    resize_short: int | None = None,
    max_pixels: int | None = None,
    reencode: str | None = None,
    columns: Sequence[str] | None = None,
    tokenize: str | None = None,
    text_column: str = "text",
    end_token: str | None = None,
    special_tokens: bool = True,
    max_bad: float | str | None = None,
    append: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    check: str = "decode",
    progress: bool = False,
    kind: str | None = None,
) -> Report:
    """Convert raw data into a dataset and return what was done.

    Args:
        src: a file, a folder, a glob (`raw/*.csv`) or a brace pattern (`{000..009}.tar`).
        dst: the dataset's folder; with `split`, the folder that holds one dataset a split.
        format: of the shards, `"arrow"` or `"tar"`.
        shard_size: what no shard's file exceeds, such as `"128MB"`; one row that is larger gets a shard of its own.
        workers: processes; by default one a core. 0 works in this process. The result is the same for any number.
        shuffle: a seed; rows are stored in an order drawn from all of them. Costs a second pass over the data.
        split: fraction of each split, such as `{"train": 0.9, "val": 0.1}`. A row's split follows from its key alone. Fractions may sum to less than 1;
            the rest is left out and counted.
        split_key: the column whose value is the key; by default the file's path, the tar's key, or `file#row`.
        resize_short: images whose short side is longer are scaled down to it.
        max_pixels: images with more pixels are scaled down to at most so many.
        reencode: write every image anew, such as `"jpeg:90"`.
        columns: the columns to keep.
        tokenize: a `tokenizer.json` of Hugging Face's `tokenizers`, a folder with one, or a name on their hub: the column `text_column` is written as
            `tokens`, each row whole.
        text_column: which column is tokenized.
        end_token: a token put behind every row, such as `"<|endoftext|>"`.
        special_tokens: whether the tokenizer adds what it adds to every text.
        max_bad: rows that may be set aside: a count (`10`), a fraction (`0.01`) or a percentage (`"1%"`). By default 0.1 % of rows whose values cannot
            be read, and no damage to a file's structure.
        append: add to the dataset that is there.
        overwrite: make a new version without the rows that are there, and drop unfinished conversions.
        resume: continue an unfinished conversion with the same settings.
        check: `"decode"`: an image counts as readable if it really decodes; `"header"`: if its header makes sense.
        progress: show progress on standard error.
        kind: of the source, when it cannot be told from the names: images, files, tar, parquet, csv, jsonl, arrow, numpy, hf, penstock.

    Raises:
        BadRequest: an argument cannot work; also `AlreadyExists` and `NotADataset`.
        BadData: the source cannot be understood, or more than `max_bad` of it cannot be read; nothing is published then.
        StorageError: the disk is full or refuses; what is done is kept, and `resume` continues.
        WorkerFailed: a worker died three times on one part, or failed in a way that is not the data's fault.
    """
    began = time.monotonic()
    bound, processes = parse_max_bad(max_bad), _workers(workers)
    root = local_path(dst)
    located = locate(os.fspath(src), kind)
    encoding, quality = parse_reencode(reencode)
    settings = Settings(
        source=str(local_path(src)),
        kind=located.kind,
        format=format,
        shard_bytes=parse_size(shard_size),
        shuffle=shuffle,
        splits=parse_splits(split),
        split_key=split_key,
        columns=None if columns is None else tuple(columns),
        image=ImageRule(check=check, resize_short=resize_short, max_pixels=max_pixels, encoding=encoding, quality=quality),
        tokens=None if tokenize is None else rule_of(tokenize, text_column, end_token, special=special_tokens),
    )
    job = Job(root, fingerprint(settings))
    decision = decide(root, settings, job, append=append, overwrite=overwrite, resume=resume)
    if decision.step is Step.DONE:
        if job.path.exists():
            with job.lock():  # a kill while the finished job was being removed
                job.remove()
        return kept_report(job) or _from_manifests(job, settings, decision)
    made = _planned(job, settings, located, decision) if decision.step is Step.START else None
    with contextlib.closing(shown(progress)) as show:
        show.start()
        report = _run(job, made, located, decision, bound, processes, show)
    return replace(report, seconds=time.monotonic() - began)


def _workers(asked: int | None) -> int:
    if asked is not None and asked < 0:
        raise BadRequest(f"workers: {asked!r} must be 0 (this process), or how many processes")
    return asked if asked is not None else len(os.sched_getaffinity(0))


def _planned(job: Job, settings: Settings, located: Located, decision: Decision) -> Plan:
    """Return the plan of a conversion that starts; where something stands already, what was asked is noted first, for a kill to come."""
    noted = decision.operation != "create" or bool(decision.discard)
    if noted:
        names = tuple(other.name for other in decision.discard)
        with job.lock():
            job.intend(Intent(operation=decision.operation, bases=bases(decision.standing), discard=names))
    try:
        made = make_plan(settings, located.files, decision.operation, list(decision.standing))
        check_source(made)
    except Exception:  # refused, and said so: nothing is left to resume. Not Ctrl-C, which is a kill like any other
        if noted:
            with job.lock():
                job.settled() if job.planned else job.remove()
        raise
    return made


def _from_manifests(job: Job, settings: Settings, decision: Decision) -> Report:
    """Return what is known of a conversion whose report is gone."""
    splits = {
        name: SplitReport(path=there.root, version=there.version, rows=there.rows, bytes=there.bytes, shards=len(there.shards))
        for name, there in zip(settings.targets, decision.standing, strict=True)
        if there is not None
    }
    rows = sum(split.rows for split in splits.values())
    size = sum(split.bytes for split in splits.values())
    return Report(
        path=str(job.root),
        job=job.name,
        rows_in=rows,
        rows_out=rows,
        rows_set_aside=0,
        rows_left_out=0,
        bytes_in=0,
        bytes_out=size,
        shards=sum(split.shards for split in splits.values()),
        quarantine=None,
        splits=splits,
    )


def _run(job: Job, made: Plan | None, located: Located, decision: Decision, bound: MaxBad, workers: int, show: Silent) -> Report:
    """Do what is left of a job, under its lock."""
    for other in decision.discard:
        if other.name != job.name:
            with other.lock():
                discard(other)
                other.remove()
    with job.lock() as lock:
        if made is None:
            plan = job.load()
            check_unchanged(plan, located.files)
            job.sweep()
        else:
            plan = made
            _begin(job, plan)
        markers = _stage(job, 1, list(plan.part_bytes), workers, lock, show)
        quarantine = write_quarantine(job, plan, [len(markers)])
        judge(job, plan, markers, bound)
        staged: list[Staged] = [shard for marker in markers for shard in marker.staged]
        if plan.settings.shuffle is not None:
            second = _shuffled(job, plan, markers, workers, lock, show)
            staged = [shard for marker in second for shard in marker.staged]
            if any(marker.samples for marker in second):  # rows of a tar that only the shuffle brought together
                quarantine = write_quarantine(job, plan, [len(markers), len(second)])
                markers += [replace(marker, rows_in=0) for marker in second]  # the first stage counted them
                judge(job, plan, markers, bound)
        report = make_report(job, plan, markers, staged, publish(job, plan, staged))
        assert (quarantine is None) == (report.quarantine is None)
        keep_report(job, report)
        job.remove()
        return report


def _shuffled(job: Job, plan: Plan, markers: list[Marker], workers: int, lock: int, show: Silent) -> list[Marker]:
    """Do what is left of the second stage."""
    tasks = plan_tasks(plan, markers)
    write_tasks(job.path, tasks)
    return _stage(job, 2, [task.bytes for task in tasks.tasks], workers, lock, show)


def _begin(job: Job, plan: Plan) -> None:
    """Start a job's folder anew; what an earlier run with the same settings left gives way."""
    discard(job)
    for path in job.path.iterdir():
        if path.name not in ("lock", "intent.json"):
            path.unlink()
    try:
        job.save(plan)
    except BaseException:  # also Ctrl-C and a full disk: without its plan or what was asked the folder is of no use
        if job.intent() is None:
            job.remove()
        raise
    job.settled()


def _stage(job: Job, stage: int, sizes: list[int], workers: int, lock: int, show: Silent) -> list[Marker]:
    """Do the parts of a stage that are not done; return what all of them did."""
    left = [part for part in range(len(sizes)) if job.marker(stage, part) is None]
    show.stage("converting" if stage == 1 else "shuffling", sum(sizes), sum(sizes) - sum(sizes[part] for part in left))
    try:
        if workers == 0:
            run_inline(job, stage, left, show.add)
        elif left:
            LocalEngine(workers, lock).run(job, stage, left, show.add)
    finally:
        job.sweep()  # what workers that were ended had not finished: a disk that is full has room again
    found = [job.marker(stage, part) for part in range(len(sizes))]
    missing = [part for part, marker in enumerate(found) if marker is None]
    if missing:
        raise BadData(
            f"parts {missing[:10]} of stage {stage} left no marker; was the job's folder changed? Start again with --overwrite", path=job.path
        )
    return [marker for marker in found if marker is not None]
