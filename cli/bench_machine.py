"""What a reader of a measurement needs to judge it: the day, the processor, and the versions of what took part. Nothing is imported for that."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("penstock", "torch", "numpy", "pyarrow", "numba", "simplejpeg", "pillow")
"""Whose versions are told, of those that are installed."""

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux names the processor."""


def machine() -> dict[str, Any]:
    """Return the date, the cores, the processor and the versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    """Return the processor's name; its architecture where no name is told."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    """Return the version of a package, empty when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
