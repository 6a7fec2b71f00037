"""Destinations and arguments that cannot work: refused by name and value, with nothing left behind."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import image_folder, nothing_published, run

import penstock as ps
from penstock.errors import BadRequest, PenstockError, StorageError
from penstock.ingest.convert import convert


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_full_disk(tmp_path: Path, small_disk: Path, workers: int) -> None:
    """A full disk is said in plain words, nothing is published, and after making room --resume finishes."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((400_000, 2)))
    with pytest.raises(StorageError, match="the disk is full"):
        convert(tmp_path / "a.npy", small_disk / "out", workers=workers, shard_size=500_000)
    assert nothing_published(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    report = convert(tmp_path / "a.npy", small_disk / "out", workers=workers, shard_size=500_000, resume=True)
    assert report.rows_out == 400_000
    assert len(ps.Dataset(str(small_disk / "out"))) == 400_000


def test_destination_that_is_a_file(tmp_path: Path) -> None:
    """A file where the dataset should go is refused."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "out").write_text("x")
    with pytest.raises(PenstockError, match="is a file"):
        run(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "zip"}, "format: 'zip'"),
        ({"shard_size": "many"}, "shard_size: 'many'"),
        ({"workers": -1}, "workers: -1"),
        ({"reencode": "gif"}, "reencode: 'gif'"),
        ({"reencode": "jpeg:0"}, "quality 0"),
        ({"resize_short": 0}, "resize_short: 0"),
        ({"max_bad": "lots"}, "max_bad: 'lots'"),
        ({"max_bad": -1}, "max_bad: -1"),
        ({"check": "twice"}, "check: 'twice'"),
        ({"kind": "zip"}, "kind: 'zip'"),
        ({"split": {"a": 2}}, "split: fraction 2"),
        ({"split_key": "x"}, "split_key: 'x' has no meaning"),
        ({"split": {"a": 1}, "split_key": "image"}, "split_key: 'image' is not a column of numbers"),
        ({"columns": []}, "must name one or more"),
    ],
)
def test_arguments_that_cannot_work(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    """Each wrong argument is refused by name and value before anything is written."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    with pytest.raises(BadRequest, match=reason):
        convert(tmp_path / "raw", tmp_path / "out", **{"workers": 0, **options})
    assert not (tmp_path / "out").exists()


def test_image_options_without_images(tmp_path: Path) -> None:
    """Scaling a source without images is refused."""
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(BadRequest, match="need a column of images"):
        run(tmp_path / "t.csv", tmp_path / "out", resize_short=100)


@pytest.mark.parametrize(
    ("link", "out", "options"), [("out", "out", {}), ("up", "up/out", {}), ("out/val", "out", {"split": {"train": 0.5, "val": 0.5}})]
)
@pytest.mark.parametrize("asked", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_destination_that_is_a_link_to_nothing(tmp_path: Path, link: str, out: str, options: dict[str, Any], asked: dict[str, Any]) -> None:
    """A link whose goal is not there, such as a disk that is not mounted, is named with its goal and what to do; nothing is made there."""
    (tmp_path / "t.csv").write_text("x\n1\n")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "disk")
    with pytest.raises(BadRequest, match=rf"{link} is a symbolic link to .*disk, which is not there; make that folder"):
        run(tmp_path / "t.csv", tmp_path / out, **options, **asked)
    assert not (tmp_path / "disk").exists()
    (tmp_path / "disk").mkdir()
    assert run(tmp_path / "t.csv", tmp_path / out, **options).rows_in == 1


@pytest.mark.parametrize("options", [{}, {"split": {"a": 1}}, {"overwrite": True}, {"resume": True}], ids=str)
def test_name_that_the_file_system_does_not_take(tmp_path: Path, options: dict[str, Any]) -> None:
    """A destination whose name is too long, or a source, is refused with what to do, and not by the bare error of the system."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    for src, dst in (("raw", "a" * 300), ("raw", f"{'a' * 300}/out"), ("a" * 300, "out"), (f"{'a' * 300}/raw", "out")):
        doing = "destination" if src == "raw" else "source"
        with pytest.raises(StorageError, match=f"cannot look at the {doing}: the name is too long for the file system: use a shorter path"):
            run(tmp_path / src, tmp_path / dst, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("name", ["source", "destination"])
def test_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Permissions that hide whether anything is there are told as permissions, with the path."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    hidden = tmp_path / ("raw" if name == "source" else "out")
    real = Path.stat

    def refused(path: Path, **options: Any) -> Any:
        if path == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(StorageError, match=f"cannot look at the {name}: permission denied: change the permissions") as caught:
        run(tmp_path / "raw", tmp_path / "out")
    assert caught.value.url == str(hidden)


def test_file_on_the_way_is_told_when_the_folder_is_made(tmp_path: Path) -> None:
    """A destination below a file is refused with that, and the file stays."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a part of the path is a file, not a folder"):
        run(tmp_path / "raw", tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "x"
