"""A job survives being killed, refuses what changed, and gives the same bytes whoever did it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.raw import image_folder, rows_of, tree

from penstock.errors import AlreadyExists, BadData, BadRequest
from penstock.ingest import job as jobs
from penstock.ingest.convert import convert

SPLITS = ["train=0.8", "val=0.2"]
SIZE = 400_000


@pytest.fixture
def _fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return an image folder that makes several parts."""
    image_folder(tmp_path / "raw", classes=4, each=30, height=320, width=400, quality=95)
    return tmp_path / "raw"


PROGRAM = "import sys; from penstock.cli.app import main; main()"


def run(src: Path, dst: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a conversion to its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "convert", str(src), str(dst), "--quiet", "--shard-size", str(SIZE), *options],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def kill_after(seconds: float, src: Path, dst: Path, *options: str) -> bool:
    """Start a conversion, kill its whole process tree after a while; return whether it was still running."""
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "convert", str(src), str(dst), "--quiet", "--shard-size", str(SIZE), *options],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(timeout=10)
        return True
    return False


@pytest.mark.usefixtures("_fixed_time")
@pytest.mark.parametrize("options", [{}, {"shuffle": 7}, {"split": SPLITS, "format": "tar"}, {"split": SPLITS, "shuffle": 1, "resize_short": 100}])
def test_result_does_not_depend_on_workers(tmp_path: Path, images: Path, options: dict[str, object]) -> None:
    """No, one and two workers leave the same tree, byte for byte, the commit included."""
    for workers in (0, 1, 2):
        convert(images, tmp_path / f"out{workers}", workers=workers, shard_size=SIZE, **options)  # type: ignore[arg-type]
    assert tree(tmp_path / "out0") == tree(tmp_path / "out1") == tree(tmp_path / "out2")
    shards = [name for name in tree(tmp_path / "out0") if name.endswith((".arrow", ".tar"))]
    assert len(shards) >= 4


@pytest.mark.parametrize("options", [(), ("--shuffle", "5"), ("--split", "train=0.8", "--split", "val=0.2")])
def test_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path, images: Path, options: tuple[str, ...]) -> None:
    """SIGKILL of the whole process tree at random moments, several times, then `--resume`: the tree equals that of an undisturbed run."""
    began = time.monotonic()
    run(images, tmp_path / "whole", "--workers", "2", *options)
    took = time.monotonic() - began
    wanted = tree(tmp_path / "whole")
    rng = random.Random(str(options))
    for round_ in range(2):
        out = tmp_path / f"out{round_}"
        kills = 0
        while kills < 2 and kill_after(rng.uniform(0.2, 1.1) * took, images, out, "--workers", "2", "--resume", *options):
            kills += 1
        run(images, out, "--workers", "2", "--resume", *options)
        assert tree(out) == wanted, f"round {round_} after {kills} kills"


def test_killed_parent_leaves_no_worker(tmp_path: Path, images: Path) -> None:
    """When only the parent is killed its workers end by themselves, and the job can be taken over at once."""
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "convert", str(images), str(tmp_path / "out"), "--quiet", "--shard-size", str(SIZE), "--workers", "2"]
    )
    workers: list[int] = []
    deadline = time.monotonic() + 30
    while not workers and time.monotonic() < deadline:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    running.kill()
    running.wait(timeout=10)
    report = convert(images, tmp_path / "out", resume=True, workers=1, shard_size=SIZE)
    assert report.rows_out == 120
    assert workers
    assert not [pid for pid in workers if _alive(pid)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _interrupt(monkeypatch: pytest.MonkeyPatch, where: str, when: int = 1) -> None:
    """Make the `when`-th call of a method of `Job` raise, as a kill there would end the process."""
    original = getattr(jobs.Job, where)
    calls = iter(range(1, 10**6))

    def broken(self: jobs.Job, *args: object) -> object:
        if next(calls) == when:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(jobs.Job, where, broken)


@pytest.mark.usefixtures("_fixed_time")
@pytest.mark.parametrize(("where", "when"), [("save", 1), ("mark", 1), ("mark", 3), ("put", 1), ("remove", 1)])
def test_cut_at_each_step_then_resumed(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, where: str, when: int) -> None:
    """Ended before the plan, between parts, before the report and before the clean-up, the job goes on from there to the same tree."""
    (images / "class_0" / "bad.jpg").write_bytes(b"no image")
    options = {"workers": 0, "max_bad": 1, "shard_size": SIZE}
    convert(images, tmp_path / "whole", **options)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        _interrupt(patch, where, when)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", **options)  # type: ignore[arg-type]
    convert(images, tmp_path / "out", resume=True, **options)  # type: ignore[arg-type]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_finished_parts_are_not_done_again(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut between parts, resuming leaves the finished parts' files alone."""
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 3)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    folder = next((tmp_path / "out" / "_penstock" / "jobs").iterdir())
    inodes = {path.stat().st_ino for path in folder.glob("s1-0000[01]*.arrow")}
    assert len(inodes) == 2
    convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True)
    assert inodes <= {path.stat().st_ino for path in (tmp_path / "out" / "data").iterdir()}


