"""`penstock convert` as a process: JSON alone on standard output, Ctrl-C and kills that leave nothing behind and resume, and a full disk."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.raw import image_folder, rows_of, run, tree
from contracts.terminal import MAIN, on_a_terminal, penstock

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return an image folder of thousands of files, most of them links, which takes a second or two to convert."""
    image_folder(tmp_path / "raw", classes=2, each=4, height=160, width=160, quality=95)
    for number in range(700):
        os.link(tmp_path / "raw" / "class_0" / "0001.jpg", tmp_path / "raw" / "class_1" / f"more{number:04d}.jpg")
    return tmp_path / "raw"


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a session of its own."""
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    env = {**os.environ, **EPOCH}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env)


def wait_for_parts(out: Path, running: subprocess.Popen[str], stage: int = 1) -> None:
    """Wait until the first part of a stage is done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        if list(out.glob(f"_penstock/jobs/*/s{stage}-*.json")):
            return
        time.sleep(0.01)


def alive_in_session(session: int) -> list[int]:
    """Return the processes of a session that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended in the meantime
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(("workers", "shard_format"), [(0, "arrow"), (2, "arrow")])
def test_ctrl_c_then_resume(tmp_path: Path, many: Path, workers: int, shard_format: str) -> None:
    """Ctrl-C in mid-conversion: exit code 130, one line, no traceback, no process left; `--resume` gives the bytes of an undisturbed run."""
    options = ("--workers", workers, "--shard-size", 500_000, "--format", shard_format, "--quiet")
    out = tmp_path / "out"
    running = start("convert", many, out, *options)
    wait_for_parts(out, running)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert told == "penstock: interrupted\n"
    assert alive_in_session(running.pid) == []
    assert not list(out.glob("**/*.tmp*"))
    assert not list(out.glob("_penstock/commits/*"))
    assert penstock("convert", many, out, *options, "--resume", **EPOCH).returncode == 0
    assert penstock("convert", many, tmp_path / "whole", *options, **EPOCH).returncode == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_killed_tar_conversion_resumes_to_the_same_bytes(tmp_path: Path, many: Path) -> None:
    """SIGKILL of the whole tree, once in each stage, while split and shuffled tars are written; what `--resume` makes is byte for byte the undisturbed result, indexes included."""
    options = ("--workers", 1, "--shard-size", 400_000, "--format", "tar", "--quiet", "--shuffle", 4, "--split", "a=0.5", "--split", "b=0.5")
    out = tmp_path / "out"
    for stage in (1, 2):
        running = start("convert", many, out, *options, "--resume")
        wait_for_parts(out, running, stage)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=30)
        assert running.returncode == -9
    assert penstock("convert", many, out, *options, "--resume", **EPOCH).returncode == 0
    assert penstock("convert", many, tmp_path / "whole", *options, **EPOCH).returncode == 0
    assert tree(out) == tree(tmp_path / "whole")
    assert [name for name in tree(out) if name.endswith(".tar.idx")]


@pytest.mark.parametrize("width", [0, 80])
def test_json_is_all_there_is_on_standard_output(tmp_path: Path, width: int) -> None:
    """With `--json` standard output parses as one object, on a terminal too; progress and nothing else goes to standard error."""
    image_folder(tmp_path / "é raw")
    arguments = ("convert", tmp_path / "é raw", tmp_path / "out", "--json", "--workers", 1, "--split", "a=0.5", "--split", "b=0.5")
    if width:
        seen = on_a_terminal(*arguments, width=width)
        code, out = seen.code, seen.out
    else:
        done = penstock(*arguments)
        code, out = done.returncode, done.stdout
        assert done.stderr.startswith("converting: ")
    assert code == 0
    report = json.loads(out)
    assert {"path", "job", "rows_in", "rows_out", "rows_set_aside", "rows_left_out", "bytes_in", "bytes_out", "quarantine", "splits"} <= set(report)
    assert report["rows_out"] == sum(split["rows"] for split in report["splits"].values()) == 15
    assert out.isascii()


def test_json_of_a_failure_is_nothing(tmp_path: Path) -> None:
    """A conversion that fails leaves standard output empty, so that no script takes half a report for one."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "raw" / "class_0" / "bad.jpg").write_bytes(b"")
    done = penstock("convert", tmp_path / "raw", tmp_path / "out", "--json", "--workers", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def test_resume_again_says_the_same(tmp_path: Path) -> None:
    """The JSON of `--resume` on a finished conversion is the first one's, but for the time it took."""
    image_folder(tmp_path / "raw")
    arguments = ("convert", tmp_path / "raw", tmp_path / "out", "--json", "--quiet", "--workers", 0)
    first, again = (json.loads(penstock(*arguments, *more).stdout) for more in ((), ("--resume",)))
    assert again.pop("seconds") == 0
    assert first.pop("seconds") > 0
    assert again == first


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_full_disk_is_one_message(tmp_path: Path, small_disk: Path) -> None:
    """On a full disk: exit code 1, what to do in plain words, no traceback, nothing published; after making room `--resume` finishes."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2_000, 150)))
    arguments = ("convert", tmp_path / "a.npy", small_disk / "out", "--workers", 2, "--shard-size", "500kB", "--quiet")
    done = penstock(*arguments)
    assert done.returncode == 1
    assert "the disk is full: free space or choose another destination; nothing was published" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((small_disk / "out").glob("_penstock/commits/*"))
    assert not list((small_disk / "out").glob("**/*.tmp*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert penstock(*arguments, "--resume").returncode == 0
    assert len(rows_of(small_disk / "out")) == 2_000


def test_destination_whose_name_is_no_text(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8 is written to and read, and the reports name it, also where standard output is strict."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    out = f"{tmp_path}/{os.fsdecode(bytes([111, 255]))}"
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    done = penstock("convert", tmp_path / "raw", out, "--workers", 0, "--quiet", "--shuffle", 1, **strict)
    assert done.returncode == 0, done.stderr
    assert "o\\udcff: 2 rows in, 2 out" in done.stdout
    inspected = penstock("inspect", out, "--json", **strict)
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["path"] == out
    for command in (("inspect", out), ("show", out, 0), ("verify", out)):
        told = penstock(*command, **strict)
        assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "npy", "tar"])
def test_source_whose_name_is_no_text(tmp_path: Path, suffix: str) -> None:
    """A file of any kind whose name is not UTF-8 is converted like any other."""
    path = Path(f"{tmp_path}/{os.fsdecode(bytes([111, 255]))}.{suffix}")
    table = pa.table({"data": [1.5, 2.5]})
    if suffix == "parquet":
        pq.write_table(table, tmp_path / "t")
    elif suffix == "arrow":
        with pa.ipc.new_file(str(tmp_path / "t"), table.schema) as writer:
            writer.write_table(table)
    elif suffix == "csv":
        (tmp_path / "t").write_text("data\n1.5\n2.5\n")
    elif suffix == "npy":
        with (tmp_path / "t").open("wb") as file:
            np.save(file, np.array([1.5, 2.5]))
    else:
        with tarfile.open(tmp_path / "t", "w") as tar:
            for number in (1, 2):
                member = tarfile.TarInfo(f"{number}.txt")
                member.size = 1
                tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "t").rename(path)
    assert run(path, tmp_path / "out").rows_out == 2
