"""What a loader makes that reads the source as it is: nothing."""

from __future__ import annotations

from pathlib import Path


def make(kind: str, source: Path, out: Path) -> None:
    """Write nothing."""
    del kind, source, out
