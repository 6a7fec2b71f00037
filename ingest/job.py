"""A conversion as a job on disk: its plan, its lock, and one marker a finished part.

    DST/_penstock/jobs/<fingerprint>/plan.json      what to do; written last, so that a job with a plan is whole
                                     intent.json    what was asked, from before planning until there is a plan; only where something stands already
                                     files.arrow    the source's files with sizes and times
                                     lock           held (flock) by the converting process and its workers
                                     s1-00007.json  marker: part 7 of stage 1 is done, these are its shards and counts
                                     s1-00007.bad   what that part set aside, as JSON lines
                                     s1-00007-000-00000.arrow   a finished shard, not published yet

The fingerprint is a hash of the settings, so that the same command finds its job again. A part is done when its marker is there; everything it
names was flushed before. Refused: one state file that is rewritten, which a kill can lose together with what it describes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from ..errors import AlreadyExists, BadData, BadRequest
from ..fields import Schema, schema_from_json, schema_to_json
from ..shards.storage import atomic_write, fsync_folder, guard, make_folder, read_file
from .assign import Spans
from .output import Staged
from .report import Bad
from .settings import Settings
from .source import Described, Files
from .tokenize import written

PLAN_FORMAT = 2
"""Enters the fingerprint: a new meaning of the plan must not continue an old job."""

JOBS = "_penstock/jobs"
"""Where in a destination unfinished jobs are."""

LOCK_WAIT_S = 10.0
"""How long the workers of a killed conversion may take to notice; after it the job counts as running."""

_CAP_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job will do. Does not depend on how many workers do it.

    Attributes:
        settings: what was asked.
        operation: `"create"`, `"append"` or `"overwrite"`.
        bases: for each target, the version that stood there, or 0.
        described: schema, metadata and details of the source.
        files: the source's files.
        parts: the spans of each part.
        part_bytes: the source's bytes in each part.
        bad: what was already known to be unreadable.
    """

    settings: Settings
    operation: str
    bases: tuple[int, ...]
    described: Described
    files: Files
    parts: tuple[Spans, ...]
    part_bytes: tuple[int, ...]
    bad: tuple[Bad, ...]

    @property
    def schema(self) -> Schema:
        """The columns that are written."""
        return written(self.described.schema, self.settings.tokens)


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a job was asked to do to a destination where something stands, noted before it is planned.

    Attributes:
        operation: as in the plan.
        bases: as in the plan.
        discard: names of the unfinished jobs that give way.
    """

    operation: str
    bases: tuple[int, ...]
    discard: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What a finished part did.

    Attributes:
        rows_in: rows it found, those set aside included.
        left_out: rows that no split wanted.
        structure: rows lost to damaged structure.
        samples: rows lost one by one.
        reasons: the first few reasons.
        staged: the shards it wrote.
        uncounted: how many of the losses have an unknown number of rows.
    """

    rows_in: int
    left_out: int
    structure: int
    samples: int
    reasons: tuple[str, ...]
    staged: tuple[Staged, ...]
    uncounted: int = 0

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Marker:
        """Return the marker that a file holds."""
        return cls(**{**given, "reasons": tuple(given["reasons"]), "staged": tuple(Staged(**s) for s in given["staged"])})


