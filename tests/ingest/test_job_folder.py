"""A job's folder: its name follows from the settings, its plan and markers come back as they were, and damage is named with the way on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import image_folder, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import AlreadyExists, BadData, BadRequest, StorageError
from penstock.ingest import job as jobs
from penstock.ingest.assign import Spans
from penstock.ingest.convert import convert
from penstock.ingest.job import Job, Marker, Plan, check_unchanged, differences, fingerprint, unfinished
from penstock.ingest.output import Staged
from penstock.ingest.report import Bad
from penstock.ingest.settings import ImageRule, Settings
from penstock.ingest.source import Described, Files

Rules = st.builds(
    ImageRule,
    check=st.sampled_from(["decode", "header"]),
    resize_short=st.none() | st.integers(1, 9),
    max_pixels=st.none() | st.integers(1, 9),
    encoding=st.sampled_from([None, "jpeg", "png"]),
    quality=st.integers(1, 100),
)
Asked = st.builds(
    Settings,
    source=st.text(max_size=5),
    kind=st.sampled_from(["csv", "images"]),
    format=st.sampled_from(["arrow", "tar"]),
    shard_bytes=st.integers(1, 10**9),
    shuffle=st.none() | st.integers(-5, 2**64),
    splits=st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0.25, 0.5])),
    columns=st.none() | st.lists(st.sampled_from("xyz"), min_size=1, unique=True).map(tuple),
    image=Rules,
)
Ints = st.integers(-(2**63), 2**63 - 1)
Badness = st.builds(Bad, source=st.text(max_size=4), key=st.text(max_size=4), reason=st.text(max_size=9), row=st.none() | st.integers(0, 9))


def files(names: list[bytes]) -> Files:
    """Return a list of files that need not exist."""
    count = len(names)
    return Files(root="/raw", names=names, sizes=np.arange(count, dtype=np.int64), mtimes=np.arange(count, dtype=np.int64) - 1)


def plan_of(asked: Settings, names: list[bytes], runs: list[list[list[int]]], bad: list[Bad]) -> Plan:
    """Return a plan with odd values in it."""
    schema = {"x": ps.Array((2, 3), "uint8"), "é": ps.Tokens("int32"), "i": ps.Image("png")}
    return Plan(
        settings=asked,
        operation="append",
        bases=(7,) * len(asked.targets),
        described=Described(schema=schema, metadata={"class_names": {"l": ["ü"]}}, details={"names": ["x"]}),
        files=files(names),
        parts=tuple(Spans.from_json(run) for run in runs),
        part_bytes=tuple(range(len(runs))),
        bad=tuple(bad),
    )


@settings(deadline=None, max_examples=40)
@given(
    asked=Asked,
    names=st.lists(st.binary(min_size=1, max_size=6), max_size=4),
    runs=st.lists(st.lists(st.lists(Ints, min_size=4, max_size=4), max_size=3), max_size=3),
    bad=st.lists(Badness, max_size=2),
)
def test_plan_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, asked: Settings, names: list[bytes], runs: list[list[list[int]]], bad: list[Bad]
) -> None:
    """Settings, schema, file names that are not UTF-8, runs and reasons go through the folder unchanged."""
    job = Job(tmp_path_factory.mktemp("job"), fingerprint(asked))
    job.path.mkdir(parents=True)
    made = plan_of(asked, names, runs, bad)
    assert not job.planned
    job.save(made)
    assert job.planned
    found = job.load()  # type: ignore[unreachable]
    for name in ("settings", "operation", "bases", "described", "part_bytes", "bad"):
        assert getattr(found, name) == getattr(made, name), name
    assert [part.to_json() for part in found.parts] == runs
    assert found.files.names == names
    assert found.files.mtimes.tolist() == made.files.mtimes.tolist()


@given(Asked, Asked)
def test_equal_settings_and_only_they_share_a_name(one: Settings, other: Settings) -> None:
    """The fingerprint is 32 hex digits, the same for settings that went through JSON, and another for any that differ."""
    assert len(fingerprint(one)) == 32
    assert int(fingerprint(one), 16) >= 0
    assert fingerprint(Settings.from_json(json.loads(json.dumps(one.to_json())))) == fingerprint(one)
    assert (fingerprint(one) == fingerprint(other)) is (json.dumps(one.to_json()) == json.dumps(other.to_json()))


def test_order_of_splits_is_part_of_the_name() -> None:
    """Which hashes belong to a split depends on the order, so the other order is another job."""
    names = [fingerprint(Settings(source="s", kind="csv", splits=splits)) for splits in ({"a": 0.5, "b": 0.2}, {"b": 0.2, "a": 0.5})]
    assert names[0] != names[1]


def test_plan_s_format_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of Penstock that means something else by a plan does not find, and so does not continue, an older one's job."""
    asked = Settings(source="/raw", kind="csv")
    before = fingerprint(asked)
    monkeypatch.setattr(jobs, "PLAN_FORMAT", jobs.PLAN_FORMAT + 1)
    assert fingerprint(asked) != before


