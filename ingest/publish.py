"""The end of a job: count what its parts did, judge it, and publish the shards.

Shards are moved into `data/` first and then named by one commit a dataset; a reader sees the old version or the whole new one. Every step looks whether it was
done before, so a kill between any two is healed by `--resume`. Of two conversions at once the later one appends or overwrites if it was told to, and is
refused, leaving nothing behind, if it was not. What is written depends on plan and markers alone, never on who did what when.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..errors import AlreadyExists, BadData, BadRequest, StorageError
from ..shards import commits
from ..shards.manifest import Manifest, Shard
from ..shards.staging import is_left, move_shard, remove_shard
from ..shards.storage import fsync_folder, make_folder, sweep_temporaries
from .destination import targets
from .job import Job, Marker, Plan, read_json, understood
from .output import Staged
from .report import MaxBad, Report, SplitReport

QUARANTINE = "_penstock/quarantine"
"""Where in a destination the reasons are."""

REPORTS = "_penstock/reports"
"""Where in a destination the report of a finished conversion is kept, so that `--resume` can give it again."""

_SHOWN = 5


def commit_name(job: Job, version: int) -> str:
    """Return what a job's commit is signed with; the version is in it, because the same conversion may be appended twice."""
    return f"{job.name}.{version}"


def quarantine_path(root: Path, job: Job) -> Path:
    """Return where the reasons of a job are."""
    return root / QUARANTINE / f"{job.name}.jsonl"


def write_quarantine(job: Job, plan: Plan, parts: Sequence[int]) -> Path | None:
    """Write what was set aside by so many parts of each stage, in the order of their rows; return the file, or None when there is nothing."""
    known = "".join(json.dumps(bad.to_json(), ensure_ascii=True) + "\n" for bad in plan.bad).encode()
    lines = known + b"".join(job.bad_lines(stage, part) for stage, count in enumerate(parts, 1) for part in range(count))
    path = quarantine_path(job.root, job)
    if lines:
        job.put(path, lines)
        return path
    path.unlink(missing_ok=True)
    return None


def judge(job: Job, plan: Plan, markers: Sequence[Marker], bound: MaxBad) -> None:
    """Refuse a result with too much set aside.

    Raises:
        BadData: with the first reasons and what to do.
    """
    structure = sum(m.structure for m in markers) + sum(bad.rows for bad in plan.bad)
    samples = sum(m.samples for m in markers)
    rows = sum(m.rows_in for m in markers) + sum(bad.rows for bad in plan.bad)
    uncounted = _uncounted(plan, markers)
    if rows == structure + samples and rows:
        reason = f"none of the {rows} rows can be read"
    elif bound.allows(rows, structure=structure, samples=samples, uncounted=uncounted):
        return
    else:
        kinds = ", ".join(
            text for count, text in ((structure, f"{structure} by damaged structure"), (samples, f"{samples} by their values")) if count
        )
        reason = f"{structure + samples} of {rows} rows cannot be read ({kinds}), more than max_bad ({bound.text}) allows"
    if uncounted:
        reason += f"; {uncounted} of them stand for files, or rests of files, whose rows nobody can count, which only a number of rows allows"
    first = [*(str(bad) for bad in plan.bad), *(text for marker in markers for text in marker.reasons)][:_SHOWN]
    listed = "".join(f"\n  {text}" for text in first)
    remedy = (
        f"all reasons are in {quarantine_path(job.root, job)}; repair the source and start again with --overwrite, "
        f"or accept the loss with --resume --max-bad {structure + samples}"
    )
    raise BadData(f"{reason}; nothing was published.{listed}\n{remedy}", path=plan.settings.source)


def _uncounted(plan: Plan, markers: Sequence[Marker]) -> int:
    """Return how many losses have an unknown number of rows."""
    return sum(m.uncounted for m in markers) + sum(not bad.counted for bad in plan.bad)


def publish(job: Job, plan: Plan, staged: Sequence[Staged]) -> dict[str, Manifest]:
    """Move the shards into their datasets and commit; return what stands then."""
    found: dict[str, Manifest] = {}
    for number, (name, root) in enumerate(targets(job.root, plan.settings).items()):
        mine = [shard for shard in staged if shard.split == number]
        version = plan.bases[number] + 1
        signed, after = commit_name(job, version), plan.bases[number]
        if (done := commits.find_job(root, signed, after=after)) is not None:
            sweep_temporaries(root / commits.COMMITS)  # a kill right behind the commit
            found[name] = commits.load(root, done)
            continue
        shards = [_moved(job, plan, shard, root, version, place) for place, shard in enumerate(mine)]
        if shards:
            fsync_folder(root / "data")
        else:
            make_folder(root)
        try:
            found[name] = _committed(plan, root, shards, signed, after)
        except BadRequest as refused:
            if max(commits.list_versions(root), default=0) <= after:
                raise  # nobody's doing: it can be put right and resumed
            _withdraw(job, root, shards, after)
            kind = AlreadyExists if isinstance(refused, AlreadyExists) else BadRequest
            raise kind(f"{refused}. Another writer was faster: what this conversion made was removed and nothing of it published in {root}") from None
    return found


