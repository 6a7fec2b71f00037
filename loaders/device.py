"""Batches on a CUDA device: copied on a stream of their own, a batch or more ahead of the loop, out of memory that is pinned once.

The ring is registered with CUDA when it is made, so that a copy reads the slot that workers wrote. Whoever takes a batch waits for its copy by an event
on its own stream; the host waits at the end of an epoch only. A slot is held until the event of its copy has passed, and the device's memory until the consumer's stream is
through with it (`record_stream`), so nothing is written while it may be read. What does not lie in registered memory (batches made inline, or copied out of the ring) goes through
torch's pinned allocator.

Ahead of the loop go only batches that workers have finished: waiting for the next one would hold up the one at hand. Cost: device memory for the batch at hand, `ahead` + 1 others and what
the consumer's stream has not come to yet, and as many slots. Refused: a thread that copies, since what it would hide, a few calls a batch, costs less than handing over to it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator
from typing import Any, NamedTuple, final

import torch

from ..errors import BadRequest
from .batch import Batch, Ragged, each
from .engine import Delivered, Engine, Onward, RunSource
from .plan import Plan

_LOG = logging.getLogger("penstock")

_PORTABLE = 1
"""`cudaHostRegisterPortable`: pinned memory in the eyes of every device."""

_SPARE = 2
"""Slots held beside those of batches under way: the one at hand, and the one before it, which the loop drops only when it has the next."""


def device_of(asked: object) -> torch.device | None:
    """Return the CUDA device that is asked for, without a number when it is whichever is current when the first batch goes; None for the host's memory.

    Args:
        asked: None or `"cpu"`, `"auto"` (CUDA where there is one), a name such as `"cuda"` or `"cuda:1"`, a number, or a `torch.device`.

    Raises:
        BadRequest: it is no CUDA device, or there is none here.
    """
    if asked is None or (isinstance(asked, str) and asked == "auto" and not torch.cuda.is_available()):
        return None
    named = f"cuda:{asked}" if type(asked) is int else "cuda" if asked == "auto" else asked  # a number alone is whatever accelerator torch finds
    try:
        found: Any = torch.device(named)  # type: ignore[call-overload]  # anything else raises
    except (RuntimeError, TypeError) as error:
        raise BadRequest(f"device={asked!r} names no device: {error}") from None
    if found.type == "cpu":
        return None
    if found.type != "cuda":
        raise BadRequest(f"device={asked!r}: batches go to CUDA devices or stay on the host; use device=None and move them in the loop")
    if not torch.cuda.is_available():
        raise BadRequest(f"device={asked!r}, and torch finds no CUDA device here; use device='auto' to go without one")
    if found.index is not None and found.index >= torch.cuda.device_count():
        raise BadRequest(f"device={asked!r}, and there are {torch.cuda.device_count()} CUDA devices")
    return torch.device(found)


class Mover(ABC):
    """Gets batches to a device. What `start` returns is on its way; `arrive` makes it usable where the consumer works, and `passed` says that it was read."""

    @abstractmethod
    def start(self, batches: list[Batch]) -> Any:
        """Begin to copy batches of arrays; return what the others are asked with."""

    @abstractmethod
    def arrive(self, moving: Any) -> list[Batch]:
        """Return the batches, once, as tensors that may be used from here on."""

    @abstractmethod
    def passed(self, moving: Any) -> bool:
        """Return whether the arrays were read to the end, without waiting."""

    @abstractmethod
    def took_ns(self, moving: Any) -> int:
        """Return the nanoseconds that a copy took which has passed, by the device's clock."""

    @abstractmethod
    def finish(self, moving: Any) -> None:
        """Wait until the arrays were read to the end."""


class Moving(NamedTuple):
    """Batches on their way, and the events around their copies."""

    batches: list[Batch]
    began: torch.cuda.Event
    ended: torch.cuda.Event