def test_resume_after_success_gives_the_same_report(tmp_path: Path, images: Path) -> None:
    """`--resume` on a finished conversion changes nothing and returns its report, quarantine included."""
    (images / "class_0" / "bad.jpg").write_bytes(b"no image")
    first = convert(images, tmp_path / "out", workers=0, max_bad=1, split=SPLITS)
    before = tree(tmp_path / "out")
    again = convert(images, tmp_path / "out", workers=0, max_bad=1, split=SPLITS, resume=True)
    assert again == first
    assert again.seconds == 0.0
    assert tree(tmp_path / "out") == before


def test_resume_with_nothing_there_starts(tmp_path: Path, images: Path) -> None:
    """`--resume` may stand in a script from the first run on."""
    assert convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True).rows_out == 120


@pytest.mark.parametrize("change", ["grow", "remove", "add", "touch"])
def test_changed_source_is_refused_by_name(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """A source that is not what was planned is refused, naming the first file that changed."""
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 2)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    victim = images / "class_1" / "0003.jpg"
    if change == "grow":
        victim.write_bytes(victim.read_bytes() + b"x")
    elif change == "remove":
        victim.unlink()
    elif change == "add":
        victim = images / "class_1" / "0003a.jpg"
        victim.write_bytes(b"x")
    else:
        os.utime(victim, (1, 1))
    with pytest.raises(BadData, match=rf"class_1/{victim.name}.*--overwrite"):
        convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True)
    assert convert(images, tmp_path / "out", workers=0, shard_size=SIZE, overwrite=True, max_bad=1).rows_out >= 119


def test_resume_with_other_settings_names_them(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming with other settings is refused, and says which differ."""
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 2)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    with pytest.raises(BadRequest, match=r"shard_bytes: 400000 then, 64000000 now"):
        convert(images, tmp_path / "out", workers=0, resume=True, shard_size="64MB")
    with pytest.raises(AlreadyExists, match="with other settings"):
        convert(images, tmp_path / "out", workers=0, shard_size="64MB")
    with pytest.raises(AlreadyExists, match="with these settings"):
        convert(images, tmp_path / "out", workers=0, shard_size=SIZE)


def test_second_conversion_at_once_is_refused(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process holds a job another is refused, and says so."""
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 2)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    monkeypatch.setattr(jobs, "LOCK_WAIT_S", 0.2)
    job = jobs.unfinished(tmp_path / "out")[0]
    with job.lock(), pytest.raises(AlreadyExists, match="another process"):
        convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True)
    assert convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True).rows_out == 120


def test_existing_dataset_is_never_overwritten_unasked(tmp_path: Path, images: Path) -> None:
    """A dataset at the destination is refused with the three ways on; append adds, overwrite makes a version without the old rows."""
    convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    before = tree(tmp_path / "out")
    with pytest.raises(AlreadyExists, match=r"--append.*--overwrite.*--resume"):
        convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    with pytest.raises(AlreadyExists):
        convert(images, tmp_path / "out", workers=0, resume=True, shard_size="1MB")
    assert tree(tmp_path / "out") == before
    report = convert(images, tmp_path / "out", workers=0, shard_size=SIZE, append=True)
    assert report.splits[""].version == 2
    assert len(rows_of(tmp_path / "out")) == 240
    convert(images, tmp_path / "out", workers=0, shard_size=SIZE, overwrite=True)
    assert len(rows_of(tmp_path / "out")) == 120
    assert len(rows_of(tmp_path / "out", version=2)) == 240


def test_append_keeps_the_meaning_of_labels(tmp_path: Path) -> None:
    """Classes that the dataset knows keep their numbers, and new ones come behind them."""
    image_folder(tmp_path / "one", classes=2, each=1)
    image_folder(tmp_path / "two", classes=2, each=1)
    (tmp_path / "two" / "class_0").rename(tmp_path / "two" / "a_new_one")
    convert(tmp_path / "one", tmp_path / "out", workers=0, shard_size=SIZE)
    convert(tmp_path / "two", tmp_path / "out", workers=0, shard_size=SIZE, append=True)
    assert [row["label"] for row in rows_of(tmp_path / "out")] == [0, 1, 2, 1]


