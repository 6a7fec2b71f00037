"""The arena: where batches are put, when their place is free again, and that nothing is written over that is looked at."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from penstock.loaders import arena as arenas
from penstock.loaders.arena import HEADER_BYTES, MOST_ALIVE, Arena, Block, Shelf
from penstock.loaders.torch_parcel import Packing, Parcel


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40_000), st.integers(0, 5)), min_size=1, max_size=60))
def test_blocks_never_overlap(steps: list[tuple[int, int]]) -> None:
    """Whatever is taken and let go of, no two blocks that are looked at share a byte, none is outside, and a full region says no."""
    words = np.zeros(16, np.int64)
    shelf = Shelf(words, 200_000)
    alive: list[Block] = []
    for size, let_go in steps:
        block = shelf.take(size)
        if block is None:
            assert len(alive) == 16 or sum(-(-each.stop // 4096) * 4096 - each.start for each in alive) + size > 60_000
        else:
            assert HEADER_BYTES <= block.start < block.stop <= 200_000
            assert block.stop - block.start == size
            assert all(block.stop <= each.start or each.stop <= block.start for each in alive)
            alive.append(block)
        for _ in range(min(let_go, len(alive))):
            words[alive.pop(0).word] = 0


def test_the_lowest_place_is_taken_again() -> None:
    """A batch that is let go of gives its pages to the next one of its size, so that they are touched once."""
    words = np.zeros(8, np.int64)
    shelf = Shelf(words, 1 << 20)
    first, second = shelf.take(5000), shelf.take(5000)
    assert first is not None
    assert second is not None
    words[first.word] = 0
    assert shelf.take(4000) == first._replace(stop=first.start + 4000)


def test_a_batch_is_the_workers_again_when_nothing_looks_at_it() -> None:
    """Its word is cleared with the last tensor made from it, whichever that is."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    parcel = packing.pack(default_collate, [{"a": torch.ones(50), "b": np.ones(6000)} for _ in range(4)])
    assert isinstance(parcel, Parcel)
    batch = parcel.open()
    words = packing._memory[:HEADER_BYTES].view(np.int64)
    assert words.sum() == 1
    kept = batch["b"][1:2].T
    del batch
    gc.collect()
    assert words.sum() == 1
    assert (kept == 1).all()
    del kept
    gc.collect()
    assert words.sum() == 0


def test_a_batch_that_fails_leaves_no_block() -> None:
    """What was taken for a batch that then could not be made is free again."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    with pytest.raises(RuntimeError, match="stack expects each tensor"):
        packing.pack(default_collate, [{"a": torch.ones(5), "b": torch.ones(1 + n)} for n in range(3)])
    assert packing._memory[:HEADER_BYTES].view(np.int64).sum() == 0


def test_beyond_the_words_batches_go_another_way() -> None:
    """When as many batches are alive as there are words, further ones are as the collate function made them."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    large = torch.ones(20_000)
    kept = [packing.pack(default_collate, [large]).open() for _ in range(MOST_ALIVE)]
    words = packing._memory[:HEADER_BYTES].view(np.int64)
    assert words.sum() == MOST_ALIVE
    assert torch.equal(packing.pack(default_collate, [large]).open()[0], large)
    assert words.sum() == MOST_ALIVE
    del kept[0]
    gc.collect()
    kept.append(packing.pack(default_collate, [large]).open())
    assert words.sum() == MOST_ALIVE


def test_where_there_is_no_room_for_large_regions_smaller_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses may be limited: regions get smaller, and where not even those fit it is the system's error, with no descriptor left open."""
    asked: list[int] = []
    mapped = arenas.mapped

    def scarce(descriptor: int, size: int, offset: int = 0) -> Any:
        asked.append(size)
        if size > limit:
            raise OSError(12, "no room")
        return mapped(descriptor, size, offset)

    monkeypatch.setattr(arenas, "mapped", scarce)
    limit = 1 << 32
    assert Arena(2).region_bytes <= 1 << 31
    limit = 0
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no room"):
        Arena(2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_a_forked_process_looks_at_is_not_given_back() -> None:
    """A block that was leased before a fork stays as it is, also when the parent has dropped it and gives back all memory that nobody looks at."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    batch = packing.pack(default_collate, [torch.ones(20_000)]).open()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ready, 1)
        os._exit(0 if (batch.numpy() == 1).all() else 1)
    del batch
    gc.collect()
    home.trim()
    os.write(told, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(ready)
    os.close(told)


def test_shared_memory_that_nobody_else_looks_at_goes_the_short_way() -> None:
    """What a collate function of the user's own stacked by torch's goes into the arena; what somebody else sees too is sent as torch sends it, and stays shared."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    words = packing._memory[:HEADER_BYTES].view(np.int64)

    def shared() -> Any:
        ones: Any = torch.ones(20_000)
        return ones.share_memory_()

    fresh = packing.pack(lambda _: shared(), None)
    assert words.sum() == 1
    assert (fresh.open() == 1).all()
    seen = shared()
    other = packing.pack(lambda _: seen.view(100, 200), None).open()
    assert words.sum() == 0
    seen[0] = 5
    assert other[0, 0] == 5


def test_a_forked_copy_lets_go_of_nothing() -> None:
    """A process that was forked off has copies of what looks at a batch; that they end there does not free it here."""
    home = Arena(1)
    packing = Packing(home.room(), 0)
    batch = packing.pack(default_collate, [torch.ones(20_000)]).open()
    pid = os.fork()
    if pid == 0:
        del batch
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert packing._memory[:HEADER_BYTES].view(np.int64).sum() == 1
    assert (batch == 1).all()