def _committed(plan: Plan, root: Path, shards: Sequence[Shard], signed: str, after: int) -> Manifest:
    """Commit the shards of one dataset as was asked; where nothing stands, appending and overwriting begin it, unless another writer is faster."""
    begin = "create" if not after and not commits.is_dataset(root) else plan.operation
    for operation in dict.fromkeys((begin, plan.operation)):
        try:
            return commits.commit(
                root,
                operation=operation,
                schema=plan.schema,
                added=shards,
                metadata=plan.described.metadata,
                job=signed,
                after=after,
            )
        except AlreadyExists:
            if operation == plan.operation:
                raise
    raise AssertionError(begin)


def _withdraw(job: Job, root: Path, shards: Sequence[Shard], after: int) -> None:
    """Remove a conversion that can never be published: the shards that were moved, unless a version names them, and its folder."""
    _remove_unnamed(root, [shard.path for shard in shards], after=after)
    job.remove()


def discard(job: Job) -> None:
    """Remove the shards of a job that gives way which were moved into `data/` before a kill, unless a version names them; call it with the lock.

    Which they are is told by its plan and markers, so a job whose plan was never written, or cannot be understood, has none.
    """
    if not job.planned:
        return
    try:
        plan = job.load()
        staged = _staged(job, plan)
    except (BadData, StorageError):  # damaged: nobody can say what was its own, so nothing is touched
        return
    for number, root in enumerate(targets(job.root, plan.settings).values()):
        mine = [shard for shard in staged if shard.split == number]
        after = plan.bases[number]
        _remove_unnamed(root, [_place(job, plan, after + 1, place) for place in range(len(mine))], after=after)


def _staged(job: Job, plan: Plan) -> list[Staged]:
    """Return the shards that the markers of a job's last stage name, up to the first part that is not done: publishing began when all were."""
    stage = 1 if plan.settings.shuffle is None else 2
    staged: list[Staged] = []
    for part in count():
        if (marker := job.marker(stage, part)) is None:
            return staged
        staged += marker.staged
    raise AssertionError(stage)


def _remove_unnamed(root: Path, paths: Sequence[str], *, after: int) -> None:
    """Remove shards that no version behind one names; versions before it are older than the shards."""
    there = [path for path in paths if is_left(root / path)]
    versions = [version for version in commits.list_versions(root) if version > after] if there else []
    named = {shard.path for version in versions for shard in commits.read_commit(root, version).added}
    for path in there:
        if path not in named:
            remove_shard(root / path)


def _place(job: Job, plan: Plan, version: int, number: int) -> str:
    """Return the path that a shard has in its dataset."""
    return f"data/part-{version:020d}-{number:05d}-{job.name[:8]}.{plan.settings.format}"


def _moved(job: Job, plan: Plan, staged: Staged, root: Path, version: int, number: int) -> Shard:
    """Move one shard, and what lies beside it, unless that was done before."""
    path = _place(job, plan, version, number)
    make_folder(root / "data")
    source, goal = job.path / staged.name, root / path
    if not source.exists() and not goal.exists():
        raise StorageError(f"cannot publish the shard: {source} is gone; start again with --overwrite", url=goal)
    move_shard(source, goal)
    return Shard(path=path, format=plan.settings.format, rows=staged.rows, bytes=staged.bytes, xxh3=staged.xxh3, block_rows=staged.block_rows)


def make_report(job: Job, plan: Plan, markers: Sequence[Marker], staged: Sequence[Staged], published: dict[str, Manifest]) -> Report:
    """Return what the job did."""
    aside = sum(m.structure + m.samples for m in markers) + sum(bad.rows for bad in plan.bad)
    splits = {}
    for number, name in enumerate(plan.settings.targets):
        mine = [shard for shard in staged if shard.split == number]
        path = str(targets(job.root, plan.settings)[name])
        splits[name] = SplitReport(
            path=path, version=published[name].version, rows=sum(s.rows for s in mine), bytes=sum(s.bytes for s in mine), shards=len(mine)
        )
    return Report(
        path=str(job.root),
        job=job.name,
        rows_in=sum(m.rows_in for m in markers) + sum(bad.rows for bad in plan.bad),
        rows_out=sum(split.rows for split in splits.values()),
        rows_set_aside=aside,
        rows_left_out=sum(m.left_out for m in markers),
        bytes_in=sum(plan.part_bytes),
        bytes_out=sum(split.bytes for split in splits.values()),
        shards=len(staged),
        quarantine=str(quarantine_path(job.root, job)) if aside else None,
        splits=splits,
        uncounted=_uncounted(plan, markers),
    )


def keep_report(job: Job, report: Report) -> None:
    """Write the report where `--resume` finds it; without absolute paths and times, so that equal conversions leave equal trees."""
    splits = {name: replace(split, path=name) for name, split in report.splits.items()}
    bare = replace(report, path="", quarantine=None if report.quarantine is None else "", splits=splits, seconds=0.0)
    job.put(job.root / REPORTS / f"{job.name}.json", json.dumps(bare.to_json(), indent=1).encode())


def kept_report(job: Job) -> Report | None:
    """Return the report of a conversion that was done before, or None when it was not kept."""
    path = job.root / REPORTS / f"{job.name}.json"
    if not path.is_file():
        return None
    with understood(path):
        bare = Report.from_json(read_json(path))
    splits = {name: replace(split, path=str(job.root / name) if name else str(job.root)) for name, split in bare.splits.items()}
    quarantine = None if bare.quarantine is None else str(quarantine_path(job.root, job))
    return replace(bare, path=str(job.root), quarantine=quarantine, splits=splits)
