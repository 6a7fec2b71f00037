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

SMALL = 1 << 16
"""Bytes of a storage from which on it has a block of its own.

Smaller ones share one, and are copied out of it when the batch is opened: a label that is kept does not keep its images.
"""

SMALL_ARRAY = 1024
"""Bytes up to which an array is pickled like anything else."""

MOST_UNSEEN = 2
"""A tensor that shows less than this part of its storage, one over so many, is sent as torch sends it: the storage once, and then its number."""

_ALIGNMENT = 64


class Place(NamedTuple):
    """Where a storage lies: in which of the batch's blocks, from which byte of it, and how many bytes it has."""

    block: int
    offset: int
    size: int


@final
class Run:
    """The memory of one batch: a block for each large storage, and some for the small ones."""

    def __init__(self, memory: Bytes, shelf: Shelf) -> None:
        """Begin with nothing."""
        self._memory, self._shelf = memory, shelf
        self.blocks: list[Block] = []
        self.shared: list[int] = []
        """Which of the blocks small storages share."""
        self._at = 0
        self.placed: dict[int, tuple[Place, Any]] = {}
        """Storages that are there, by their identity, which stays theirs while they are held here."""

    def take(self, size: int) -> tuple[Bytes, Place] | None:
        """Return room for a storage, uint8 `[size]`; None where there is none."""
        if size >= SMALL:
            block = self._shelf.take(size)
            if block is None:
                return None
            self.blocks.append(block)
            return self._memory[block.start : block.stop], Place(len(self.blocks) - 1, 0, size)
        if not self.shared or self._at + size > SMALL:
            block = self._shelf.take(SMALL)
            if block is None:
                return None
            self.shared.append(len(self.blocks))
            self.blocks.append(block)
            self._at = 0
        place = Place(self.shared[-1], self._at, size)
        start = self.blocks[place.block].start + self._at
        self._at += -(-size // _ALIGNMENT) * _ALIGNMENT
        return self._memory[start : start + size], place


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
        size = storage.nbytes()
        held = self._run.placed.get(storage._cdata)
        if held is None:
            if not size or size > MOST_UNSEEN * value.numel() * value.element_size() or _seen_elsewhere(storage):
                return NotImplemented
            room = self._run.take(size)
            if room is None:
                return NotImplemented
            memory, place = room
            torch.from_numpy(memory).copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
            held = self._run.placed[storage._cdata] = place, storage
        place = held[0]
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


def _seen_elsewhere(storage: torch.UntypedStorage) -> bool:
    """Return whether a storage is shared memory that others look at too; what torch's collation stacks into is looked at by nobody else."""
    return storage.is_shared() and torch._C._storage_Use_Count(storage._cdata) > _OURS


_OURS = 2
"""Who holds the storage of a tensor that is being packed and of nothing else: the tensor, and the name that is asked."""


class _Opening(threading.local):
    """The blocks of the batch that this thread is opening, and the storages that were made of them."""

    blocks: Sequence[Bytes] = ()
    shared: frozenset[int] = frozenset()
    storages: dict[tuple[int, int, int], torch.Tensor]


_opening = _Opening()


def _bytes_at(place: tuple[int, int, int]) -> Bytes:
    """Return the bytes of a storage: its block's own, or, of a block that several share, a copy, so that none of them keeps the others."""
    block, start, length = place
    found = _opening.blocks[block][start : start + length]
    return found.copy() if block in _opening.shared else found


def _tensor_at(place: tuple[int, int, int], dtype: torch.dtype, size: Sequence[int], stride: Sequence[int], offset: int) -> torch.Tensor:
    storage = _opening.storages.get(place)
    if storage is None:
        storage = _opening.storages[place] = torch.from_numpy(_bytes_at(place))
    return torch.empty(0, dtype=dtype).set_(storage.untyped_storage(), offset, size, stride)


def _array_at(place: tuple[int, int, int], dtype: np.dtype[Any], shape: Sequence[int], order: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, _bytes_at(place), order=order)
    return array


@final
class Parcel:
    """What a worker hands over in place of a batch."""

    def __init__(self, arena: int, worker: int, run: Run, payload: bytes) -> None:
        """Note where its memory is."""
        self._arena, self._worker, self._payload = arena, worker, payload
        self._blocks, self._shared = [tuple(block) for block in run.blocks], run.shared

    def open(self) -> Any:
        """Return the batch; the memory of each large tensor is the worker's again when the last one over it is gone.

        Raises:
            KeyError: the arena is gone, and its iterator with it.
        """
        _opening.storages = {}
        if not self._blocks:
            return pickle.loads(self._payload)  # noqa: S301  (written by our own worker, as all that crosses torch's queue is)
        home, worker = arena_of(self._arena), self._worker
        blocks = [Block(*block) for block in self._blocks]
        _opening.shared = frozenset(self._shared)
        _opening.blocks = [(home.bytes_of if number in _opening.shared else home.lease)(worker, block) for number, block in enumerate(blocks)]
        try:
            return pickle.loads(self._payload)  # noqa: S301  (likewise)
        finally:
            for number in self._shared:
                home.free(worker, blocks[number])
            _opening.blocks, _opening.shared, _opening.storages = (), frozenset(), {}


@final
class Packing:
    """Packs the batches of one worker."""

    def __init__(self, room: Room, worker: int) -> None:
        """Map the worker's region.

        Raises:
            OSError: this process may not map so much.
        """
        self._memory, self._shelf = room.open(worker)
        self._arena, self._worker = room.number, worker

    def pack(self, collate: Callable[[Any], Any], samples: Any) -> Parcel:
        """Collate samples and return a parcel."""
        run = Run(self._memory, self._shelf)
        try:
            batch = _stacked(samples, run) if collate is torch_collate.default_collate else collate(samples)
            file = io.BytesIO()
            _Packer(file, run).dump(batch)
        except BaseException:  # Ctrl-C too: nobody was told of the blocks
            self._shelf.give_back(run.blocks)
            raise
        return Parcel(self._arena, self._worker, run, file.getvalue())


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
                run.placed[out.untyped_storage()._cdata] = place, out.untyped_storage()
                return torch.stack(batch, 0, out=out)
        made: torch.Tensor = torch_collate.collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
        return made

    return torch_collate.collate(samples, collate_fn_map={**known, torch.Tensor: stack})
