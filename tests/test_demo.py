"""The demo judges itself honestly: its audit finds every kind of broken promise, and a tiny run of the whole road passes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo

ROOT = Path(__file__).resolve().parent.parent


def record(epoch: int, samples: int, images: list[int]) -> dict[str, Any]:
    """Return what a training process notes behind a batch."""
    return {"epoch": epoch, "samples": samples, "images": images}


FIRST = [record(0, 4, [0, 1, 2, 3]), record(1, 2, [3, 2]), record(1, 4, [1, 0])]
RESUMED = [record(1, 4, [0, 1])]


def test_audit_counts_what_the_model_kept() -> None:
    """Batches behind the checkpoint were thrown away with the killed run, so they count only once, from the resumed one."""
    assert demo.audit(FIRST, RESUMED, (1, 2), {0, 1, 2, 3}, epochs=2) == []


@pytest.mark.parametrize(
    ("resumed", "place", "problems"),
    [
        ([], (1, 2), ["epoch 1: 2 images missing, such as 0"]),
        (RESUMED, (1, 4), ["epoch 1: 2 images seen again, such as 0"]),
        ([record(1, 4, [0, 7])], (1, 2), ["epoch 1: 1 images missing, such as 1", "epoch 1: 1 images unknown, such as 7"]),
        ([*RESUMED, record(1, 4, [2])], (1, 2), ["epoch 1: 1 images seen again, such as 2"]),
    ],
)
def test_audit_finds_a_broken_promise(resumed: list[dict[str, Any]], place: tuple[int, int], problems: list[str]) -> None:
    """Images that are missing, unknown, or seen twice are each named by epoch."""
    assert demo.audit(FIRST, resumed, place, {0, 1, 2, 3}, epochs=2) == problems


def test_a_ledger_line_cut_by_the_kill_does_not_count(tmp_path: Path) -> None:
    """What a killed process had not finished writing is not read; whole lines of all processes are."""
    whole = json.dumps(record(0, 2, [1]))
    (tmp_path / "ledger-first-0.jsonl").write_text(whole + "\n" + whole[:9])
    (tmp_path / "ledger-first-1.jsonl").write_text(whole + "\n")
    (tmp_path / "ledger-resumed-0.jsonl").write_text(whole + "\n" + whole + "\n")
    assert len(list(demo.ledger(tmp_path, "first"))) == 2


def test_the_split_must_be_a_partition() -> None:
    """An image in no part or in both parts of the split is a problem."""
    assert demo.check_split({0, 1}, {2}, 3) == []
    assert demo.check_split({0, 1}, {1}, 3) == ["1 images are in no part of the split", "1 images are in both parts of the split"]


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path) -> None:
    """The demo empties only a folder that it made itself."""
    (tmp_path / "precious").write_text("x")
    with pytest.raises(SystemExit, match="was not made by this demo"):
        demo.clear(tmp_path)
    assert (tmp_path / "precious").exists()
    demo.clear(tmp_path / "new")
    (tmp_path / "new" / "old.txt").touch()
    demo.clear(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [demo.MARK]


def test_a_tiny_demo_keeps_every_promise(tmp_path: Path) -> None:
    """Images, shards, two processes, a SIGKILL in mid-epoch and a resume on one: every image once per epoch, and a contact sheet."""
    command = [sys.executable, "-m", "benchmarks.demo", "--out", str(tmp_path / "out"), "--count=960", "--epochs=3", "--formats=tar"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
    (found,) = json.loads((tmp_path / "out/report.json").read_text())
    assert found["problems"] == []
    assert found["accuracy"] > 3 / 8
    assert (tmp_path / "out/contact_sheet.png").stat().st_size > 10_000
