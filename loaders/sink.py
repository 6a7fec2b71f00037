"""Where a batch's rows go: the contract by which filling is lent memory, a slot's or arrays of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from .ring import Stage


class Sink(ABC):
    """Where a batch's rows go.

    Attributes:
        far: whether another process will read them, so that they need not stay in this core's caches.
    """

    far: bool

    @abstractmethod
    def fixed(self, name: str) -> npt.NDArray[Any]:
        """Return the memory of a fixed column, `[rows, *shape]`."""

    @abstractmethod
    def ragged(self, name: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Note the lengths of a ragged column's rows and return memory for their values, 1-D, at least as long as their sum."""

    @abstractmethod
    def stage(self, stage: Stage) -> None:
        """Hear what is being done now."""