@given(
    st.builds(Marker, rows_in=Ints, left_out=Ints, structure=Ints, samples=Ints, reasons=st.lists(st.text(max_size=5)).map(tuple), staged=st.just(()))
)
def test_marker_comes_back(marker: Marker) -> None:
    """A marker goes through JSON unchanged, with shards too."""
    staged = Staged(name="s1-00000-000-00000.arrow", split=1, rows=2, bytes=3, xxh3="0" * 16, block_rows=4)
    full = replace(marker, staged=(staged, staged))
    for one in (marker, full):
        assert Marker.from_json(json.loads(json.dumps(asdict(one)))) == one


def job_in(root: Path) -> Job:
    """Return a job with a folder and nothing in it."""
    job = Job(root, "0" * 32)
    job.path.mkdir(parents=True)
    return job


def test_marks_and_reasons_of_parts(tmp_path: Path) -> None:
    """A part is done when its marker is there; its reasons are one JSON object a line, and none when nothing was set aside."""
    job = job_in(tmp_path)
    marker = Marker(rows_in=3, left_out=0, structure=0, samples=1, reasons=("x",), staged=())
    assert job.marker(1, 7) is None
    assert job.bad_lines(1, 7) == b""
    job.mark(1, 7, marker, [Bad(source="a\nb", key="k", reason="odd \udcff")])
    assert job.marker(1, 7) == marker
    assert job.marker(2, 7) is None
    (line,) = job.bad_lines(1, 7).splitlines()
    assert json.loads(line)["reason"] == "odd \udcff"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 1}', "\xff"])
def test_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    """A plan that is no plan, or another version's, is refused by its path with the way on, and `--overwrite` takes that way."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    job = Job(tmp_path / "out", fingerprint(Settings(source=str(tmp_path / "raw"), kind="images")))
    job.path.mkdir(parents=True)
    job.save(plan_of(Settings(source=str(tmp_path / "raw"), kind="images"), [b"class_0/0000.jpg"], [], []))
    (job.path / "plan.json").write_text(text, encoding="latin1")
    for options in ({}, {"shuffle": 1}):
        with pytest.raises(BadData, match=r"plan\.json: it cannot be understood \(.*another version of Penstock: start again with --overwrite"):
            convert(tmp_path / "raw", tmp_path / "out", workers=0, resume=True, **options)  # type: ignore[arg-type]
    assert convert(tmp_path / "raw", tmp_path / "out", workers=0, overwrite=True).rows_out == 2


def test_damaged_marker_and_report_are_named(tmp_path: Path) -> None:
    """A marker or a kept report that cannot be understood is refused by its path."""
    job = job_in(tmp_path / "out")
    (job.path / "s1-00000.json").write_text('{"rows_in": 1}')
    with pytest.raises(BadData, match=r"s1-00000\.json: it cannot be understood"):
        job.marker(1, 0)
    image_folder(tmp_path / "raw", classes=1, each=2)
    convert(tmp_path / "raw", tmp_path / "done", workers=0)
    (kept,) = (tmp_path / "done" / "_penstock" / "reports").iterdir()
    kept.write_text("{}")
    with pytest.raises(BadData, match=rf"{kept.name}: it cannot be understood"):
        convert(tmp_path / "raw", tmp_path / "done", workers=0, resume=True)
    kept.unlink()
    assert convert(tmp_path / "raw", tmp_path / "done", workers=0, resume=True).rows_out == 2


def test_unfinished_shards_of_a_kill_are_swept_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed worker was writing is gone when the job goes on, before its rows are written again: a full disk can be resumed on."""
    image_folder(tmp_path / "raw", classes=1, each=3)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "mark", cut)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "raw", tmp_path / "out", workers=0)
    (job,) = unfinished(tmp_path / "out")
    left = [job.path / name for name in ("s1-00000-000-00000.99.tmp", "s1-00000-000-00000.99.tmp.idx", ".s1-00000.json.ab.tmp")]
    for path in left:
        path.write_bytes(b"x" * 100)
    seen: list[bool] = []
    real = jobs.Job.mark

    def look(self: Job, *args: Any) -> None:
        seen.extend(path.exists() for path in left)
        real(self, *args)

    monkeypatch.setattr(Job, "mark", look)
    convert(tmp_path / "raw", tmp_path / "out", workers=0, resume=True)
    assert seen == [False, False, False]
    assert len(rows_of(tmp_path / "out")) == 3


