"""`penstock convert SRC DST`."""

from __future__ import annotations


def convert() -> None:
    """Convert raw data into a dataset."""
