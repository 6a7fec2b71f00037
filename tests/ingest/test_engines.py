"""Worker processes: they die and are replaced, they fail and say why, they never outlive their parent, and they bring no torch."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from contracts.raw import image_folder, rows_of

from penstock.errors import BadData, BadRequest, StorageError, WorkerFailed
from penstock.ingest import engines
from penstock.ingest.convert import convert
from penstock.ingest.engines import LocalEngine, rebuild
from penstock.ingest.job import Job
from penstock.ingest.worker import describe_error

KILLER = """
import os, pathlib
from penstock.ingest import part
original = part.FirstStage.do
def do(self, number, progress):
    mark = pathlib.Path({mark!r})
    if number == 1 and len(mark.read_bytes()) < {times}:
        with mark.open("ab") as file:
            file.write(b"x")
        os.kill(os.getpid(), 9)
    original(self, number, progress)
part.FirstStage.do = do
"""


def sabotage(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run code in every worker before it begins."""
    program = engines._PROGRAM.replace("from penstock.ingest.worker", code.replace("{", "{{").replace("}", "}}") + "\nfrom penstock.ingest.worker")
    monkeypatch.setattr(engines, "_PROGRAM", program)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return an image folder of several small parts."""
    image_folder(tmp_path / "raw", classes=2, each=20, height=160, width=160)
    return tmp_path / "raw"


def test_killed_worker_is_replaced(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed twice on a part is replaced each time, and the result is whole."""
    mark = tmp_path / "mark"
    mark.touch()
    sabotage(monkeypatch, KILLER.format(mark=str(mark), times=2))
    report = convert(images, tmp_path / "out", workers=2, shard_size=50_000)
    assert mark.read_bytes() == b"xx"
    assert report.rows_out == 40
    assert len(rows_of(tmp_path / "out")) == 40


