"""Makes an environment for each rival: `.venv-rivals/<name>`, with the versions of `requirements/<name>.txt`; what `make rivals` runs.

A file's first line may say `# pip: OPTIONS` (such as `--no-deps`, where the dependencies would pull in gigabytes of CUDA that a CPU pipeline does
not use) and its second `# apt: PACKAGES` that must be on the system; those are installed where this process may do that. A rival that cannot be
installed leaves the reason in `.venv-rivals/<name>.absent`, for the table to tell. One that is complete is left alone.

    python -m benchmarks.rivals.install [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".venv-rivals"


def asked(text: str, tool: str) -> list[str]:
    """Return what a requirements file asks of a tool in its head."""
    return next((line.removeprefix(f"# {tool}:").split() for line in text.splitlines() if line.startswith(f"# {tool}:")), [])


def _run(command: list[str]) -> None:
    """Run a command; its last words become the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = [
            line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip() and not line.startswith(("WARNING", "note:", "hint:"))
        ]
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:5])} ... failed: {' '.join(words[-3:])[:400]}")


def _system(packages: list[str]) -> None:
    """Have the system's packages there."""
    if not packages:
        return
    known = shutil.which("dpkg")
    if known and subprocess.run([known, "-s", *packages], capture_output=True, check=False).returncode == 0:
        return
    tool = shutil.which("apt-get")
    if tool is None or os.geteuid() != 0:
        raise RuntimeError(f"it needs the system packages {' '.join(packages)}; install them as root and run `make rivals` again")
    _run([tool, "update", "-q"])
    _run([tool, "install", "-q", "-y", "--no-install-recommends", *packages])


def install(name: str) -> str:
    """Make one environment; return why it could not be made, or nothing."""
    requirements = HERE / "requirements" / f"{name}.txt"
    text = requirements.read_text(encoding="utf-8")
    folder, note = HOME / name, HOME / f"{name}.absent"
    done = folder / ".installed"
    if done.exists() and done.read_text(encoding="utf-8") == text:
        return ""
    note.unlink(missing_ok=True)
    try:
        _system(asked(text, "apt"))
        venv.EnvBuilder(clear=True, with_pip=True, symlinks=True).create(folder)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *asked(text, "pip"), "-r", str(requirements)])
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        note.write_text(f"{error}\n", encoding="utf-8")
        return str(error)
    done.write_text(text, encoding="utf-8")
    return ""


def main() -> None:
    """Make the environments that the command line names, or all."""
    HOME.mkdir(exist_ok=True)
    for name in sys.argv[1:] or sorted(path.stem for path in (HERE / "requirements").glob("*.txt")):
        reason = install(name)
        print(f"{name}: {'absent, ' + reason if reason else 'there'}", flush=True)


if __name__ == "__main__":
    main()
