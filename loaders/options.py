"""What a loader is asked for, as values: torch's arguments, and Penstock's own. Checked here, used elsewhere."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import BadRequest
from .plan import Tail, default_tail
from .ring import MAX_WORKERS

if TYPE_CHECKING:
    from ..transforms.base import Op
    from ..transforms.map import Map
    from ..transforms.mixing import BatchOp


class TorchOptions(NamedTuple):
    """torch's arguments, by their names and with their meaning."""

    batch_size: int | None
    shuffle: bool | None
    sampler: Any
    batch_sampler: Any
    num_workers: int
    collate_fn: Callable[[Any], Any] | None
    pin_memory: bool
    drop_last: bool
    timeout: float
    worker_init_fn: Callable[[int], object] | None
    multiprocessing_context: Any
    generator: Any
    prefetch_factor: int | None
    persistent_workers: bool
    pin_memory_device: str
    in_order: bool

    def to_torch(self) -> dict[str, Any]:
        """Return them for torch's class, by name; `in_order` where it is not the default, since torch has it from 2.6 on."""
        return {name: value for name, value in self._asdict().items() if name != "in_order" or not value}


class OwnOptions(NamedTuple):
    """Penstock's arguments, by their names; what they mean stands at `DataLoader`."""

    transforms: Mapping[str, Sequence[Op]] | None = None
    map: Map | Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    seed: int | None = None
    tail: Tail | None = None
    topology: Any = None
    broadcast: bool = False
    sequence: Sequence[str] | None = None
    tickets: Any = None
    window_shards: int | None = None
    lanes: int = 1
    epoch_samples: int | None = None
    output: Literal["torch", "numpy"] = "torch"
    device: Any = None
    device_prefetch: int = 1
    static_buffers: bool = False
    normalize_on: Literal["host", "device"] = "host"
    batch_transforms: Sequence[BatchOp] | None = None
    decode_on: Literal["host", "device"] = "host"


def integer(name: str, value: object) -> int:
    """Return an argument that must be an integer, of whatever library.

    Raises:
        BadRequest: it is none.
    """
    try:
        return operator.index(value)  # type: ignore[arg-type]  # numpy's integers too; anything else raises
    except TypeError:
        raise BadRequest(f"{name}={value!r} is not an integer") from None


def tail_of(tail: Tail | None, drop_last: bool, world_size: int) -> Tail:
    """Return what becomes of the last batch.

    Raises:
        BadRequest: the arguments contradict each other.
    """
    found: Tail = tail or default_tail(drop_last=drop_last, world_size=world_size)
    if drop_last and found != "drop":
        raise BadRequest(f"drop_last=True and tail={tail!r} contradict each other; leave one of them out")
    return found


def seed_of(seed: int | None, generator: Any) -> int:
    """Return the seed of order and augmentation.

    Raises:
        BadRequest: it is no integer.
    """
    if seed is not None:
        return integer("seed", seed)
    return 0 if generator is None else int(generator.initial_seed())


def _ours(batch_sampler: object) -> bool:
    """Return whether a batch sampler is one of our loaders', perhaps inside a framework's, which has it under one of these names."""
    inner = [batch_sampler, *(getattr(batch_sampler, name, None) for name in ("_batch_sampler", "batch_sampler", "sampler"))]
    return any(type(getattr(each, "sampler", each)).__name__ == "EpochSampler" for each in inner)


_REMEDIES = {
    "sampler": "use shuffle=, seed= and topology=",
    "batch_sampler": "use batch_size= and tail=",
    "collate_fn": "batches are built in place; use map=Map(fn, batched=True)",
    "multiprocessing_context": "workers are always fresh processes; leave it out",
}


def check_stored(options: TorchOptions, own: OwnOptions) -> int:
    """Refuse what cannot be used with a stored dataset, with the remedy; return the batch size.

    Raises:
        BadRequest: an argument cannot be used.
    """
    size = options.batch_size
    if type(size) is not int or size < 1:
        raise BadRequest(f"batch_size={size!r}: a batch has one row or more")
    if own.output not in ("torch", "numpy"):
        raise BadRequest(f"output={own.output!r} is not 'torch' or 'numpy'")
    for name in ("normalize_on", "decode_on"):
        if (value := getattr(own, name)) not in ("host", "device"):
            raise BadRequest(f"{name}={value!r} is not 'host' or 'device'")
    if integer("device_prefetch", own.device_prefetch) < 0:
        raise BadRequest(f"device_prefetch={own.device_prefetch}: batches that are copied ahead of the loop, 0 or more")
    for name, remedy in _REMEDIES.items():
        if (value := getattr(options, name)) is not None:
            if name == "batch_sampler" and _ours(value):
                raise BadRequest(
                    "a framework builds this loader anew from its batch sampler, as Lightning does to predict and to overfit batches: give it a torch DataLoader "
                    "over dataset.to_torch() there, or read the loader in a loop of your own"
                )
            raise BadRequest(f"{name}={value!r} cannot be used with a penstock.Dataset: {remedy}")
    if options.num_workers > MAX_WORKERS:
        raise BadRequest(f"num_workers={options.num_workers}: one loader has at most {MAX_WORKERS}")
    if options.prefetch_factor is not None and options.prefetch_factor == 0:
        raise BadRequest(f"prefetch_factor={options.prefetch_factor}: workers need a batch ahead to work on; use 1 or more, or num_workers=0")
    if options.pin_memory_device:
        raise BadRequest(f"pin_memory_device={options.pin_memory_device!r}: only the CUDA device is pinned for; leave it out")
    return size


def check_borrowed(dataset: object, own: OwnOptions) -> None:
    """Refuse what needs a stored dataset, where the dataset is torch's or the user's own.

    Raises:
        BadRequest: an argument needs one.
    """
    for name, default in OwnOptions._field_defaults.items():
        if (value := getattr(own, name)) is not default and value != default:
            raise BadRequest(
                f"{name}={value!r} needs a penstock.Dataset, TokenWindows, Packed or a Mixture, and dataset is a {type(dataset).__name__}; "
                "leave it out, or store the dataset with penstock.Writer or `penstock convert`"
            )
