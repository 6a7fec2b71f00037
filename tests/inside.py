"""What tests look at inside of a loader."""

from __future__ import annotations

from typing import Any

from penstock.loaders.stored import Stored


def stored_of(loader: Any) -> Stored:
    """Return the side of a loader that knows of its stored data."""
    stored: Stored | None = loader._stored
    assert stored is not None
    return stored
