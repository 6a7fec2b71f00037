"""Datasets, samplers and collate functions of the kinds that torch's users write, at module level so that every start method can send them."""

from __future__ import annotations

import math
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info


class Pair(NamedTuple):
    """A sample as a named tuple."""

    image: Any
    label: Any


class Custom(dict[str, Any]):
    """A mapping of a class of its own."""


Point = namedtuple("Point", ["x", "y"])  # noqa: PYI024  (as users write it)


class Numbers(Dataset[Any]):
    """Row i is i, or what `make` makes of it."""

    def __init__(self, rows: int = 23, kind: str = "int") -> None:
        """Note how many rows, and of which kind."""
        self.rows, self.kind = rows, kind

    def __len__(self) -> int:
        """Return the rows."""
        return self.rows

    def __getitem__(self, i: int) -> Any:
        """Return a row."""
        return KINDS[self.kind](i)


KINDS: dict[str, Any] = {
    "int": lambda i: i,
    "float": lambda i: i / 2,
    "bool": lambda i: i % 2 == 0,
    "str": str,
    "bytes": lambda i: b"%d" % i,
    "tensor": lambda i: torch.full((2, 3), i, dtype=torch.int32),
    "bfloat16": lambda i: torch.full((3,), i, dtype=torch.bfloat16),
    "uint16": lambda i: torch.full((3,), i, dtype=torch.uint16),
    "complex": lambda i: torch.full((3,), complex(i, 1)),
    "empty": lambda i: torch.empty(0),
    "scalar tensor": torch.tensor,
    "numpy": lambda i: np.full((2, 2), i, np.float16),
    "numpy scalar": np.float32,
    "dict": lambda i: {"a": torch.ones(3) * i, "b": i, "c": str(i)},
    "nested": lambda i: {"a": [torch.ones(2) * i, (i, str(i))], "b": {"c": np.array([i, i])}},
    "custom": lambda i: Custom(a=i, b=torch.ones(2)),
    "named": lambda i: Pair(torch.ones(2, 2) * i, i),
    "point": lambda i: Point(i, float(i)),
    "tuple": lambda i: (i, torch.tensor([i])),
    "list": lambda i: [i, i + 1],
    "large": lambda i: torch.full((100_000,), i, dtype=torch.uint8),
}
"""Rows of every kind that torch collates, by name."""


class Failing(Numbers):
    """Some rows raise."""

    def __getitem__(self, i: int) -> Any:
        """Return a row, or raise."""
        if i % 5 == 3:
            raise KeyError(f"row {i}")
        return i


class Several(Numbers):
    """Rows are asked for by the batch."""

    def __getitems__(self, rows: list[int]) -> list[Any]:
        """Return rows."""
        return [torch.tensor([row, len(rows)]) for row in rows]


class Lists(Numbers):
    """Is given a list of rows at a time, by a sampler that yields lists."""

    def __getitem__(self, rows: Any) -> Any:
        """Return a batch."""
        return torch.as_tensor(rows)


class Seeds(Numbers):
    """What random numbers come from, in each worker."""

    def __getitem__(self, i: int) -> Any:
        """Return the seed and some numbers."""
        info = get_worker_info()
        told = (-1, 0) if info is None else (info.id, info.num_workers)
        return torch.tensor([*told, torch.initial_seed() % 2**31, int(torch.randint(1000, ())), int(np.random.randint(1000)) if info else 0])  # noqa: NPY002


class Nested(Numbers):
    """Rows that take a loader of their own to make."""

    def __getitem__(self, i: int) -> Any:
        """Return what a loader in this process gives."""
        rows: Any = range(5)
        return torch.cat([batch + i for batch in DataLoader(rows, batch_size=2)])


class Labelled(Numbers):
    """A large picture and a small label."""

    def __getitem__(self, i: int) -> Any:
        """Return a row."""
        return torch.full((50_000,), i % 251, dtype=torch.uint8), i


