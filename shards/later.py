"""Modules of this room that reading a dataset of ours does without, imported when they are first needed.

A training process opens a dataset of ours, whose shards are Arrow files of plain columns (`plain`). What knows all of Arrow, tar, Parquet,
checkpoints, torch's datasets, and files that are no dataset yet, brings pyarrow, torch or more: tens of milliseconds and tens of megabytes to every process that says
`penstock.Dataset`, and to each of its workers. The table below is the whole list; `tests/house.py` reads it.
"""

from __future__ import annotations

import importlib
from typing import Any

LATER = {"arrow": "hfarrow", "tar": "tar", "parquet": "parquet", "adopt": "adopt", "checkpoint": "checkpoint", "torch": "torch_views"}
"""What is needed, a shard format or a task, and the module that has it. None of these modules is imported by what loads it."""


def load_later(name: str) -> Any:
    """Return the module that has what is named, importing it now."""
    return importlib.import_module(f".{LATER[name]}", __package__)
