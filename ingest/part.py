"""Does one part of a job: reads it, normalises it, writes its shards, and marks it done.

This is all that a worker does, and the in-process engine does the same, so who works makes no difference. A part's result depends on the plan and
the part's number alone. Doing a part twice gives the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..shards.arrow_columns import columns_of
from ..shards.columns import FixedColumn, ParsedColumn
from .assign import key_bytes, split_of
from .job import Job, Marker, Plan
from .normalize import Clean, normalize
from .output import Output, by_split
from .plan import open_source
from .report import Bad
from .shuffle import Permuted, read_tasks

Progress = Callable[[int, int], None]
"""Called with rows and source bytes done since the last call."""

FIRST_REASONS = 3


class Worker:
    """Does parts of one job, one after the other."""

    def __init__(self, job: Job) -> None:
        """Read the plan."""
        self._job = job
        self._plan: Plan = job.load()
        self._source = open_source(self._plan.settings.kind, self._plan.files)
        self._permuted: Permuted | None = None

    def run(self, stage: int, part: int, progress: Progress) -> None:
        """Do a part, unless it is done.

        Raises:
            StorageError: the destination refuses.
        """
        if self._job.marker(stage, part) is not None:
            return
        if stage == 1:
            self._first(part, progress)
        else:
            self._second(part, progress)

    def _output(self, stage: int, part: int, format: str) -> Output:  # noqa: A002 - the design's name
        settings = self._plan.settings
        prefix = self._job.prefix(stage, part)
        return Output(self._job.path, prefix, self._plan.described.schema, format=format, shard_bytes=settings.shard_bytes)

    def _first(self, part: int, progress: Progress) -> None:
        """Read a part of the source into shards, or into rows to be shuffled."""
        settings, described = self._plan.settings, self._plan.described
        output = self._output(1, part, settings.format if settings.shuffle is None else "arrow")
        bad: list[Bad] = []
        rows = left_out = 0
        try:
            for chunk in self._source.read(self._plan.parts[part], described):
                if isinstance(chunk, Bad):
                    bad.append(chunk)
                    continue
                for clean in normalize(chunk, described.schema, settings.image):
                    if isinstance(clean, Bad):
                        bad.append(clean)
                        continue
                    rows += clean.batch.num_rows
                    left_out += self._write(output, clean)
                progress(len(chunk.rows), chunk.size_bytes)
            staged = output.close()
        except BaseException:  # also Ctrl-C: a shard that is not finished must not stay
            output.abort()
            raise
        structure = sum(one.rows for one in bad if one.structure)
        samples = sum(one.rows for one in bad if not one.structure)
        marker = Marker(
            rows_in=rows + structure + samples,
            left_out=left_out,
            structure=structure,
            samples=samples,
            reasons=tuple(str(one) for one in bad[:FIRST_REASONS]),
            staged=tuple(staged),
        )
        self._job.mark(1, part, marker, bad)

    def _write(self, output: Output, clean: Clean) -> int:
        """Write clean rows to their splits; return how many are in none."""
        splits = self._plan.settings.splits
        if not splits:
            output.write(clean.batch, 0)
            return 0
        chosen = split_of(self._keys(clean), list(splits.values()))
        for split, batch in by_split(clean.batch, chosen, len(splits)):
            output.write(batch, split)
        return int((chosen < 0).sum())

    def _keys(self, clean: Clean) -> Sequence[bytes]:
        column = self._plan.settings.split_key
        if column is None:
            return [key_bytes(key) for key in clean.keys]
        values = columns_of(clean.batch, self._plan.described.schema)[column]
        assert not isinstance(values, ParsedColumn)
        if isinstance(values, FixedColumn):
            return [key_bytes(value) for value in values.values.tolist()]
        return [values.row(index).tobytes() for index in range(clean.batch.num_rows)]

    def _second(self, part: int, progress: Progress) -> None:
        """Write one run of positions of the shuffled order."""
        if self._permuted is None:
            self._permuted = Permuted(self._job.path, read_tasks(self._job.path), self._plan)
        output = self._output(2, part, self._plan.settings.format)
        split = self._permuted.split(part)
        rows = 0
        try:
            for batch in self._permuted.batches(part):
                output.write(batch, split)
                rows += batch.num_rows
                progress(batch.num_rows, batch.nbytes)
            staged = output.close()
        except BaseException:  # also Ctrl-C: a shard that is not finished must not stay
            output.abort()
            raise
        self._job.mark(2, part, Marker(rows_in=rows, left_out=0, structure=0, samples=0, reasons=(), staged=tuple(staged)), [])
