"""The history of a dataset on disk: which versions exist, what one of them is, and how another comes to be.

A version is made by putting one file, `_penstock/commits/<version>.json`, where no file of that name is. That is the only step that
publishes anything. Of two writers at once one finds the name taken, reads what the other did, and tries the next version: an append lands
behind the other's rows, an overwrite takes away what stands by then, a create is refused. Every 64th version the list of shards is also kept
as one Arrow file, so that opening reads at most 64 commits; it is a speed-up that can be deleted.

Must never: change or remove a published file.
Cost: opening lists the commits (one name a version), then reads the newest checkpoint and at most 63 commits: O(versions + shards). A commit
opens the dataset first, again for each version it loses to another writer; it looks at each new shard (one `stat`, and the `lstat`s that tell
where its path leads) and flushes each folder that holds one, its own file, and the folder of commits. With `job` it also reads the commits
behind `after`, each once.
Refused: a lock around commits, which a dead writer on another machine would keep.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import AlreadyExists, BadData, BadRequest, NotADataset, StorageError
from ..fields import Schema
from .checkpoint_names import CHECKPOINT_EVERY, newest_checkpoint
from .later import load_later
from .manifest import MAX_COMMIT_BYTES, MAX_METADATA_BYTES, Commit, Manifest, Shard, check_metadata
from .storage import fsync_folder, guard, inside, local_path, make_folder, put_if_absent, read_file, sweep_temporaries

COMMITS = "_penstock/commits"
"""Where a dataset keeps its commits."""

_NAME = re.compile(r"(\d{20})\.json")
_ATTEMPTS = 1000


def commit_path(root: Path, version: int) -> Path:
    """Return where the commit that makes `version` stands."""
    return root / COMMITS / f"{version:020d}.json"


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a dataset of ours: at least one version has been published in it."""
    return bool(list_versions(path))


def list_versions(root: str | os.PathLike[str]) -> list[int]:
    """Return the versions that exist, in order; none for a folder that is no dataset."""
    folder = local_path(root) / COMMITS
    try:
        with guard(folder, "list the versions"), os.scandir(folder) as entries:
            found = [_NAME.fullmatch(entry.name) for entry in entries]
    except StorageError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return []
        raise
    return sorted(int(name[1]) for name in found if name)


def read_commit(root: str | os.PathLike[str], version: int) -> Commit:
    """Return one commit.

    Raises:
        BadData: the file is not a commit, or not the one that its name says.
    """
    path = commit_path(local_path(root), version)
    try:
        found = Commit.from_json(read_file(path, cap_bytes=MAX_COMMIT_BYTES))
        if found.version != version or found.parent != (version - 1 or None):
            reason = f"it says version {found.version} made from {found.parent}, but its name is that of version {version}"
            raise BadData(f"{reason}; the file was renamed or replaced")  # noqa: TRY301 (the place is added below)
    except BadData as error:
        raise error.at(path=path) from None
    return found


def load(root: str | os.PathLike[str], version: int | None = None) -> Manifest:
    """Return the dataset at a version, or at the newest.

    Raises:
        NotADataset: nothing has been published there.
        BadRequest: there is no such version.
        BadData: a commit is damaged, or contradicts those before it.
    """
    if version is not None and (isinstance(version, bool) or not hasattr(version, "__index__")):
        raise BadRequest(f"version: {version!r} is not a whole number; give one such as 3, or None for the newest")
    folder = local_path(root)
    versions = list_versions(folder)
    if not versions:
        state = "holds no published version" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise NotADataset(f"{folder} {state}, so it is not a dataset; write one with penstock.Writer or `penstock convert`, or check the path")
    wanted = versions[-1] if version is None else int(version)
    if wanted not in versions:
        shown = ", ".join(map(str, versions[-20:]))
        raise BadRequest(f"version: {folder} has no version {version!r}; it has {'..., ' if len(versions) > 20 else ''}{shown}")
    return _replay(folder, wanted, set(versions))


