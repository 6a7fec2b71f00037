"""A dataset of one fixed column in memory, for tests of what gathers its rows."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import penstock as ps
from penstock.loaders.gather import Gather
from penstock.loaders.lookup import Lookup, Place
from penstock.shards.columns import Column, FixedColumn
from penstock.shards.manifest import Manifest, Shard


class Made:
    """A dataset of one fixed column in memory, and the lookup of its blocks: shards of random bytes, and a list of the blocks opened."""

    def __init__(self, shards: list[tuple[int, int]], shape: tuple[int, ...], dtype: str, *, strided: bool = False) -> None:
        """Make shards of (rows, block rows); `strided` gives blocks that are not contiguous."""
        self.opened: list[tuple[int, int]] = []
        self.unmapped: set[int] = set()
        self.field = ps.Array(shape, dtype) if shape else ps.Scalar(dtype)
        made = tuple(Shard(path=f"{n}.arrow", format="arrow", rows=r, bytes=1, xxh3=None, block_rows=b) for n, (r, b) in enumerate(shards))
        self.manifest = Manifest(root="/nowhere", version=1, schema={"x": self.field}, metadata={}, shards=made)
        total = sum(rows for rows, _ in shards)
        raw = np.random.default_rng(0).integers(0, 256, total * prod(shape) * np.dtype(dtype).itemsize, np.uint8)
        self.rows = raw.view(dtype).reshape(total, *shape)
        self.blocks: dict[tuple[int, int], Any] = {}
        first = 0
        for number, (rows, block_rows) in enumerate(shards):
            for block in range(-(-rows // block_rows)):
                part = self.rows[first + block * block_rows : first + min((block + 1) * block_rows, rows)]
                if strided:
                    part = np.repeat(part, 2, axis=0)[::2]
                self.blocks[number, block] = part
            first += rows

    def mapped(self, shard: int) -> bool:
        """Return whether a shard's blocks may be kept."""
        return shard not in self.unmapped

    def block(self, shard: int, block: int) -> Mapping[str, Column]:
        """Return one block."""
        self.opened.append((shard, block))
        return {"x": FixedColumn(values=self.blocks[shard, block])}

    def places(self, rows: npt.NDArray[np.int64]) -> list[Place]:
        """Return where rows stand, each in a block of its own."""
        return [Place({"x": FixedColumn(values=self.rows[row : row + 1])}, 0, int(row), "", "", 0) for row in rows]

    def gather(self, threads: int = 1) -> Gather:
        """Return a gather over it."""
        return Gather(self.manifest, {"x": self.field}, cast("Lookup", self), threads=threads)
