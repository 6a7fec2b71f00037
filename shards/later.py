"""Modules of this room that reading a dataset of ours does without, imported when they are first needed.

A training process opens a dataset of ours, whose shards are Arrow files of plain columns (`plain`). What knows all of Arrow, tar, Parquet,
checkpoints, and files that are no dataset yet, brings pyarrow or more: tens of milliseconds and tens of megabytes to every process that says
`penstock.Dataset`, and to each of its workers.
"""

from __future__ import annotations

import importlib
from typing import Any


def module(name: str) -> Any:
    """Return a module of this room, importing it now."""
    return importlib.import_module(f".{name}", __package__)
