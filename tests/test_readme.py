"""Prose is tested: what the README tells people to run runs, and nothing that they can use is missing from the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import penstock
from benchmarks import images
from penstock.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROSE = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))])


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a page in order, each with its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def make_inputs(folder: Path) -> None:
    """Lay out what the README's reader is said to have: a folder of images by class, and foreign tars."""
    images.generate(folder / "raw", 96, processes=1)
    (folder / "shards").mkdir()
    pictures = sorted((folder / "raw").rglob("*.jpg"))
    for number in range(3):
        with tarfile.open(folder / "shards" / f"train-{number:06d}.tar", "w") as tar:
            for path in pictures[number * 4 : number * 4 + 4]:
                tar.add(path, path.name)


def test_what_the_readme_says_runs(tmp_path: Path) -> None:
    """Every command and every Python block of the README runs, one after the other, in a folder with the inputs it speaks of."""
    make_inputs(tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    found = blocks(README)
    assert [language for language, _ in found] == ["sh", "python", "python", "sh"]
    for language, text in found:
        command = [sys.executable, "-W", "error::ResourceWarning", "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str) -> None:
    """Every `make` command in the prose is a target of the Makefile."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^ {4}make (\w+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """Every command of the command line is named in the README or in docs/."""
    assert f"`penstock {command}" in PROSE


@pytest.mark.parametrize("name", [*penstock.__all__, *penstock.transforms.__all__])
def test_every_public_name_is_documented(name: str) -> None:
    """Every public name and every op is named in the README or in docs/."""
    assert re.search(rf"`(\w+\.)*{name}\b", PROSE)


def test_links_lead_somewhere() -> None:
    """Every relative link in the README leads to a file."""
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
