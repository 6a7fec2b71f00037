"""Where a dataset keeps its checkpoints and which there are; what is in them is the business of `checkpoint`, which brings pyarrow."""

from __future__ import annotations

import os
import re
from pathlib import Path

CHECKPOINTS = "_penstock/checkpoints"
"""Where a dataset keeps its checkpoints."""

CHECKPOINT_EVERY = 64
"""Versions from one checkpoint to the next, and so the most commits that opening reads."""

_NAME = re.compile(r"(\d{20})\.arrow")


def checkpoint_path(root: Path, version: int) -> Path:
    """Return where the checkpoint of a version stands."""
    return root / CHECKPOINTS / f"{version:020d}.arrow"


def newest_checkpoint(root: Path, version: int) -> int | None:
    """Return the newest version not above `version` that has a checkpoint, or None."""
    try:
        found = [_NAME.fullmatch(name) for name in os.listdir(root / CHECKPOINTS)]  # noqa: PTH208 (names are all that is needed)
    except OSError:  # none has been written yet, or they cannot be read: the commits say the same
        return None
    return max((int(name[1]) for name in found if name and int(name[1]) <= version), default=None)
