"""Penstock: raw data into sharded Arrow or tar datasets, and batches out of them into distributed training.

Importing this package does nothing and brings nothing: each public name is fetched from its room when it is first used, so that
`penstock --version` and the loader's workers never pay for torch. Refused: plain imports here, which would load every room for any of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import integrations, transforms
    from .errors import BadData, BadRequest, PenstockError, StorageError, WorkerFailed
    from .fields import Array, Audio, Bytes, Image, Json, Scalar, Text, Tokens
    from .ingest.convert import convert
    from .loaders.ledger import Digest
    from .loaders.loader import DataLoader
    from .loaders.mixture import Mixture
    from .loaders.packed import Packed
    from .loaders.tickets import Tickets
    from .shards.dataset import Dataset
    from .shards.windows import TokenWindows
    from .shards.writer import Writer

__all__ = [
    "Array",
    "Audio",
    "BadData",
    "BadRequest",
    "Bytes",
    "DataLoader",
    "Dataset",
    "Digest",
    "Image",
    "Json",
    "Mixture",
    "Packed",
    "PenstockError",
    "Scalar",
    "StorageError",
    "Text",
    "Tickets",
    "TokenWindows",
    "Tokens",
    "WorkerFailed",
    "Writer",
    "convert",
    "integrations",
    "transforms",
]

_HOME = {
    "errors": ("BadData", "BadRequest", "PenstockError", "StorageError", "WorkerFailed"),
    "fields": ("Array", "Audio", "Bytes", "Image", "Json", "Scalar", "Text", "Tokens"),
    "ingest.convert": ("convert",),
    "loaders.ledger": ("Digest",),
    "loaders.loader": ("DataLoader",),
    "loaders.mixture": ("Mixture",),
    "loaders.packed": ("Packed",),
    "loaders.tickets": ("Tickets",),
    "shards.dataset": ("Dataset",),
    "shards.windows": ("TokenWindows",),
    "shards.writer": ("Writer",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a public name, importing the room it lives in, and keep it so that the next use costs nothing."""
    if name in {"integrations", "transforms"}:
        return importlib.import_module(f".{name}", __name__)
    if name == "__version__":
        return globals().setdefault(name, _version())
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return what is here, the names not fetched yet included."""
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    """Return the installed version; looked up when asked for, since `importlib.metadata` takes 15 ms, as long as all else that a worker imports of ours."""
    metadata = importlib.import_module("importlib.metadata")
    try:
        return str(metadata.version("penstock"))
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