class Learned(Numbers):
    """A map-style dataset that has a state: how many rows it was asked for."""

    asked = 0

    def __getitem__(self, i: int) -> Any:
        """Return the row and the count."""
        self.asked += 1
        return torch.tensor([i, self.asked])

    def state_dict(self) -> dict[str, int]:
        """Return the count."""
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self.asked = state["asked"]


class Slow(Numbers):
    """The first row takes long."""

    def __getitem__(self, i: int) -> int:
        """Return a row."""
        if i == 0:
            time.sleep(4)
        return i


class Wrong(Numbers):
    """Rows of unlike shapes, which do not stack."""

    def __getitem__(self, i: int) -> Any:
        """Return a row."""
        return torch.zeros(2 + i % 2)


class Stream(IterableDataset[Any]):
    """Numbers, shared out over workers if `shared`."""

    def __init__(self, rows: int = 23, *, shared: bool = True, length: int | None = None, fails: bool = False) -> None:
        """Note how many."""
        self.rows, self.shared, self.length, self.fails = rows, shared, length, fails

    def __iter__(self) -> Iterator[Any]:
        """Yield them."""
        if self.fails:
            raise RuntimeError("no data")
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None and self.shared else (0, 1)
        return iter(range(first, self.rows, step))

    def __len__(self) -> int:
        """Return how many there are said to be."""
        return len(range(self.length))  # type: ignore[arg-type]  # None is no integer, and says so


class Slices(Stream):
    """Batches that are views of one large tensor."""

    def __iter__(self) -> Iterator[Any]:
        """Yield them."""
        whole = torch.arange(100_000)
        return iter([whole[n : n + 10] for n in range(0, 200, 10)])


class Shuffled(Stream):
    """In another order each time, by the default generator."""

    def __iter__(self) -> Iterator[Any]:
        """Yield numbers."""
        return iter(torch.randperm(self.rows).tolist())


class Breaking(Stream):
    """Raises at some rows, and goes on."""

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator that raises at times."""
        return Broken(0, self.rows, 1)


class Steps:
    """An iterator that has no state."""

    def __init__(self, first: int, stop: int, step: int) -> None:
        """Stand before the first."""
        self.at, self.stop, self.step = first, stop, step

    def __iter__(self) -> Steps:
        """Return itself."""
        return self

    def __next__(self) -> int:
        """Return the next number."""
        if self.at >= self.stop:
            raise StopIteration
        self.at += self.step
        return self.at - self.step


class Broken(Steps):
    """Raises in place of some numbers."""

    def __next__(self) -> int:
        """Return the next number, or raise."""
        number = super().__next__()
        if number % 7 == 2:
            raise KeyError(f"row {number}")
        return number


class Walk(Steps):
    """An iterator that has a state."""

    def state_dict(self) -> dict[str, int]:
        """Return where it stands."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand there."""
        self.at = state["at"]


class Walking(Stream):
    """Its iterators have a state."""

    def __iter__(self) -> Walk:
        """Return an iterator."""
        info = get_worker_info()
        return Walk(*((0, self.rows, 1) if info is None else (info.id, self.rows, info.num_workers)))


class Counting(Stream):
    """Has a state itself, and counts how often it was asked to begin."""

    def __init__(self, rows: int = 23) -> None:
        """Begin at nothing."""
        super().__init__(rows)
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        """Yield numbers from where it stands."""
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        while first + self.at * step < self.rows:
            self.at += 1
            yield first + (self.at - 1) * step
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        """Return where it stands."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand there."""
        self.at = state["at"]


class Runs(Sampler[Any]):
    """Lists of rows, as a sampler for `batch_size=None`."""

    def __init__(self, rows: int, size: int) -> None:
        """Note how many rows, and in a list."""
        self.rows, self.size = rows, size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of a permutation."""
        yield from (run.tolist() for run in torch.randperm(self.rows).split(self.size))

    def __len__(self) -> int:
        """Return how many lists."""
        return math.ceil(self.rows / self.size)


class Stateful(Sampler[int]):
    """A sampler that has a state and no random numbers: it goes on from there."""

    def __init__(self, rows: int) -> None:
        """Stand before the first."""
        self.rows, self.at = rows, 0

    def __iter__(self) -> Iterator[int]:
        """Yield rows, backwards."""
        while self.at < self.rows:
            self.at += 1
            yield self.rows - self.at
        self.at = 0

    def __len__(self) -> int:
        """Return how many rows."""
        return self.rows

    def state_dict(self) -> dict[str, int]:
        """Return where it stands."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand there."""
        self.at = state["at"]