def test_part_that_kills_its_workers_is_named(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three deaths the conversion stops and names the part; without the cause --resume finishes."""
    mark = tmp_path / "mark"
    mark.touch()
    with monkeypatch.context() as patch:
        sabotage(patch, KILLER.format(mark=str(mark), times=99))
        with pytest.raises(WorkerFailed, match=r"part 1 of stage 1: the worker ended with exit code -9, 3 times in a row.*--resume"):
            convert(images, tmp_path / "out", workers=2, shard_size=50_000)
    assert convert(images, tmp_path / "out", workers=2, shard_size=50_000, resume=True).rows_out == 40


def test_worker_s_own_mistake_keeps_its_traceback(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is nobody's data is WorkerFailed with the worker's traceback."""
    sabotage(
        monkeypatch,
        "from penstock.ingest import part\ndef do(self, number, progress):\n    raise ZeroDivisionError('planted')\npart.FirstStage.do = do",
    )
    with pytest.raises(WorkerFailed, match=r"(?s)ZeroDivisionError: planted.*Traceback") as caught:
        convert(images, tmp_path / "out", workers=1)
    assert caught.value.stage == "read"


def test_worker_that_cannot_start_is_said(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that fails before it is ready ends the conversion with what it wrote to standard error."""
    sabotage(monkeypatch, "raise SystemExit('no way')")
    with pytest.raises(WorkerFailed, match=r"(?s)starting: the worker ended with exit code 1, 3 times.*no way"):
        convert(images, tmp_path / "out", workers=1)


def test_stalled_worker_is_ended(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing is ended after the deadline and counts as dead."""
    sabotage(
        monkeypatch,
        "from penstock.ingest import part\nimport threading\ndef do(self, number, progress):\n    threading.Event().wait(60)\npart.FirstStage.do = do",
    )
    monkeypatch.setattr(engines, "STALL_S", 0.5)
    began = time.monotonic()
    with pytest.raises(WorkerFailed, match=r"said nothing for 0\.5 s and was ended, 3 times"):
        convert(images, tmp_path / "out", workers=1)
    assert time.monotonic() - began < 60


def test_printing_in_a_worker_does_not_break_the_protocol(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library prints to standard output goes to standard error."""
    sabotage(
        monkeypatch,
        "from penstock.ingest import part\nold = part.open_source\ndef noisy(*a):\n    print('hello')\n    return old(*a)\npart.open_source = noisy",
    )
    assert convert(images, tmp_path / "out", workers=1).rows_out == 40


def test_workers_bring_no_torch_and_no_pandas() -> None:
    """A worker's imports leave torch, pandas and numba out; importing them here shows that the test could fail."""
    program = engines._PROGRAM.format(path=sys.path).replace(
        "\nmain()", "\nprint(sorted(sys.modules.keys() & {'torch', 'pandas', 'numba', 'rich', 'typer'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    planted = subprocess.run([sys.executable, "-c", "import numba\n" + program], capture_output=True, text=True, check=True, timeout=60)
    assert "numba" in planted.stdout


def test_worker_ends_when_its_input_closes(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in the middle of a part ends as soon as standard input closes."""
    job = _planned(images, tmp_path / "out", monkeypatch)
    code = "from penstock.ingest import part\nimport threading\ndef do(self, number, progress):\n    progress(1, 1)\n    threading.Event().wait(60)\npart.FirstStage.do = do"
    sabotage(monkeypatch, code)
    running = subprocess.Popen(
        [sys.executable, "-c", engines._PROGRAM.format(path=sys.path), str(job.root), job.name, "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdin is not None
    assert running.stdout is not None
    assert json.loads(running.stdout.readline()) == {"ready": True}
    running.send_signal(signal.SIGINT)  # Ctrl-C is the parent's to handle
    running.stdin.write(b'{"part": 0}\n')
    running.stdin.flush()
    assert json.loads(running.stdout.readline()) == {"rows": 1, "bytes": 1}
    running.stdin.close()
    assert running.wait(timeout=5) == 3
    running.stdout.close()


@pytest.mark.parametrize("early", [True, False])
def test_worker_that_cannot_listen_ends_with_its_lifeline(early: bool) -> None:
    """A worker that keeps the interpreter's lock while it imports ends at once when its lifeline closes, also when that was before it began."""
    busy = "print('here', flush=True)\nfrom ctypes import PyDLL\nPyDLL(None).sleep(30)\nfrom penstock.ingest.worker"
    program = engines._PROGRAM.format(path=sys.path).replace("from penstock.ingest.worker", busy)
    ours, theirs = os.pipe()[::-1]
    if early:
        os.close(ours)
    running = subprocess.Popen(
        [sys.executable, "-c", program, "root", "job", "1", str(theirs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(theirs,)
    )
    os.close(theirs)
    assert running.stdout is not None
    assert running.stdin is not None
    if not early:
        assert running.stdout.readline() == b"here\n"
        os.close(ours)
    assert running.wait(timeout=5) == (3 if early else -signal.SIGIO)
    running.stdout.close()
    running.stdin.close()


def _planned(src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a job that has a plan and nothing done."""

    def refuse(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("penstock.ingest.convert.run_inline", refuse)
        with pytest.raises(KeyboardInterrupt):
            convert(src, dst, workers=0)
    return Job(dst, next((dst / "_penstock" / "jobs").iterdir()).name)


def test_errors_cross_the_pipe_as_what_they_are() -> None:
    """BadData and StorageError are raised again as such, with their place; others become WorkerFailed."""
    bad = rebuild(json.loads(json.dumps(describe_error(BadData("broken", path="x")))), 1, 2)
    assert isinstance(bad, BadData)
    assert str(bad) == "x: broken"
    full = rebuild(json.loads(json.dumps(describe_error(StorageError("disk is full", url="/y")))), 1, 2)
    assert isinstance(full, StorageError)
    assert str(full) == "/y: disk is full"
    other = rebuild(json.loads(json.dumps(describe_error(OSError("odd")))), 1, 2)
    assert isinstance(other, WorkerFailed)
    assert "part 2 of stage 1: OSError: odd" in str(other)


def test_engine_needs_a_worker() -> None:
    """An engine of no workers is refused by value."""
    with pytest.raises(BadRequest, match="workers: 0"):
        LocalEngine(0)


def test_interrupted_conversion_leaves_no_process(tmp_path: Path, images: Path) -> None:
    """Ctrl-C ends all workers, exits with 130 and without a traceback, and keeps the job."""
    for i in range(2000):
        os.link(images / "class_0" / "0000.jpg", images / "class_1" / f"more{i}.jpg")
    program = "from penstock.cli.app import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", program, "convert", str(images), str(tmp_path / "out"), "--workers", "2", "--shard-size", "50000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    plan = tmp_path / "out" / "_penstock" / "jobs"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(plan.glob("*/s1-*.json")):
        time.sleep(0.02)
    children = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=20) == 130
    text = running.stderr.read()
    running.stderr.close()
    assert "Traceback" not in text
    assert "interrupted" in text
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(plan.glob("*/plan.json"))


def test_protocol_is_lines_of_json() -> None:
    """Answers are JSON objects of one line each, also with odd text in them."""
    out = io.StringIO()
    out.write(json.dumps(describe_error(BadData("line\nbreak \udcff"))) + "\n")
    assert out.getvalue().count("\n") == 1
