"""Does one part of a job: reads it, normalises it, writes its shards, and marks it done.

This is all that a worker does, and the in-process engine does the same, so who works makes no difference. A part's result depends on the plan and
the part's number alone. Doing a part twice gives the same files.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from ..fields import Schema
from ..shards.arrow_columns import columns_of
from ..shards.columns import FixedColumn, ParsedColumn
from .assign import Ints, key_bytes, split_of
from .job import Job, Marker, Plan
from .normalize import Clean, normalize
from .output import Output
from .plan import open_source
from .report import Bad
from .samplenames import ORIGIN, Sieve, staged_schema, with_origins
from .tokenize import Tokenizer

Progress = Callable[[int, int], None]
"""Called with rows and source bytes done since the last call."""

FIRST_REASONS = 3
"""How many reasons a marker repeats."""

_MODULES = {1: ".part", 2: ".permuted"}


class Stage(ABC):
    """What does the parts of one stage of one job, one after the other."""

    number: int

    def __init__(self, job: Job) -> None:
        """Read the plan."""
        self.job = job
        self.plan: Plan = job.load()

    def run(self, part: int, progress: Progress) -> None:
        """Do a part, unless it is done.

        Raises:
            StorageError: the destination refuses.
        """
        if self.job.marker(self.number, part) is None:
            self.do(part, progress)

    @abstractmethod
    def do(self, part: int, progress: Progress) -> None:
        """Do a part and mark it."""

    def output(self, part: int, schema: Schema, format: str) -> Output:  # noqa: A002 - the design's name
        """Return where a part's rows go."""
        return Output(self.job.path, self.job.prefix(self.number, part), schema, format=format, shard_bytes=self.plan.settings.shard_bytes)


def open_stage(number: int, job: Job) -> Stage:
    """Return what does the parts of a stage.

    The second stage's module is imported here and only when there is one: it brings numba, and nobody who does not shuffle should pay for it.
    """
    module = importlib.import_module(_MODULES[number], __package__)
    opener: Callable[[Job], Stage] = module.STAGE
    return opener(job)


class FirstStage(Stage):
    """Reads parts of the source."""

    number = 1

    def __init__(self, job: Job) -> None:
        """Open the source."""
        super().__init__(job)
        self._source = open_source(self.plan.settings.kind, self.plan.files)
        self._tokenizer = None if self.plan.settings.tokens is None else Tokenizer(self.plan.settings.tokens)

    def do(self, part: int, progress: Progress) -> None:
        """Read a part of the source into shards, or into rows to be shuffled."""
        settings, described, schema = self.plan.settings, self.plan.described, self.plan.schema
        format = settings.format if settings.shuffle is None else "arrow"  # noqa: A001 - the design's name
        staged_as = staged_schema(schema, settings)
        output = self.output(part, staged_as, format)
        sieve = Sieve(output, staged_as, format, len(settings.targets))
        bad: list[Bad] = []
        rows = left_out = 0
        try:
            for chunk in self._source.read(self.plan.parts[part], described):
                if isinstance(chunk, Bad):
                    bad.append(chunk)
                    continue
                made, refused = (chunk, {}) if self._tokenizer is None else self._tokenizer.apply(chunk)
                for clean in normalize(made, schema, settings.image, refused):
                    if isinstance(clean, Bad):
                        bad.append(clean)
                        continue
                    splits = self._splits(clean)
                    batch = with_origins(clean) if ORIGIN in staged_as else clean.batch
                    refused = sieve.write(batch, splits, clean.key)
                    bad += [clean.bad(row, reason) for row, reason in refused.items()]
                    rows += batch.num_rows - len(refused)
                    left_out += int((splits < 0).sum())
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
            uncounted=sum(not one.counted for one in bad),
        )
        self.job.mark(1, part, marker, bad)

    def _splits(self, clean: Clean) -> Ints:
        """Return the split of each row, -1 for none; 0 when there are no splits."""
        splits = self.plan.settings.splits
        return split_of(self._keys(clean), list(splits.values())) if splits else np.zeros(clean.batch.num_rows, np.int64)

    def _keys(self, clean: Clean) -> Sequence[bytes]:
        column = self.plan.settings.split_key
        if column is None:
            return [key_bytes(key) for key in clean.keys]
        values = columns_of(clean.batch, self.plan.schema)[column]
        assert not isinstance(values, ParsedColumn)
        if isinstance(values, FixedColumn):
            return [key_bytes(value) for value in values.values.tolist()]
        return [values.row(index).tobytes() for index in range(clean.batch.num_rows)]


STAGE = FirstStage
"""What `open_stage` opens for stage 1."""