@final
class CudaMover(Mover):
    """Copies on a stream of its own."""

    def __init__(self, device: torch.device, stays: Collection[str] = ()) -> None:
        """Note the device, and columns that stay on the host; the stream is made with the first batch."""
        self._stays = stays
        self._device: Any = device  # torch says that its index is never None, which it is
        self._stream: torch.cuda.Stream | None = None

    def start(self, batches: list[Batch]) -> Moving:
        """Begin to copy."""
        if self._stream is None:
            if self._device.index is None:
                self._device = torch.device("cuda", torch.cuda.current_device())
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record(self._stream)
            moved = [each(batch, self._one, self._stays) for batch in batches]
            ended.record(self._stream)
        return Moving(moved, began, ended)

    def _one(self, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def arrive(self, moving: Moving) -> list[Batch]:
        """Have the consumer's stream wait for the copies."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(moving.ended)
        batches = list(moving.batches)
        moving.batches.clear()  # the loop alone decides how long they live
        for batch in batches:
            each(batch, lambda tensor: tensor.record_stream(stream), self._stays)
        return batches

    def passed(self, moving: Moving) -> bool:
        """Ask the event."""
        return bool(moving.ended.query())

    def took_ns(self, moving: Moving) -> int:
        """Ask the events."""
        return int(moving.began.elapsed_time(moving.ended) * 1e6)

    def finish(self, moving: Moving) -> None:
        """Wait for the event."""
        moving.ended.synchronize()


class Static:
    """Hands out the same tensors again and again, over all epochs, filled anew on the consumer's stream: what a captured CUDA graph reads."""

    def __init__(self) -> None:
        """Have none yet."""
        self._buffers: Batch = {}

    def __call__(self, batch: Batch) -> Batch:
        """Return the buffers with what a batch holds.

        Raises:
            BadRequest: it has another shape than the first one, or rows of unlike length.
        """
        if not self._buffers:
            if ragged := [name for name, value in batch.items() if isinstance(value, Ragged)]:
                raise BadRequest(f"static_buffers=True, and column {ragged[0]!r} has rows of unlike length: give it one with Pad")
            self._buffers = {name: torch.empty_like(tensor) for name, tensor in batch.items()}
        for name, buffer in self._buffers.items():
            if batch[name].shape != buffer.shape:
                raise BadRequest(
                    f"static_buffers=True, and column {name!r} came as {list(batch[name].shape)} behind {list(buffer.shape)}: use tail='drop'"
                )
            buffer.copy_(batch[name], non_blocking=True)
        return dict(self._buffers)


@final
class DeviceEngine(Engine):
    """Has another engine's batches copied ahead of the loop."""

    def __init__(self, inner: Engine, mover: Mover, ahead: int) -> None:
        """Keep up to `ahead` deliveries on their way beside the one that is handed out."""
        self._inner = inner
        self._mover = mover
        self._ahead = ahead

    def epoch(self, plan: Plan, epoch: int, start: int, runs: RunSource | None = None) -> Generator[Delivered, None, None]:
        """Yield batches of tensors on the device, in order; an error comes in place of the batch that it belongs to."""
        source = self._inner.epoch(plan, epoch, start, runs)
        waiting: deque[tuple[Delivered, Any]] = deque()
        read: deque[tuple[Any, list[Batch]]] = deque()
        last: Exception | None = None
        copy_ns = 0
        try:
            while True:
                while last is None and len(waiting) <= self._ahead:
                    copy_ns += self._let_go(read)
                    try:
                        if waiting and not self._inner.ready():
                            break
                        made = next(source)
                    except Exception as error:  # noqa: BLE001  (raised in place of its batch: those before it come first)
                        last = error
                        break
                    moving = self._mover.start(made.batches)
                    read.append((moving, list(made.batches)))  # keeps the slots
                    made.batches.clear()
                    waiting.append((made._replace(times=made.times._replace(copy_ns=copy_ns)), moving))
                    copy_ns = 0
                if not waiting:
                    break
                made, moving = waiting.popleft()
                made.batches.extend(self._mover.arrive(moving))
                del moving
                yield made
            if last is not None and not isinstance(last, StopIteration):
                raise last
        finally:
            del last  # an error that keeps its own frame would keep slots and tensors too
            source.close()
            for moving, _ in read:
                self._mover.finish(moving)

    def _let_go(self, read: deque[tuple[Any, list[Batch]]]) -> int:
        """Drop the arrays of copies that have passed; return the nanoseconds that these took."""
        took_ns = 0
        while read and self._mover.passed(read[0][0]):
            took_ns += self._mover.took_ns(read.popleft()[0])
        return took_ns

    def ready(self) -> bool:
        """Return what the inner engine says."""
        return self._inner.ready()

    def close(self) -> None:
        """End what the inner engine keeps."""
        self._inner.close()


def onward(device: torch.device, ahead: int, stays: Collection[str] = ()) -> Onward:
    """Return how batches get to a device, so many of them ahead of the loop, and all columns but some."""
    return Onward(
        held=ahead + 1 + _SPARE, pin=functools.partial(register, device), around=lambda engine: DeviceEngine(engine, CudaMover(device, stays), ahead)
    )


def register(device: torch.device, address: int, size: int) -> Callable[[], None]:
    """Pin memory that is there already, with its pages, for all devices; return what lets go of it. Where CUDA refuses, say so and go on: copies take a detour."""
    runtime: Any = torch.cuda.cudart()
    with torch.cuda.device(device):
        outcome = int(runtime.cudaHostRegister(address, size, _PORTABLE))
        if outcome:
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device="cuda").add_(1)  # CUDA keeps its last error until somebody asks, which else would be the user's next kernel
    if outcome:
        warnings.warn(
            f"CUDA pins no {size:,} bytes of shared memory (error {outcome}); copies to the device take a detour. Raise the limit of locked memory (ulimit -l), or lower "
            "batch_size or prefetch_factor",
            stacklevel=2,
        )
        return lambda: None

    def let_go() -> None:
        if outcome := int(runtime.cudaHostUnregister(address)):
            _LOG.warning("penstock: CUDA did not let go of %d bytes of pinned memory (error %d)", size, outcome)

    return let_go
