"""Which engine a loader has.

`pooled_engine` is imported by name, for loaders that have workers: what starts and watches processes costs 20 ms that the others need not wait for.
"""

from __future__ import annotations

import importlib

from .engine import Engine, Settings
from .inline import InlineEngine
from .work import Work


def make_engine(work: Work, settings: Settings) -> Engine:
    """Return the engine for so many workers; no process is started."""
    if not settings.num_workers:
        return InlineEngine(work, threads=settings.threads)
    made: Engine = importlib.import_module(".pooled_engine", __package__).PooledEngine(work, settings)
    return made
