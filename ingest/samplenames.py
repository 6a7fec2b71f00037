"""Rows whose `__key__` names two samples of one tar: found before they are written, and set aside with both places.

A tar's sample is the members of one name, so two rows of one name in a shard would be read as one. In two shards they are two samples, and a key that tars of
a source repeat is no column and is not written: rows are numbered anew. Cost: the names of one shard and one chunk. Refused: looking through
all shards, whose memory would grow with the source.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..fields import Schema, Text
from ..shards.tarnames import KEY
from .assign import Ints
from .normalize import Clean
from .output import Output
from .report import Bad


class SampleNames:
    """The names in the open shards of one part."""

    def __init__(self, schema: Schema, format: str) -> None:  # noqa: A002 - the design's name
        """Look at names only where a column gives them."""
        self._named = format == "tar" and isinstance(schema.get(KEY), Text)
        self._open: dict[int, tuple[int, dict[str, str]]] = {}
        self._latest: dict[int, dict[str, str]] = {}

    def distinct(self, output: Output, clean: Clean, splits: Ints) -> tuple[Clean, Ints, list[Bad]]:
        """Return the rows, and their splits, without those whose name another row has that may be in their shard; and why each of these is left out."""
        if not self._named:
            return clean, splits, []
        for split in set(splits.tolist()):
            begun, names = self._open.get(split, (0, {}))
            if output.begun(split) != begun:  # what is open now began with the latest rows
                names = dict(self._latest.get(split, {}))
            self._open[split] = (output.begun(split), names)
            self._latest[split] = {}
        bad: list[Bad] = []
        keep = []
        for row, (name, split, key) in enumerate(zip(clean.batch.column(KEY).to_pylist(), splits.tolist(), clean.keys, strict=True)):
            first = self._open[split][1].setdefault(name, key) if split >= 0 else key
            if split >= 0 and first != key:
                reason = f"{KEY} {name!r} is also that of {first}: in a tar both would be one sample; make the keys differ, or leave {KEY} out with columns="
                bad.append(clean.chunk.bad(int(clean.kept[row]), reason))
                continue
            self._latest[split][name] = key
            keep.append(row)
        if not bad:
            return clean, splits, bad
        kept = np.array(keep, np.int64)
        return replace(clean, batch=clean.batch.take(kept), kept=clean.kept[kept]), splits[kept], bad