def _replay(folder: Path, wanted: int, versions: set[int]) -> Manifest:
    base = newest_checkpoint(folder, wanted)
    start: Manifest | None = None if base is None else load_later("checkpoint").read_checkpoint(folder, base)
    if start is not None and base == wanted:
        return start
    shards: dict[str, Shard] = {} if start is None else {shard.path: shard for shard in start.shards}
    schema: Schema = {} if start is None else start.schema
    metadata: dict[str, Any] = {} if start is None else start.metadata
    for version in range((base or 0) + 1, wanted + 1):
        path = commit_path(folder, version)
        if version not in versions:
            raise BadData(f"version {wanted} builds on version {version}, whose commit is missing; restore the file", path=path)
        step = read_commit(folder, version)
        for name in step.removed:
            if shards.pop(name, None) is None:
                raise BadData("the commit removes a shard that is not there", path=path, shard=name)
        for shard in step.added:
            if shard.path in shards:
                raise BadData("the commit adds a shard that is already there, so its rows would be delivered twice", path=path, shard=shard.path)
            shards[shard.path] = shard
        schema, metadata = step.schema, step.metadata
    return Manifest(root=str(folder), version=wanted, schema=schema, metadata=metadata, shards=tuple(shards.values()))


def commit(
    root: str | os.PathLike[str],
    *,
    operation: str,
    schema: Schema,
    added: Sequence[Shard],
    removed: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    job: str | None = None,
    after: int = 0,
    offset: Any = None,
) -> Manifest:
    """Publish shards whose files already lie in the dataset, and return the dataset as it then is.

    Args:
        root: the dataset's folder; made when it is not there.
        operation: `"create"` (refused when a version exists), `"append"` or `"adopt"` (behind what stands; begins a dataset where there is
            none), `"overwrite"` (instead of everything that stands when the commit lands).
        schema: the columns of the shards.
        added: the shards, in the order of their rows.
        removed: shards to take away as well; they must stand.
        metadata: laid over what the dataset has, key by key, and `"class_names"` column by column; an overwrite begins with none.
        job: a name for the work done. If a version was already made by this job, nothing is published and that version is returned, so that
            a job killed right behind its commit can simply run on.
        after: a version that was there before the job began; only later ones can be the job's.
        offset: where the source stood.

    Raises:
        AlreadyExists: `"create"` found a dataset.
        BadRequest: the schema is not the dataset's, its class names are not continued, a shard is already there, or one to remove is not.
        StorageError: a file is missing or has another size, or the commit could not be written.
    """
    folder = local_path(root)
    given = check_metadata(metadata or {})
    _check_offset(offset)
    _check_files(folder, added)
    make_folder(folder / COMMITS)
    sweep_temporaries(folder / COMMITS)
    for _ in range(_ATTEMPTS):
        versions = list_versions(folder)
        if job is not None and (done := find_job(folder, job, after=after)) is not None:
            return load(folder, done)
        after = max(versions, default=after)
        current = load(folder) if versions else None
        step = _next(folder, current, operation, schema, added, removed, given, job, offset)
        path = commit_path(folder, step.version)
        data = step.to_json()
        if len(data) > MAX_COMMIT_BYTES:
            raise BadRequest(f"added: {len(added)} shards make a commit of {len(data)} bytes; at most {MAX_COMMIT_BYTES} fit: use larger shards")
        made = _apply(folder, current, step)  # before it is published: it refuses more shards than a version may have
        if put_if_absent(path, data):
            if step.version % CHECKPOINT_EVERY == 0:
                with contextlib.suppress(Exception):  # the version is published, whatever fails now; a checkpoint only makes opening faster
                    load_later("checkpoint").write_checkpoint(folder, made)
            return made
    raise StorageError(f"cannot publish: other writers were faster {_ATTEMPTS} times; try again", url=folder, attempts=_ATTEMPTS)


def find_job(root: str | os.PathLike[str], job: str, *, after: int = 0) -> int | None:
    """Return the version behind `after` that a job made, or None; reads the commits from the newest back."""
    for version in reversed(list_versions(root)):
        if version <= after:
            break
        if read_commit(root, version).job == job:
            return version
    return None


