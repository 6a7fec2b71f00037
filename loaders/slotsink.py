"""A sink whose memory is a run of rows of a ring's slot: where workers, and the parent while none is ready, write."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import fixed_view, ragged_views
from .protocol import Task
from .ring import Ring, Stage
from .sink import Sink
from .slots import Layout


class BudgetTooSmall(Exception):
    """The rows of a ragged column do not fit their share of the slot: a signal between sink and worker, not an error."""

    def __init__(self, needs: dict[str, int]) -> None:
        """Keep the bytes a row needs, by column."""
        super().__init__(needs)
        self.needs = needs


class SlotSink(Sink):
    """Hands out a run of rows of a slot."""

    far = True

    def __init__(self, ring: Ring, plan: Layout, task: Task, number: int) -> None:
        """Note which rows."""
        self._ring = ring
        self._memory = ring.view(task.slot)
        self._plan = plan
        self._start = task.row_start
        self._stop = task.row_start + task.run.rows
        self._number = number

    def fixed(self, name: str) -> npt.NDArray[Any]:
        """Return the rows of the slot's column."""
        return fixed_view(self._memory, self._plan.columns[name], self._start, self._stop)

    def ragged(self, name: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Write the lengths and return the rows' region.

        Raises:
            BudgetTooSmall: the values do not fit.
        """
        told, values = ragged_views(self._memory, self._plan.columns[name], self._start, self._stop)
        if int(lengths.sum()) > values.size:
            raise BudgetTooSmall({name: int(lengths.sum()) * values.itemsize // len(lengths) + 1})
        told[:] = lengths
        return values

    def stage(self, stage: Stage) -> None:
        """Tell the parent what is being done."""
        self._ring.set_stage(self._number, stage)