def fingerprint(settings: Settings) -> str:
    """Return 32 hex digits that equal settings share."""
    text = json.dumps([PLAN_FORMAT, settings.to_json()], ensure_ascii=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


class Job:
    """One job's folder.

    Attributes:
        root: the destination.
        name: the fingerprint.
        path: the folder.
    """

    def __init__(self, root: Path, name: str) -> None:
        """Name the folder; nothing is made yet."""
        self.root, self.name = root, name
        self.path = root / JOBS / name

    @property
    def planned(self) -> bool:
        """Whether there is an unfinished job."""
        return (self.path / "plan.json").is_file()

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the job; yield the descriptor, which workers inherit so that the job is theirs too while they live.

        Raises:
            AlreadyExists: another process holds it.
        """
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            make_folder(self.path)
            with guard(self.path, "lock the job"):
                descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if self._try_lock(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise AlreadyExists(f"{self.path}: another process is running this conversion now; wait for it, or stop it and use --resume")
            time.sleep(0.05)  # flock has no wait with a deadline; this ends after LOCK_WAIT_S

    def _try_lock(self, descriptor: int) -> bool:
        """Return whether the lock was free, and is still the one that others would find."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(descriptor).st_ino == (self.path / "lock").stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            return False

    def intend(self, intent: Intent) -> None:
        """Note what was asked, so that a kill while planning does not look as if it never had been; call it with the lock."""
        atomic_write(self.path / "intent.json", json.dumps(asdict(intent)).encode())

    def intent(self) -> Intent | None:
        """Return what was asked before a kill, or None when the job was planned or never began."""
        path = self.path / "intent.json"
        if not path.is_file():
            return None
        with understood(path):
            given = read_json(path)
            return Intent(operation=str(given["operation"]), bases=tuple(given["bases"]), discard=tuple(given["discard"]))

    def settled(self) -> None:
        """Forget what was asked: there is a plan now, or the request was refused."""
        (self.path / "intent.json").unlink(missing_ok=True)

    def save(self, plan: Plan) -> None:
        """Write the plan."""
        with guard(self.path, "write the plan"), pa.OSFile(os.fsencode(self.path / "files.arrow"), "wb") as sink:
            table = plan.files.to_table()
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        described = plan.described
        content = {
            "settings": plan.settings.to_json(),
            "operation": plan.operation,
            "bases": list(plan.bases),
            "schema": schema_to_json(described.schema),
            "metadata": described.metadata,
            "details": described.details,
            "root": plan.files.root,
            "parts": [spans.to_json() for spans in plan.parts],
            "part_bytes": list(plan.part_bytes),
            "bad": [bad.to_json() for bad in plan.bad],
        }
        atomic_write(self.path / "plan.json", json.dumps(content).encode())

    def load(self) -> Plan:
        """Return the plan.

        Raises:
            BadData: it is damaged, or was made by another version of Penstock.
        """
        with understood(self.path / "plan.json"):
            return self._load()

    def _load(self) -> Plan:
        given = read_json(self.path / "plan.json")
        with guard(self.path / "files.arrow", "read the plan"), pa.OSFile(os.fsencode(self.path / "files.arrow")) as file:
            table = pa.ipc.open_file(file).read_all()
        schema: Schema = schema_from_json(given["schema"])
        return Plan(
            settings=Settings.from_json(given["settings"]),
            operation=given["operation"],
            bases=tuple(given["bases"]),
            described=Described(schema=schema, metadata=given["metadata"], details=given["details"]),
            files=Files.from_table(given["root"], table),
            parts=tuple(Spans.from_json(spans) for spans in given["parts"]),
            part_bytes=tuple(given["part_bytes"]),
            bad=tuple(Bad(**bad) for bad in given["bad"]),
        )

    def put(self, path: Path, data: bytes) -> None:
        """Write a file of the destination whole or not at all; its temporary name is in the job's folder, so that a kill leaves nothing elsewhere."""
        temporary = self.path / "outgoing"
        make_folder(path.parent)
        with guard(path, "write the file"), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with guard(path, "write the file"):
            temporary.replace(path)
        fsync_folder(path.parent)

    def prefix(self, stage: int, part: int) -> str:
        """Return what the names of a part's files begin with."""
        return f"s{stage}-{part:05d}"

    def mark(self, stage: int, part: int, marker: Marker, bad: Sequence[Bad]) -> None:
        """Note that a part is done; its shards are on disk already."""
        prefix = self.prefix(stage, part)
        if bad:
            lines = "".join(json.dumps(one.to_json(), ensure_ascii=True) + "\n" for one in bad)
            atomic_write(self.path / f"{prefix}.bad", lines.encode())
        atomic_write(self.path / f"{prefix}.json", json.dumps(asdict(marker)).encode())

    def marker(self, stage: int, part: int) -> Marker | None:
        """Return what a part did, or None when it is not done."""
        path = self.path / f"{self.prefix(stage, part)}.json"
        if not path.is_file():
            return None
        with understood(path):
            return Marker.from_json(read_json(path))

    def bad_lines(self, stage: int, part: int) -> bytes:
        """Return what a part set aside, as JSON lines."""
        path = self.path / f"{self.prefix(stage, part)}.bad"
        return read_file(path, cap_bytes=_CAP_BYTES) if path.is_file() else b""

    def sweep(self) -> None:
        """Remove the shards that a killed process had not finished; call it with the lock, which every living process of the job holds."""
        for path in self.path.glob("*.tmp*"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, its plan first so that what is left of it counts for nothing, and its parents as far as they are empty."""
        self.settled()
        (self.path / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in (self.path.parent, self.path.parent.parent, self.root):
            with contextlib.suppress(OSError):  # not empty: it stays
                folder.rmdir()


def read_json(path: Path) -> Any:
    """Return what a JSON file of a destination holds."""
    return json.loads(read_file(path, cap_bytes=_CAP_BYTES))


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Say of which file the block could not make sense.

    Raises:
        BadData: values are missing, unknown or damaged.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        reason = f"it cannot be understood ({type(error).__name__}: {error})"
        raise BadData(f"{reason}; it is damaged or was written by another version of Penstock: start again with --overwrite", path=path) from error


def unfinished(root: Path) -> list[Job]:
    """Return the jobs of a destination that have a plan."""
    folder = root / JOBS
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 - names are all that is needed
    return [job for name in names if (job := Job(root, name)).planned]


def check_unchanged(plan: Plan, now: Files) -> None:
    """Refuse to continue when the source is not what it was when the plan was made.

    Raises:
        BadData: naming the first file that changed, came or went.
    """
    before = {name: (size, mtime) for name, size, mtime in zip(plan.files.names, plan.files.sizes.tolist(), plan.files.mtimes.tolist(), strict=True)}
    after = {name: (size, mtime) for name, size, mtime in zip(now.names, now.sizes.tolist(), now.mtimes.tolist(), strict=True)}
    if before == after and plan.files.names == now.names:
        return
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    name = changed[0].decode("utf-8", "backslashreplace") if changed else "the order"
    was, is_now = (found.get(changed[0]) if changed else None for found in (before, after))
    what = "is new" if was is None else "is gone" if is_now is None else f"had {was[0]} bytes and has {is_now[0]} now, or was written again"
    raise BadData(
        f"{name!r} {what}: the source changed after the conversion was planned ({len(changed)} files). Restore it, or start again with --overwrite",
        path=now.root,
    )


def differences(ours: Settings, theirs: Settings) -> str:
    """Return which settings of two jobs differ, for a message."""
    mine, other = ours.to_json(), theirs.to_json()
    unlike = [f"{name}: {other[name]!r} then, {mine[name]!r} now" for name in mine if mine[name] != other[name]]
    if not unlike:
        raise BadRequest(f"the job of {theirs.source} was planned by another version of Penstock; start again with --overwrite")
    return "; ".join(unlike)
