"""Rows of a tar whose `__key__` cannot be theirs: set aside, each with the reason, and with both places where two rows have one name.

A tar's sample is the members of one name, so two rows of one name in a shard would be read as one. In two shards they are two samples, and a key
that tars of a source repeat is no column and is not written: rows are numbered anew. What else a tar cannot take (a key with a dot in it, a name that
is too long) its writer says, row by row. Behind a shuffle any two rows may meet, so there each staged row carries where it came from, in a column that
no shard of the result has; which of two rows is kept is then a matter of the seed.

Must never: lose a row without a line in the quarantine. Cost: the names of one shard and one chunk; with a shuffle about 50 bytes a staged row.
Refused: looking through all shards, whose memory would grow with the source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ..fields import Schema, Text
from ..shards.arrow_types import field_to_arrow
from ..shards.tarnames import KEY
from .assign import Ints
from .normalize import Clean
from .output import Output, by_split
from .report import Bad
from .settings import Settings

ORIGIN = "__origin__"
"""The column of staged rows that says where each came from; no column of a tar may be called so."""


def staged_schema(schema: Schema, settings: Settings) -> Schema:
    """Return the columns that the first stage writes."""
    return {**schema, ORIGIN: Text()} if settings.shuffle is not None and settings.format == "tar" else schema


def with_origins(clean: Clean) -> pa.RecordBatch:
    """Return rows with the column that says where each came from."""
    found = [clean.bad(row, "") for row in range(clean.batch.num_rows)]
    origins = [json.dumps([bad.source, bad.key, bad.row]) for bad in found]
    return clean.batch.append_column(field_to_arrow(ORIGIN, Text()), pa.array(origins, pa.string()))


class Origins:
    """Where the rows of a staged batch came from."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Take the column that says so; rows that are never refused have none."""
        self._column = batch.column(ORIGIN) if ORIGIN in batch.schema.names else None

    def key(self, row: int) -> str:
        """Return the key of a row."""
        return str(self._parsed(row)[1])

    def bad(self, row: int, reason: str) -> Bad:
        """Return the report of a row that cannot be kept."""
        source, key, number = self._parsed(row)
        return Bad(source=source, key=key, row=number, reason=reason)

    def _parsed(self, row: int) -> list[Any]:
        assert self._column is not None
        found: list[Any] = json.loads(self._column[row].as_py())
        return found


class Sieve:
    """Writes the rows of one part, but for those that their shard cannot take."""

    def __init__(self, output: Output, schema: Schema, format: str, splits: int) -> None:  # noqa: A002 - the design's name
        """Write to an output of so many splits; look at names only where a column gives them."""
        self._output, self._splits = output, splits
        self._named = format == "tar" and isinstance(schema.get(KEY), Text)
        self._open: dict[int, tuple[int, dict[str, str]]] = {}
        self._latest: dict[int, dict[str, str]] = {}

    def write(self, batch: pa.RecordBatch, splits: Ints, key: Callable[[int], str]) -> dict[int, str]:
        """Write rows to their splits, -1 for none.

        Args:
            batch: the rows.
            splits: the split of each.
            key: of a row by its number in the batch, for the report.

        Returns:
            why each row that was not written was not, by its number.
        """
        refused = self._repeated(batch.column(KEY).to_pylist(), splits, key) if self._named else {}
        if refused:
            splits = splits.copy()
            splits[list(refused)] = -1
        for split, rows in by_split(splits, self._splits):
            part = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
            refused |= {int(rows[row]): _told(field, reason) for row, field, reason in self._output.write(part, split)}
        return dict(sorted(refused.items()))

    def _repeated(self, names: Sequence[str], splits: Ints, key: Callable[[int], str]) -> dict[int, str]:
        """Return the rows whose name another row has that may be in their shard, and where that one is."""
        for split in set(splits.tolist()):
            begun, known = self._open.get(split, (0, {}))
            if self._output.begun(split) != begun:  # what is open now began with the latest rows
                known = dict(self._latest.get(split, {}))
            self._open[split] = (self._output.begun(split), known)
            self._latest[split] = {}
        refused = {}
        for row, (name, split) in enumerate(zip(names, splits.tolist(), strict=True)):
            if split < 0:
                continue
            known = self._open[split][1]
            if name in known:
                also = f"{KEY} {name!r} is also that of {known[name]}: in a tar both would be one sample"
                refused[row] = f"{also}; make the keys differ, or leave {KEY} out with columns="
                continue
            known[name] = self._latest[split][name] = key(row)
        return refused


def _told(field: str | None, reason: str) -> str:
    """Return the reason of a tar's writer with the column and, for a key, the other way on."""
    return f"{field}: {reason}{f'; or leave {KEY} out with columns=' if field == KEY else ''}" if field else reason
