"""The ring: memory without a name, shared with whoever has the descriptor, and leased to arrays until the last of them is gone."""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.errors import StorageError
from penstock.loaders.ring import HEADER_BYTES, MAX_WORKERS, Ring, Stage, lease


def names(folder: str) -> set[str]:
    """Return what a folder holds, if it is there."""
    return {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()


def mapped_rings() -> int:
    """Return how many mappings of rings this process has."""
    return sum("penstock-ring" in line for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())


def test_slots_are_apart_and_behind_the_page() -> None:
    """Slots do not overlap each other or the page in front, which holds the ticket and a stage for each worker."""
    ring = Ring(slot_bytes=4096, slots=3)
    for slot in range(3):
        ring.view(slot)[:] = slot + 1
    ring.cancelled = 2**40
    ring.set_stage(0, Stage.MAP)
    ring.set_stage(MAX_WORKERS, Stage.DECODE)
    assert [set(ring.view(slot).tolist()) for slot in range(3)] == [{1}, {2}, {3}]
    assert ring.cancelled == 2**40
    assert (ring.stage(0), ring.stage(1), ring.stage(MAX_WORKERS)) == (Stage.MAP, Stage.IDLE, Stage.DECODE)
    assert 8 * (1 + MAX_WORKERS) < HEADER_BYTES
    ring.close()


def test_the_descriptor_is_enough_to_share() -> None:
    """Whoever maps the descriptor sees the same bytes, in both directions, and closing that map leaves the descriptor to its owner."""
    ring = Ring(slot_bytes=4096, slots=2)
    other = Ring(slot_bytes=4096, slots=2, descriptor=ring.descriptor)
    other.view(1)[:5] = [1, 2, 3, 4, 5]
    ring.cancelled = 7
    assert ring.view(1)[:5].tolist() == [1, 2, 3, 4, 5]
    assert other.cancelled == 7
    other.close()
    os.fstat(ring.descriptor)
    ring.close()


def test_closing_twice_and_memory_after_it() -> None:
    """close() may come twice; views stay valid, and the mapping goes with the last of them."""
    before = mapped_rings()
    ring = Ring(slot_bytes=4096, slots=1)
    descriptor = ring.descriptor
    view = ring.view(0)
    view[:] = 9
    ring.close()
    ring.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    del ring
    assert int(view.sum()) == 9 * 4096
    assert mapped_rings() == before + 1
    del view
    gc.collect()
    assert mapped_rings() == before


def test_it_has_no_name() -> None:
    """Nothing appears in /dev/shm: after any death nothing is left."""
    before = names("/dev/shm")
    ring = Ring(slot_bytes=2**20, slots=4)
    ring.view(0)[:] = 1
    after = names("/dev/shm")
    assert after <= before
    ring.close()


def test_too_large_is_a_storage_error_with_the_remedy() -> None:
    """A ring beyond all memory is refused with its numbers and what to lower, and leaves no descriptor."""
    before = len(names("/proc/self/fd"))
    with pytest.raises(StorageError, match=r"no shared memory for 4 batches of [\d,]+ bytes .*lower batch_size or prefetch_factor"):
        Ring(slot_bytes=2**58, slots=4)
    assert len(names("/proc/self/fd")) == before


def test_a_lease_ends_with_the_last_view() -> None:
    """Views of views, other shapes and dtypes, and tensors all keep the slot; it is released once, after the last."""
    ring = Ring(slot_bytes=4096, slots=1)
    released: deque[int] = deque()
    leased = lease(ring.view(0), 5, released)
    part = leased[64:128].view(np.float32).reshape(4, 4)[1:, ::2]
    tensor = torch.from_numpy(leased[:64].view(np.int64))
    sliced = tensor[2:3]
    del leased, tensor
    assert list(released) == []
    del part
    assert list(released) == []
    del sliced
    assert list(released) == [5]
    ring.close()


def test_a_lease_is_writable_memory_of_the_slot() -> None:
    """A leased array is the slot itself, both ways, without a copy."""
    ring = Ring(slot_bytes=4096, slots=2)
    leased = lease(ring.view(1), 1, deque())
    leased[10] = 77
    assert ring.view(1)[10] == 77
    ring.view(1)[11] = 78
    assert leased[11] == 78
    assert leased.ctypes.data == ring.view(1).ctypes.data


def test_a_lease_keeps_the_memory_of_a_closed_ring() -> None:
    """A batch outlives its ring."""
    ring = Ring(slot_bytes=4096, slots=1)
    ring.view(0)[:] = 3
    released: deque[int] = deque()
    leased = lease(ring.view(0), 0, released)
    ring.close()
    del ring
    gc.collect()
    assert int(leased.sum()) == 3 * 4096
    del leased
    assert list(released) == [0]


def test_leases_end_in_any_thread() -> None:
    """Batches dropped in many threads at once release each slot exactly once."""
    ring = Ring(slot_bytes=4096, slots=64)
    released: deque[int] = deque()
    leases = [lease(ring.view(slot), slot, released) for slot in range(64)]

    def drop() -> None:
        while True:
            try:
                leases.pop()
            except IndexError:
                return

    threads = [threading.Thread(target=drop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(released) == list(range(64))
    ring.close()


def test_views_survive_a_fork() -> None:
    """A forked child reads the batch it inherited, and its dropping it does not release the parent's slot."""
    ring = Ring(slot_bytes=4096, slots=1)
    ring.view(0)[:] = 2
    released: deque[int] = deque()
    leased = lease(ring.view(0), 0, released)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        total = int(leased.sum())
        del leased
        os.write(writing, f"{total} {list(released)}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == f"{2 * 4096} [0]"
    assert os.waitpid(child, 0)[1] == 0
    assert list(released) == []
    assert int(leased[0]) == 2
    ring.close()
