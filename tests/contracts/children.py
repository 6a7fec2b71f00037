"""Runs a piece of Python in another process, as a test needs it: killed, without rights, or on a disk of two megabytes.

The small disk is a tmpfs mounted in a mount namespace of the child's own, so it is gone when the child is, whatever happened to it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PRELUDE = """
import json, os, signal, sys
from pathlib import Path
import penstock.shards.arrow_write
from penstock.errors import *
from penstock.fields import *
from penstock.shards import commits
from penstock.shards.dataset import Dataset
from penstock.shards.manifest import Shard
from penstock.shards.writer import Writer
folder = Path(sys.argv[1])
def answer(value): print("ANSWER", json.dumps(value), flush=True)
def tree(root=folder): return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file())
"""
"""What every child begins with."""

WITHOUT_RIGHTS = """
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
"""
"""Become nobody: root is never refused."""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """Start a child that runs `code` with `folder`, `answer` and the names of the prelude."""
    program = PRELUDE + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def answer(child: subprocess.Popen[str]) -> Any:
    """Return what the child answers next."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("ANSWER "):
            return json.loads(line.removeprefix("ANSWER "))
    raise AssertionError(f"the child ended with {child.wait()} and no answer")


def run(code: str, folder: Path) -> Any:
    """Run a child to its end and return its answer."""
    with start(code, folder) as child:
        found = answer(child)
        assert child.wait(60) == 0
    return found


def run_on_small_disk(code: str, folder: Path, size: str = "2m") -> Any:
    """Run a child for which `folder` is a disk of the given size."""
    program = PRELUDE + textwrap.dedent(code)
    unshare = shutil.which("unshare")
    assert unshare is not None, "util-linux has unshare"
    mount = f'mount -t tmpfs -o size={size},mode=777 tmpfs "$0" && exec "$@"'
    command = [unshare, "--mount", "--user", "--map-root-user", "sh", "-c", mount, str(folder), sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER "))
    return json.loads(line.removeprefix("ANSWER "))
