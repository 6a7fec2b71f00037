"""What filling needs: one value, which is sent to each worker once and is the whole of what a worker knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BadData, BadRequest
from .law import Ordering
from .mixture import Mixture
from .plan import Tail
from .slots import Output
from .ways import Source

if TYPE_CHECKING:
    from .apply import Steps

_TOGETHER_BYTES = 4 << 20
"""Bytes of batches that are filled at a time: a call costs tens of microseconds, as much as copying 0.5 MB, and more gains little and holds up the first."""

_MOST_TOGETHER = 256
"""Batches that are filled at a time, however small: by then a call's cost is nothing, and more would hold up the first."""

VALID = "valid"
"""The boolean column that tail='pad' adds: False where a row was repeated to fill the batch."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that filling needs to know; sent to each worker once.

    Attributes:
        dataset: pinned to a version.
        digest: the dataset's digest when the plan was made; a worker that opens other shards refuses to work.
        steps: what is done to rows, or None when they go into batches as they are read.
        outputs: what a batch holds, in order.
        pads: whether the column `valid` is ours, added by tail='pad', and not the data's or the user's function's.
        ordering: what decides the order.
    """

    dataset: Source
    digest: str
    steps: Steps | None
    outputs: Mapping[str, Output]
    pads: bool
    ordering: Ordering

    @property
    def source_column(self) -> str | None:
        """The column that says which source of a mixture a row is from, if there is one."""
        return self.dataset.source_column if isinstance(self.dataset, Mixture) else None

    @property
    def splits(self) -> bool:
        """Whether rows are costly enough to spread one batch over workers, and may be seen one by one."""
        return self.steps is not None and self.steps.splits

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in a batch, ragged columns left out."""
        return sum(output.row_bytes for output in self.outputs.values() if not output.ragged)

    def together(self, batch_size: int) -> int:
        """Return how many batches of so many rows are filled at a time: several when they are small and nothing is done to them but copying."""
        if self.steps is not None or any(output.ragged for output in self.outputs.values()):
            return 1
        return min(max(_TOGETHER_BYTES // max(batch_size * self.row_bytes, 1), 1), _MOST_TOGETHER)

    def check(self) -> None:
        """Refuse a dataset that changed on its way to a worker.

        Raises:
            BadData: it has another digest than the one that was planned with.
        """
        if self.dataset.digest != self.digest:
            raise BadData(
                f"the files changed while they were read: digest {self.dataset.digest} where {self.digest} was planned", path=self.dataset.path
            )


def as_read(dataset: Source, name: str) -> Output:
    """Return what a batch holds of a column that nothing is done to."""
    field = dataset.fields[name]
    return Output(shape=field.shape, dtype=field.dtype, ragged=field.ragged)


def work_of(dataset: Source, steps: Steps | None, outputs: Mapping[str, Output], *, ordering: Ordering, tail: Tail) -> Work:
    """Return the work whose batches hold `outputs`, and `valid` when they are padded.

    Raises:
        BadRequest: that name is taken.
    """
    pads = tail == "pad"
    if pads and VALID in outputs:
        raise BadRequest(f"tail='pad' adds a column {VALID!r}, and the batch has one already; leave it out with columns= or rename it in map=")
    whole = {**outputs, VALID: Output(shape=(), dtype="bool")} if pads else dict(outputs)
    if isinstance(dataset, Mixture) and dataset.source_column is not None:
        if dataset.source_column in whole:
            raise BadRequest(f"source_column={dataset.source_column!r} of the Mixture is a column of the batch already; give it another name")
        whole[dataset.source_column] = Output(shape=(), dtype="int64")
    return Work(dataset=dataset, digest=dataset.digest, steps=steps, outputs=whole, pads=pads, ordering=ordering)


def plain_work(dataset: Source, *, ordering: Ordering, tail: Tail) -> Work:
    """Return the work of a loader without transforms.

    Raises:
        BadRequest: a name is taken.
    """
    return work_of(dataset, None, {name: as_read(dataset, name) for name in dataset.fields}, ordering=ordering, tail=tail)
