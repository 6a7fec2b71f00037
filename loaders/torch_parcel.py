"""A batch on its way from a worker: the memory of its tensors and arrays lies in the arena, the rest is pickled beside it.

The unit is a tensor's storage, so that views of one storage are views of one storage on the other side, with the strides that they had. What cannot be
moved like that (a subclass, a sparse or quantised tensor, one that requires grad, one on a device; where the arena is full, anything) is sent as torch
sends it, alone: the rest of its batch still goes the short way. Containers are pickled, whatever class they are of.

Cost: a copy of each storage that was not stacked into the arena right away, and some microseconds for each tensor.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch.utils.data._utils import collate as torch_collate

from .arena import Block, Bytes, Room, Shelf
from .arena import arena as arena_of

PLAIN = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
    }
)
"""Element types whose bytes say everything."""

SMALL_ARRAY = 1024
"""Bytes up to which an array is pickled like anything else."""

LEAST_RUN = 1 << 16
"""Bytes of a batch's first piece of the arena, until a batch has told how much it needs."""

_ALIGNMENT = 64


class Place(NamedTuple):
    """Where a storage lies: in which of the batch's blocks, from which byte of it, and how many bytes it has."""

    block: int
    offset: int
    size: int


@final
class Run:
    """The memory of one batch: a block, and others when that was too small."""

    def __init__(self, memory: Bytes, shelf: Shelf, expected: int) -> None:
        """Begin with nothing; the first block will have at least the bytes that are expected."""
        self._memory, self._shelf, self._expected = memory, shelf, expected
        self.blocks: list[Block] = []
        self._at = 0
        self.placed: dict[int, Place] = {}
        """Storages that are there, by their address: in the arena, or where they were copied from."""

    def take(self, size: int) -> tuple[Bytes, Place] | None:
        """Return room for a storage; None where there is none."""
        if not self.blocks or self.blocks[-1].start + self._at + size > self.blocks[-1].stop:
            block = self._shelf.take(max(size, LEAST_RUN if self.blocks else max(self._expected, LEAST_RUN)))
            if block is None:
                return None
            self.blocks.append(block)
            self._at = 0
        place = Place(len(self.blocks) - 1, self._at, size)
        start = self.blocks[-1].start + self._at
        self._at += -(-size // _ALIGNMENT) * _ALIGNMENT
        return self._memory[start : start + size], place

    @property
    def used(self) -> int:
        """Bytes that the batch has taken, about."""
        return sum(block.stop - block.start for block in self.blocks[:-1]) + self._at


class _Packer(ForkingPickler):
    """Pickles a batch; storages go into the run."""

    def __init__(self, file: io.BytesIO, run: Run) -> None:
        """Write to a file."""
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._run = run

    def reducer_override(self, value: Any) -> Any:
        """Return how to make a tensor or an array from its place; `NotImplemented` for anything else."""
        kind = type(value)
        if kind is torch.Tensor:
            return self._tensor(value)
        if kind is np.ndarray:
            return self._array(value)
        return NotImplemented

    def _tensor(self, value: torch.Tensor) -> Any:
        if (
            value.requires_grad
            or value.dtype not in PLAIN
            or value.layout is not torch.strided
            or value.device.type != "cpu"
            or value.is_nested
            or value.is_conj()
            or value.is_neg()
        ):
            return NotImplemented
        storage = value.untyped_storage()
        place = self._run.placed.get(storage.data_ptr())
        if place is None:
            size = storage.nbytes()
            room = self._run.take(size) if size else None
            if room is None:
                return NotImplemented
            memory, place = room
            torch.from_numpy(memory).copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
            self._run.placed[storage.data_ptr()] = place
        return _tensor_at, (tuple(place), value.dtype, tuple(value.shape), value.stride(), value.storage_offset())

    def _array(self, value: np.ndarray[Any, Any]) -> Any:
        flags = value.flags
        order: Any = "C" if flags.c_contiguous else "F" if flags.f_contiguous else ""
        if value.nbytes <= SMALL_ARRAY or value.dtype.hasobject or value.dtype.metadata or not order:
            return NotImplemented
        room = self._run.take(value.nbytes)
        if room is None:
            return NotImplemented
        memory, place = room
        np.ndarray(value.shape, value.dtype, memory, order=order)[...] = value
        return _array_at, (tuple(place), value.dtype, value.shape, order)


class _Opening(threading.local):
    """The blocks of the batch that this thread is opening, and the storages that were made of them."""

    blocks: Sequence[Bytes] = ()
    storages: dict[tuple[int, int, int], torch.Tensor]


_opening = _Opening()


def _tensor_at(place: tuple[int, int, int], dtype: torch.dtype, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    storage = _opening.storages.get(place)
    if storage is None:
        block, start, length = place
        storage = _opening.storages[place] = torch.from_numpy(_opening.blocks[block][start : start + length])
    return torch.empty(0, dtype=dtype).set_(storage.untyped_storage(), offset, size, stride)


def _array_at(place: tuple[int, int, int], dtype: np.dtype[Any], shape: Sequence[int], order: Any) -> np.ndarray[Any, Any]:
    block, start, length = place
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, _opening.blocks[block][start : start + length], order=order)
    return array


@final
class Parcel:
    """What a worker hands over in place of a batch."""

    def __init__(self, arena: int, worker: int, blocks: Sequence[Block], payload: bytes) -> None:
        """Note where its memory is."""
        self._arena, self._worker, self._blocks, self._payload = arena, worker, [tuple(block) for block in blocks], payload

    def open(self) -> Any:
        """Return the batch; its memory is the worker's again when the last tensor over it is gone."""
        home = arena_of(self._arena)
        _opening.blocks = [home.lease(self._worker, Block(*block)) for block in self._blocks]
        _opening.storages = {}
        try:
            return pickle.loads(self._payload)  # noqa: S301  (written by our own worker, as all that crosses torch's queue is)
        finally:
            _opening.blocks, _opening.storages = (), {}


@final
class Packing:
    """Packs the batches of one worker."""

    def __init__(self, room: Room, worker: int) -> None:
        """Map the worker's region."""
        self._memory, self._shelf = room.open(worker)
        self._arena, self._worker = room.number, worker
        self._expected = 0

    def pack(self, collate: Callable[[Any], Any], samples: Any) -> Any:
        """Collate samples and return a parcel, or the batch itself where nothing of it is in the arena."""
        run = Run(self._memory, self._shelf, self._expected)
        try:
            batch = _stacked(samples, run) if collate is torch_collate.default_collate else collate(samples)
            file = io.BytesIO()
            _Packer(file, run).dump(batch)
        except BaseException:  # Ctrl-C too: nobody was told of the blocks
            self._shelf.give_back(run.blocks)
            raise
        if not run.blocks:
            return batch
        self._expected = run.used
        return Parcel(self._arena, self._worker, run.blocks, file.getvalue())


def _stacked(samples: Any, run: Run) -> Any:
    """Return what torch's `default_collate` returns, its tensors stacked into the arena."""
    known = torch_collate.default_collate_fn_map
    if known.get(torch.Tensor) is not torch_collate.collate_tensor_fn:
        return torch_collate.default_collate(samples)

    def stack(batch: Any, *, collate_fn_map: Any = None) -> torch.Tensor:
        first = batch[0]
        if (
            type(first) is torch.Tensor
            and first.layout is torch.strided
            and not first.is_nested
            and first.device.type == "cpu"
            and first.dtype in PLAIN
        ):
            room = run.take(len(batch) * first.numel() * first.element_size()) if first.numel() else None
            if room is not None:
                memory, place = room
                out = torch.from_numpy(memory).view(first.dtype).view(len(batch), *first.shape)
                run.placed[out.data_ptr()] = place
                return torch.stack(batch, 0, out=out)
        made: torch.Tensor = torch_collate.collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
        return made

    return torch_collate.collate(samples, collate_fn_map={**known, torch.Tensor: stack})
