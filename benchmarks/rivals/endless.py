"""Loaders that run for ever, seen as epochs: the pipeline is not torn down between them, which is how their documentation has training done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np


class Endless:
    """So many batches of an endless iterator at every `iter`."""

    def __init__(self, batches: Iterator[Any], per_epoch: int) -> None:
        """Take the iterator."""
        self.batches, self.per_epoch = batches, max(per_epoch, 1)

    def __iter__(self) -> Iterator[Any]:
        """Yield an epoch's batches."""
        return itertools.islice(self.batches, self.per_epoch)


def orders(rows: int) -> Iterator[Any]:
    """Yield the numbers of all rows in a new order, again and again."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.permutation(rows)
