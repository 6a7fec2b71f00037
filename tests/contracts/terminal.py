"""Runs the command line as a user does: in a process of its own, on a pipe or on a pseudo-terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass

MAIN = "import sys; from penstock.cli.app import main; main()"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a command left: its exit code, standard output, and the lines that its terminal showed, drawing codes taken away."""

    code: int
    out: str
    lines: list[str]
    raw: str


def penstock(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on pipes."""
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", check=False, timeout=120, env={**os.environ, **env})


def on_a_terminal(*arguments: object, width: int = 80) -> Seen:
    """Run the command line with standard error on a terminal of `width` columns and standard output on a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**env, "TERM": "xterm-256color"}) as running:
        os.close(theirs)
        shown = b""
        while data := _read(ours):
            shown += data
        assert running.stdout is not None
        out = running.stdout.read().decode()
        code = running.wait(timeout=60)
    os.close(ours)
    text = shown.decode()
    return Seen(code=code, out=out, lines=[line.rstrip() for line in re.split(r"[\r\n]+", _CONTROL.sub("", text)) if line.strip()], raw=text)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the other side has closed, which is how a terminal ends
        return b""
