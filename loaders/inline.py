"""The reference loader: the plan carried out in this process, one batch at a time, into arrays of their own.

Every other path must give the same bits. It is also what `num_workers=0` runs: no process, no shared memory, nothing to clean up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PenstockError, WorkerFailed
from ..metrics import WorkTimes
from .batch import Batch, Ragged, offsets_of
from .fill import Filler
from .plan import Span
from .ring import Stage
from .slots import Output
from .work import Sink


class OwnArrays(Sink):
    """Allocates what is asked for."""

    def __init__(self, outputs: dict[str, Output], rows: int) -> None:
        """Note the shape of the batch."""
        self._outputs = outputs
        self._rows = rows
        self._made: Batch = {}
        self.now = Stage.IDLE.name.lower()

    def fixed(self, name: str) -> npt.NDArray[Any]:
        """Return a new array for the column, the same one when asked again."""
        output = self._outputs[name]
        made: npt.NDArray[Any] = self._made.setdefault(name, np.empty((self._rows, *output.shape), output.dtype))
        return made

    def ragged(self, name: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a new array that holds exactly these rows."""
        offsets = offsets_of(lengths)
        values = np.empty(int(offsets[-1]), self._outputs[name].dtype)
        self._made[name] = Ragged(values=values, offsets=offsets)
        return values

    def stage(self, stage: Stage) -> None:
        """Remember it for a message."""
        self.now = stage.name.lower()

    def batch(self) -> Batch:
        """Return the columns in the order of the outputs."""
        return {name: self._made[name] for name in self._outputs}


def fill_batch(filler: Filler, outputs: dict[str, Output], epoch: int, span: Span) -> tuple[Batch, WorkTimes]:
    """Return the batch of `span`, and where the time went.

    Raises:
        PenstockError: a row is bad, or what is no `PenstockError` was raised: then it is the cause of a `WorkerFailed`, as from a worker.
    """
    sink = OwnArrays(outputs, span.size)
    try:
        times = filler.fill(epoch, span.start, span.stop, sink)
    except PenstockError:
        raise
    except Exception as error:  # whatever an op of the user's raises
        raise WorkerFailed(f"{type(error).__name__} in stage {sink.now!r}: {error}", stage=sink.now) from error
    return sink.batch(), times
