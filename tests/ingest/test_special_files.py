"""Pipes, sockets and devices under a source are refused in words: reading one might never end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from contracts.raw import image_folder, run

from penstock.errors import BadData


@pytest.mark.parametrize("name", ["class_0/pipe.jpg", "pipe.csv", "pipe.npy", "pipe.parquet", "pipe.tar", "pipe.jsonl", "pipe.arrow"])
def test_named_pipe_is_refused(tmp_path: Path, name: str) -> None:
    """A named pipe is refused by name, whatever kind its name says it is, alone or among files."""
    raw = tmp_path / "raw"
    if name.endswith("jpg"):
        image_folder(raw, classes=1, each=2)
    raw.mkdir(exist_ok=True)
    os.mkfifo(raw / name)
    for source in (raw, raw / name):
        with pytest.raises(BadData, match=r"pipe\.\w+' is a named pipe: only files are read"):
            run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_socket_and_device_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket, and a link to a device, are refused by name."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    (tmp_path / "raw" / "class_0" / "zero.jpg").symlink_to("/dev/zero")
    with pytest.raises(BadData, match=r"zero\.jpg' is a device"):
        run(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "class_0" / "zero.jpg").unlink()
    monkeypatch.chdir(tmp_path / "raw" / "class_0")  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        with pytest.raises(BadData, match=r"s\.jpg' is a socket"):
            run(tmp_path / "raw", tmp_path / "out")