def test_lock_is_held_by_who_inherits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that inherited the descriptor keeps the job locked when its parent has let go, and frees it by ending."""
    monkeypatch.setattr(jobs, "LOCK_WAIT_S", 0.1)
    job = Job(tmp_path, "1" * 32)
    with job.lock() as descriptor:
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    with pytest.raises(AlreadyExists, match=r"another process is running this conversion now; wait for it, or stop it and use --resume"), job.lock():
        pass
    worker.communicate(b"\n", timeout=20)
    with job.lock():
        assert (job.path / "lock").exists()


def test_lock_of_a_removed_folder_is_not_believed(tmp_path: Path) -> None:
    """Who locked a file that another removed meanwhile makes a new one, so that two never hold one job."""
    job = Job(tmp_path, "1" * 32)
    with job.lock() as first:
        (job.path / "lock").unlink()
        with job.lock() as second:
            assert os.fstat(first).st_ino != os.fstat(second).st_ino
            with pytest.raises(BlockingIOError), contextlib.closing((job.path / "lock").open()) as other:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_put_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the destination replaces the old one at once; when that fails the old one stays, and the temporary is in the job's folder."""
    job = job_in(tmp_path)
    goal = tmp_path / "_penstock" / "reports" / "x.json"
    job.put(goal, b"one")
    assert goal.read_bytes() == b"one"

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        job.put(goal, b"two")
    assert goal.read_bytes() == b"one"
    assert [path.name for path in goal.parent.iterdir()] == ["x.json"]


def test_removing_takes_empty_parents_only(tmp_path: Path) -> None:
    """The job's folder goes, and those above it while they are empty; another job keeps its own."""
    one, other = Job(tmp_path / "out", "1" * 32), Job(tmp_path / "out", "2" * 32)
    for job in (one, other):
        job.path.mkdir(parents=True)
    one.remove()
    assert other.path.is_dir()
    other.remove()
    assert not (tmp_path / "out").exists()
    assert unfinished(tmp_path / "out") == []


def test_differences_name_each_setting() -> None:
    """Two jobs' settings are told apart one by one; equal ones under another name are another version's."""
    one, other = Settings(source="/a", kind="csv"), Settings(source="/a", kind="csv", format="tar", shuffle=3)
    assert differences(one, other) == "format: 'tar' then, 'arrow' now; shuffle: 3 then, None now"
    with pytest.raises(BadRequest, match="the job of /a was planned by another version"):
        differences(one, one)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ([b"a", b"c"], "'b' is gone"),
        ([b"a", b"b", b"\xff"], r"'\\\\xff' is new"),
        ([b"b", b"a"], r"had 0 bytes and has 1 now|'a' had 0 bytes"),
    ],
)
def test_changed_files_are_named(now: list[bytes], reason: str) -> None:
    """What went, came or changed is said of the first file by name, with how many there are and what to do."""
    plan = plan_of(Settings(source="/raw", kind="csv"), [b"a", b"b"], [], [])
    check_unchanged(plan, files([b"a", b"b"]))
    with pytest.raises(BadData, match=rf"{reason}.*\(\d files\)\. Restore it, or start again with --overwrite"):
        check_unchanged(plan, files(now))


def test_order_alone_can_change() -> None:
    """The same files in another order would give other rows, and are refused too."""
    plan = plan_of(Settings(source="/raw", kind="csv"), [b"a", b"b"], [], [])
    swapped = replace(plan.files, names=[b"b", b"a"], sizes=plan.files.sizes[::-1], mtimes=plan.files.mtimes[::-1])
    with pytest.raises(BadData, match="'the order'"):
        check_unchanged(plan, swapped)