def _check_offset(offset: Any) -> None:
    try:
        size = len(json.dumps(offset, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"offset: {str(offset)[:80]!r} cannot be written as JSON: {error}") from None
    if size > MAX_METADATA_BYTES:
        raise BadRequest(f"offset: {size} bytes of JSON are more than the {MAX_METADATA_BYTES} a commit may carry")


def _check_files(folder: Path, added: Sequence[Shard]) -> None:
    """See that the files are there, whole, and that their names are on disk."""
    folders: set[Path] = set()
    for shard in added:
        path = inside(folder, shard.path)
        with guard(path, "publish the shard"):
            size = path.stat().st_size
        if size != shard.bytes:
            raise StorageError(f"cannot publish the shard: the file has {size} bytes where {shard.bytes} were written", url=path)
        folders.add(path.parent)
    for parent in sorted(folders):
        with contextlib.suppress(StorageError):  # adopted files may lie where we may not write; they are on disk already
            fsync_folder(parent)


def _next(
    folder: Path,
    current: Manifest | None,
    operation: str,
    schema: Schema,
    added: Sequence[Shard],
    removed: Sequence[str],
    metadata: dict[str, Any],
    job: str | None,
    offset: Any,
) -> Commit:
    """Return the commit that would follow `current`."""
    there = {} if current is None else {shard.path: shard for shard in current.shards}
    gone = list(there) if operation == "overwrite" else list(removed)
    if current is not None and operation == "create":
        message = f"{folder} already holds version {current.version} with {current.rows} rows; append to it, overwrite it, or choose another folder"
        raise AlreadyExists(message)
    if current is not None and operation != "overwrite":
        check_same_schema(folder, current.schema, schema)
        metadata = {**current.metadata, **metadata, **_continued(folder, current.metadata, metadata)}
    if twice := [shard.path for shard in added if shard.path in there]:
        raise BadRequest(f"added: {twice[0]!r} and {len(twice) - 1} more are already in version {current.version if current else 0} of {folder}")
    if lost := [path for path in gone if path not in there]:
        raise BadRequest(f"removed: {lost[0]!r} and {len(lost) - 1} more are not in {folder} (any more); another writer was faster: start again")
    version = 1 if current is None else current.version + 1
    return Commit(
        version=version,
        parent=version - 1 or None,
        time=_now(),
        operation=operation,
        schema=dict(schema),
        metadata=metadata,
        added=tuple(added),
        removed=tuple(gone),
        job=job,
        offset=offset,
    )


def check_same_schema(folder: str | os.PathLike[str], there: Schema, given: Schema) -> None:
    """Refuse columns that are not those of the dataset, naming those that differ.

    Raises:
        BadRequest: they differ in name, type or order.
    """
    if list(there.items()) == list(given.items()):
        return
    names = [name for name in {**there, **given} if there.get(name) != given.get(name)]
    told = "; ".join(f"{name!r} is {there.get(name, 'absent')} there and {given.get(name, 'absent')} here" for name in names[:5])
    told = told or f"their order is {list(there)} there and {list(given)} here"
    raise BadRequest(f"fields: not those of the dataset {os.fspath(folder)}: {told}; convert the rows first, or write another dataset")


def check_class_names(folder: str | os.PathLike[str], there: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse metadata whose class names do not continue those of the dataset: a label's number would then mean two things.

    Raises:
        BadRequest: a column's names are not those that are there, at their places, and perhaps more behind them.
    """
    _continued(folder, there, given)


def _continued(folder: str | os.PathLike[str], there: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class names of both, as metadata, having seen that the given ones continue those that are there."""
    old, new = there.get("class_names"), given.get("class_names")
    if new is None or old is None or old == new:
        return {}
    if not isinstance(old, dict) or not isinstance(new, dict):
        raise BadRequest(
            f"metadata: class_names is {str(old)[:80]!r} in {os.fspath(folder)}, so {str(new)[:80]!r} cannot be laid over it; leave it out"
        )
    for column, names in new.items():
        known = old.get(column, [])
        if names == known:
            continue
        if not isinstance(known, list) or not isinstance(names, list) or names[: len(known)] != known:
            raise BadRequest(
                f"metadata: the class names of column {column!r} are {str(known)[:200]} in {os.fspath(folder)} and {str(names)[:200]} here: a label's "
                "number would mean two things. Another writer may have added names meanwhile: read them from Dataset(...).metadata, put new names "
                "behind them, number the labels by that list, and append again; or write another dataset"
            )
    return {"class_names": {**old, **new}}


def _apply(folder: Path, current: Manifest | None, step: Commit) -> Manifest:
    gone = set(step.removed)
    kept = () if current is None else tuple(shard for shard in current.shards if shard.path not in gone)
    return Manifest(root=str(folder), version=step.version, schema=step.schema, metadata=step.metadata, shards=kept + step.added)


def _now() -> str:
    """Return the time, or the one that `SOURCE_DATE_EPOCH` sets for reproducible output."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    if fixed and not fixed.isdecimal():
        raise BadRequest(f"SOURCE_DATE_EPOCH: {fixed!r} is not a number of seconds since 1970; unset it or set one")
    moment = datetime.fromtimestamp(int(fixed), timezone.utc) if fixed else datetime.now(timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