class Batch:
    """A batch of a class of its own, which says how it is pinned."""

    def __init__(self, samples: list[Any]) -> None:
        """Stack the samples."""
        self.x, self.pinned = torch.stack([sample["a"] for sample in samples]), False

    def pin_memory(self) -> Batch:
        """Note that it was pinned."""
        self.pinned = True
        return self


class Turning(Stateful):
    """Begins each epoch one row later than the one before: its state says where the next one begins."""

    epochs = 0

    def __iter__(self) -> Iterator[int]:
        """Yield rows from a place that moves."""
        if self.at == 0:
            self.epochs += 1
        while self.at < self.rows:
            self.at += 1
            yield (self.epochs + self.at) % self.rows
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        """Return where it stands, and in which epoch."""
        return {"at": self.at, "epochs": self.epochs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand there."""
        self.at, self.epochs = state["at"], state["epochs"]


def views(samples: list[Any]) -> dict[str, Any]:
    """Return inputs and labels as two views of one storage, as language models have them, and a transposed one."""
    x = torch.stack([torch.arange(10) + sample for sample in samples])
    return {"inputs": x[:, :-1], "labels": x[:, 1:], "across": x.T, "twice": [x, x]}


def arrays(samples: list[Any]) -> dict[str, Any]:
    """Return numpy arrays, a large one, a small one, one in Fortran's order, one of strings."""
    x = np.stack([np.full((500, 3), sample) for sample in samples])
    return {"x": x, "small": x[:, 0, 0].copy(), "across": np.asfortranarray(x), "names": np.array([str(sample) for sample in samples])}


def overlapping(samples: list[Any]) -> dict[str, Any]:
    """Return two tensors over one array, the first of them shorter; and one of a type that numpy lacks."""
    whole = np.array(samples * 40_000)
    return {"head": torch.from_numpy(whole[: len(whole) // 2]), "all": torch.from_numpy(whole), "odd": torch.zeros(3, dtype=torch.uint16)}


def odd(samples: list[Any]) -> list[Any]:
    """Return what does not fit an arena: sparse, quantised, a parameter, a subclass, nothing at all."""
    x = torch.stack([torch.ones(4) * sample for sample in samples])
    return [x.to_sparse(), torch.nn.Parameter(x), torch.nn.Buffer(x), None, torch.empty(0, 3), x.to(torch.complex64).conj(), {"set": set(samples)}]


def wrap(samples: list[Any]) -> Batch:
    """Return a batch of a class of its own."""
    return Batch(samples)


def raising(samples: list[Any]) -> Any:
    """Raise."""
    raise ValueError(f"cannot collate {samples}")


def seeded(worker: int) -> None:
    """Seed a worker's random numbers anew."""
    torch.manual_seed(worker + 5)


def broken(worker: int) -> None:
    """Fail in a worker's beginning."""
    raise RuntimeError(f"worker {worker} cannot begin")


def same(one: Any, other: Any) -> bool:
    """Return whether two batches are equal in class, type, shape, strides and value, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape, one.layout, one.requires_grad) == (other.dtype, other.shape, other.layout, other.requires_grad)
        if one.layout is torch.strided:
            alike = alike and one.stride() == other.stride()
        return alike and torch.equal(
            one.detach().to_dense() if one.is_sparse else one.detach(), other.detach().to_dense() if one.is_sparse else other.detach()
        )
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype and one.strides == other.strides and np.array_equal(one, other) and one.flags.writeable == other.flags.writeable
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Batch):
        return same(vars(one), vars(other))
    return bool(one == other)
