"""The reference loader: the plan carried out in this process, into arrays that are made for it.

Every other path must give the same bits. It is also what `num_workers=0` runs: no process, no shared memory, nothing to clean up.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..errors import PenstockError, WorkerFailed
from ..metrics import WorkTimes
from .batch import Batch, Ragged, offsets_of, parted
from .engine import Delivered, Engine
from .fill import Filler
from .plan import Plan, Run
from .ring import Stage
from .sink import Sink
from .slots import Output
from .work import Work


class OwnArrays(Sink):
    """Allocates what is asked for."""

    far = False

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


def fill_run(filler: Filler, outputs: dict[str, Output], epoch: int, run: Run) -> tuple[list[Batch], WorkTimes]:
    """Return the batches of `run`, and where the time went. Several share their memory, and hold fixed columns only.

    Raises:
        PenstockError: a row is bad, or what is no `PenstockError` was raised: then it is the cause of a `WorkerFailed`, as from a worker.
    """
    sink = OwnArrays(outputs, run.rows)
    try:
        times = filler.fill(epoch, run.positions(), sink)
    except PenstockError:
        raise
    except Exception as error:  # whatever an op of the user's raises
        raise WorkerFailed(f"{type(error).__name__} in stage {sink.now!r}: {error}", stage=sink.now) from error
    return parted(sink.batch(), run), times


@final
class InlineEngine(Engine):
    """Works in this process."""

    def __init__(self, work: Work) -> None:
        """Note the work; nothing is opened."""
        self._work = work
        self._filler: Filler | None = None

    def epoch(self, plan: Plan, epoch: int, start: int) -> Generator[Delivered, None, None]:
        """Yield batches in arrays of their own, or, when they are small and cheap, several at a time in arrays that they share."""
        runs = plan.runs(start, self._work.together(plan.batch_size))
        if len(runs) and self._filler is None:
            self._filler = Filler(self._work)
        for number in range(len(runs)):
            yield from self._made(epoch, runs[number])

    def _made(self, epoch: int, run: Run) -> Generator[Delivered, None, None]:
        assert self._filler is not None
        try:
            batches, times = fill_run(self._filler, dict(self._work.outputs), epoch, run)
        except PenstockError:
            if run.batches == 1:
                raise
            for one in run.each():  # those before the bad one are delivered
                yield from self._made(epoch, one)
            return
        made = Delivered(batches, run.size, times)
        del batches
        yield made

    def close(self) -> None:
        """There is nothing to end."""