def test_append_refuses_other_columns(tmp_path: Path, images: Path) -> None:
    """A source with other columns than the dataset is refused before anything is converted."""
    convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    with pytest.raises(BadRequest, match="label"):
        convert(tmp_path / "t.parquet", tmp_path / "out", workers=0, shard_size=SIZE, append=True)


def test_killed_append_is_resumed_as_an_append(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` after a killed append appends, also when the same conversion had made the dataset before."""
    convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 2)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE, append=True)
    report = convert(images, tmp_path / "out", workers=0, shard_size=SIZE, resume=True)
    assert report.splits[""].version == 2
    assert len(rows_of(tmp_path / "out")) == 240


def test_folder_that_is_no_dataset_is_refused(tmp_path: Path, images: Path) -> None:
    """A folder with somebody's files is left alone, whatever the options."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    cases: tuple[dict[str, Any], ...] = ({}, {"append": True}, {"resume": True})
    for options in cases:
        with pytest.raises(AlreadyExists, match=r"thesis\.tex"):
            convert(images, tmp_path / "out", workers=0, **options)


def test_destination_in_the_source_is_refused(tmp_path: Path, images: Path) -> None:
    """A destination inside the source would be converted the next time."""
    with pytest.raises(BadRequest, match="lies in the source"):
        convert(images, images / "out", workers=0, shard_size=SIZE)
    with pytest.raises(BadRequest, match="contradict"):
        convert(images, tmp_path / "out", workers=0, append=True, overwrite=True)


def test_no_shard_is_larger_than_asked(tmp_path: Path, images: Path) -> None:
    """Shard files stay below `shard_size` in both formats, and a row that is larger gets a shard of its own."""
    for name in ("arrow", "tar"):
        for size in (300_000, 1_000_000):
            convert(images, tmp_path / f"{name}{size}", workers=0, format=name, shard_size=size)
            sizes = [path.stat().st_size for path in (tmp_path / f"{name}{size}" / "data").glob(f"*.{name}")]
            assert max(sizes) <= size
            assert np.mean(sizes) > size * 0.6
    report = convert(images, tmp_path / "tiny", workers=0, shard_size=1)
    assert report.shards == 120


def test_splits_are_stable_when_the_source_grows(tmp_path: Path, images: Path) -> None:
    """Rows keep their split when files are added, and the fractions are about right."""
    convert(images, tmp_path / "a", workers=0, split=SPLITS)
    before = {row["image"] for row in rows_of(tmp_path / "a" / "val")}
    image_folder(images, classes=6, each=30, height=320, width=400, quality=95)
    report = convert(images, tmp_path / "b", workers=0, split=SPLITS)
    assert before <= {row["image"] for row in rows_of(tmp_path / "b" / "val")}
    assert 0.1 < report.splits["val"].rows / report.rows_in < 0.3


def test_split_key_keeps_groups_together(tmp_path: Path) -> None:
    """With `split_key` all rows of one value are in one split; fractions below 1 leave the rest out, counted."""
    users = np.repeat(np.arange(50), 20)
    pq.write_table(pa.table({"user": users, "x": np.arange(1000)}), tmp_path / "t.parquet")
    report = convert(tmp_path / "t.parquet", tmp_path / "out", workers=0, split={"train": 0.5, "test": 0.3}, split_key="user")
    train, test = ({row["user"] for row in rows_of(tmp_path / "out" / name)} for name in ("train", "test"))
    assert not train & test
    assert report.rows_left_out == 1000 - report.rows_out > 0
    assert report.rows_out % 20 == 0


def test_plan_and_markers_are_json(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's folder holds JSON and shards: anyone can look what is done."""
    with monkeypatch.context() as patch:
        _interrupt(patch, "mark", 3)
        with pytest.raises(KeyboardInterrupt):
            convert(images, tmp_path / "out", workers=0, shard_size=SIZE)
    folder = next((tmp_path / "out" / "_penstock" / "jobs").iterdir())
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["settings"]["source"] == str(images)
    assert json.loads((folder / "s1-00000.json").read_text())["rows_in"] > 0
    shutil.rmtree(folder)
    assert jobs.unfinished(tmp_path / "out") == []
