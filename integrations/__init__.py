"""What a training framework needs to be told to keep our engine: a module per framework, imported by those who use it.

Lightning, Fabric and Ray Train need nothing: they leave a loader alone whose sampler is a `DistributedSampler`.
"""

from __future__ import annotations

import importlib
from typing import Any

FRAMEWORKS = ("accelerate", "transformers")
"""The modules here; each is imported when it is first named, with its framework."""


def __getattr__(name: str) -> Any:
    """Return the module for a framework.

    Raises:
        AttributeError: there is none of that name.
        ModuleNotFoundError: the framework is not installed.
    """
    if name not in FRAMEWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(FRAMEWORKS)}")
    return importlib.import_module(f".{name}", __name__)
