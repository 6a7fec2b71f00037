"""Decides what may happen to a destination: create, append, overwrite, resume, nothing more to do, or a refusal that names the way on.

Looks at the disk, changes nothing. The rule behind all of it: what exists is never overwritten unasked.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import AlreadyExists, BadRequest
from ..shards import commits
from ..shards.manifest import Manifest
from ..shards.storage import guard
from .job import Job, differences, unfinished
from .locate import leads_somewhere
from .settings import Settings


class Step(enum.Enum):
    """What to do."""

    START = "start"
    RESUME = "resume"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What will happen.

    Attributes:
        step: start, resume, or nothing because it was done before.
        operation: of the commit, when it starts.
        standing: what stands at each target.
        discard: unfinished jobs that give way.
    """

    step: Step
    operation: str
    standing: tuple[Manifest | None, ...]
    discard: tuple[Job, ...] = ()


def targets(root: Path, settings: Settings) -> dict[str, Path]:
    """Return where each dataset goes."""
    return {name: root / name if name else root for name in settings.targets}


def decide(root: Path, settings: Settings, job: Job, *, append: bool, overwrite: bool, resume: bool) -> Decision:
    """Return what will happen at `root`.

    Raises:
        BadRequest: the options contradict each other or the destination.
        AlreadyExists: something stands there and no option says what to do with it.
    """
    if append + overwrite + resume > 1:
        asked = [name for name, on in (("append", append), ("overwrite", overwrite), ("resume", resume)) if on]
        raise BadRequest(f"{' and '.join(asked)} contradict each other; choose one")
    _check_place(root, settings)
    standing = tuple(commits.load(path) if commits.is_dataset(path) else None for path in targets(root, settings).values())
    others = tuple(other for other in unfinished(root) if other.name != job.name)
    if resume:
        return _resume(root, settings, job, standing, others)
    if overwrite:
        if not any(standing) and not (root / "_penstock").is_dir():
            _check_empty(root, settings)  # somebody else's files; what a killed conversion left has `_penstock` beside it
        discard = (*((job,) if job.planned else ()), *others)
        return Decision(step=Step.START, operation="overwrite", standing=standing, discard=discard)
    if job.planned or others:
        same = "with these settings" if job.planned else "with other settings"
        rows = sum(manifest.rows for manifest in standing if manifest is not None)
        anew = f"replaces the {rows} rows that are published here" if any(standing) else "starts again"
        raise AlreadyExists(f"{root}: an unfinished conversion {same} is here; --resume (resume=True) continues it, --overwrite {anew}")
    if any(standing):
        if append:
            return Decision(step=Step.START, operation="append", standing=standing)
        there = next(there for there in standing if there is not None)
        raise AlreadyExists(
            f"{there.root} already holds version {there.version} with {there.rows} rows; --append (append=True) adds to it, "
            "--overwrite (overwrite=True) makes a new version without the old rows, --resume continues an unfinished conversion"
        )
    _check_empty(root, settings)
    return Decision(step=Step.START, operation="create", standing=standing)


def bases(standing: tuple[Manifest | None, ...]) -> tuple[int, ...]:
    """Return the version that stands at each target, or 0."""
    return tuple(0 if there is None else there.version for there in standing)


def _resume(root: Path, settings: Settings, job: Job, standing: tuple[Manifest | None, ...], others: tuple[Job, ...]) -> Decision:
    if (intent := job.intent()) is not None:
        if intent.bases != bases(standing):
            raise AlreadyExists(
                f"{root}: versions {list(intent.bases)} stood there when this {intent.operation} was asked for, and {list(bases(standing))} stand "
                f"there now; say again what to do with them: --append or --overwrite"
            )
        discard = tuple(other for other in others if other.name in intent.discard)
        return Decision(step=Step.START, operation=intent.operation, standing=standing, discard=discard)
    if job.planned:
        return Decision(step=Step.RESUME, operation="", standing=standing)
    if all(standing) and all(_made_by(path, job) for path in targets(root, settings).values()):
        return Decision(step=Step.DONE, operation="", standing=standing)
    if others:
        unlike = differences(settings, others[0].load().settings)
        raise BadRequest(f"resume: the unfinished conversion in {root} had other settings ({unlike}); repeat them, or start again with --overwrite")
    if any(standing):
        there = next(there for there in standing if there is not None)
        raise AlreadyExists(f"{there.root} holds version {there.version}, and no unfinished conversion; use --append or --overwrite")
    _check_empty(root, settings)
    return Decision(step=Step.START, operation="create", standing=standing)


def _made_by(root: Path, job: Job) -> bool:
    """Whether rows of this job stand in a dataset: it made one of the versions since the last overwrite."""
    for version in reversed(commits.list_versions(root)):
        step = commits.read_commit(root, version)
        if (step.job or "").split(".")[0] == job.name:
            return True
        if step.operation == "overwrite":
            return False
    return False


def _check_place(root: Path, settings: Settings) -> None:
    """Refuse a destination that is a file, lies in the source, or is a dataset where splits are wanted (or the other way round).

    Raises:
        BadRequest: it cannot be a destination.
        StorageError: it cannot be looked at, because of its name or a folder on the way.
    """
    for path in targets(root, settings).values():
        for link in (path, *path.parents):
            if not leads_somewhere(link, "look at the destination") and link.is_symlink():
                raise BadRequest(
                    f"{link} is a symbolic link to {link.readlink()}, which is not there; make that folder (mount its disk), or remove the link"
                )
    if root.exists() and not root.is_dir():
        raise BadRequest(f"{root} is a file; the destination is a folder")
    source = Path(settings.source)
    if os.path.isdir(source) and (root == source or source in root.parents):  # noqa: PTH112 - a pattern may be longer than a name, which only Path.is_dir raises for
        raise BadRequest(f"{root} lies in the source {source}, and would be part of it the next time; choose a folder outside")
    if settings.splits and commits.is_dataset(root):
        raise AlreadyExists(f"{root} is a dataset itself, so it cannot hold the splits {', '.join(settings.splits)}; choose another folder")


def _check_empty(root: Path, settings: Settings) -> None:
    """Refuse a folder with files in it that are not ours."""
    if not root.exists():
        return
    with guard(root, "list the folder"):
        names = [name for name in sorted(os.listdir(root)) if name != "_penstock"]  # noqa: PTH208 - names are all that is needed
    if settings.splits:
        names = [name for name in names if not commits.is_dataset(root / name) and not (name in settings.splits and _is_empty(root / name))]
    if names:
        raise AlreadyExists(f"{root} is not empty and is no dataset (it holds {', '.join(map(repr, names[:5]))}); choose an empty or new folder")


def _is_empty(path: Path) -> bool:
    """Whether a path is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())
