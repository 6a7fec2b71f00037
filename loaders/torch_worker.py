"""What Penstock adds to torch's own worker: batches go into the arena, and the dataset's state comes along, or is given back to it.

torch's worker calls two functions of its loader's: one when it starts, behind the seeding, and one that collates. `Hand` is both. The fetcher, which
torch makes in between, is replaced by one that knows the dataset's iterator; in a worker process only, and not for loaders that a dataset makes
there.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any, final

from torch.utils.data._utils import fetch
from torch.utils.data._utils.pin_memory import pin_memory

from .arena import Room
from .torch_course import stateful
from .torch_parcel import Packing, Parcel

Collate = Callable[[Any], Any]


@final
class Given:
    """A batch, or its parcel, as it comes from a worker. No tuple: torch pins those part by part, and this one says itself how it is pinned."""

    __slots__ = ("batch", "state", "worker")

    def __init__(self, batch: Any, state: bytes | None = None, worker: int = 0) -> None:
        """Take a batch, what the worker's dataset says of itself behind it (pickled; None for nothing), and the worker's number."""
        self.batch, self.state, self.worker = batch, state, worker

    def open(self) -> Given:
        """Return the same with the batch itself."""
        return Given(self.batch.open(), self.state, self.worker) if isinstance(self.batch, Parcel) else self

    def told(self) -> Any:
        """Return the state."""
        return None if self.state is None else pickle.loads(self.state)  # noqa: S301  (written by our own worker)

    def pin_memory(self) -> Given:
        """Return the same in pinned memory; what torch's thread for that calls."""
        return Given(pin_memory(self.open().batch), self.state, self.worker)


class Source:
    """What keeps count of a dataset's state, in a worker or in the loader's own process."""

    def __init__(self, dataset: Any, worker: int, size: int, every: int, standing: tuple[Any, int]) -> None:
        """Note where the dataset is to go on.

        Args:
            dataset: the dataset of this process.
            worker: this process's number.
            size: samples of a batch.
            every: a state is told behind each so many batches.
            standing: a state that was told, or None, and batches since.
        """
        self.dataset, self.worker, self.every, self._size = dataset, worker, every, size
        self._standing = standing
        self._batches = 0

    def begin(self) -> tuple[Any, int]:
        """Give the dataset its state, the first time; return that and how many batches are to be passed over."""
        (state, since), self._standing = self._standing, (None, 0)
        if state is not None and state["dataset"] is not None:
            self.dataset.load_state_dict(state["dataset"])
        return state, since

    def forward(self, rows: Any, state: Any, since: int) -> None:
        """Go on with an iterator of the dataset where it stood; a batch that fails again is passed over as it failed."""
        if state is not None and state["iterator"] is not None:
            rows.load_state_dict(state["iterator"])
        for _ in range(since):
            try:
                for _ in range(self._size):
                    next(rows)
            except StopIteration:
                break
            except Exception:  # noqa: BLE001, S112  (the error was raised in the run that goes on here)
                continue

    def told(self, rows: Any) -> Any:
        """Return the state of the dataset, or of its iterator, behind one batch more; None where there is none or it is not its turn."""
        self._batches += 1
        if self._batches % self.every:
            return None
        iterator = copy.deepcopy(rows.state_dict()) if stateful(rows) else None
        dataset = copy.deepcopy(self.dataset.state_dict()) if rows is not self.dataset and stateful(self.dataset) else None
        return None if iterator is None and dataset is None else {"iterator": iterator, "dataset": dataset}

    def pickled(self, rows: Any) -> bytes | None:
        """Return what `told` returns, pickled here, where an error is raised in place of the batch."""
        state = self.told(rows)
        return None if state is None else pickle.dumps(state)


class IterableFetcher(fetch._IterableDatasetFetcher):
    """torch's fetcher, going on where the dataset stood."""

    def __init__(self, source: Source, *options: Any) -> None:
        """Begin, and go on."""
        standing = source.begin()
        super().__init__(source.dataset, *options)
        source.forward(self.dataset_iter, *standing)
        self._source = source

    def fetch(self, possibly_batched_index: Any) -> Given:  # type: ignore[override]
        """Return a batch and the dataset's state."""
        batch = super().fetch(possibly_batched_index)
        return Given(batch, self._source.pickled(self.dataset_iter), self._source.worker)


class MapFetcher(fetch._MapDatasetFetcher):
    """torch's fetcher, for a dataset that may have a state."""

    def __init__(self, source: Source, *options: Any) -> None:
        """Begin."""
        source.begin()
        source.every = 1  # rows that were asked for again would not be the same
        super().__init__(source.dataset, *options)
        self._source = source

    def fetch(self, possibly_batched_index: Any) -> Given:  # type: ignore[override]
        """Return a batch and the dataset's state."""
        return Given(super().fetch(possibly_batched_index), self._source.pickled(None), self._source.worker)


@final
class Hand:
    """The two functions of a loader that torch's worker calls."""

    def __init__(
        self, room: Room | None, collate: Collate, init: Callable[[int], object] | None, size: int, every: int, standings: tuple[tuple[Any, int], ...]
    ) -> None:
        """Note what the worker needs.

        Args:
            room: the arena; None where there is none.
            collate: the user's collate function.
            init: the user's `worker_init_fn`.
            size: samples of a batch.
            every: a state is told behind each so many batches of a worker.
            standings: where each worker goes on.
        """
        self._room, self._collate, self._init, self._size, self._every, self._standings = room, collate, init, size, every, standings
        self._packing: Packing | None = None

    def begin(self, worker: int) -> None:
        """Do what the user wants done in a worker, then make ready."""
        gc.freeze()  # what a fork shares with its parent is not looked through for garbage, which would copy all of it: 100 ms, and its memory twice
        if self._init is not None:
            self._init(worker)
        if self._room is not None:
            with contextlib.suppress(OSError):  # this process may not map so much: batches cross as torch has them cross
                self._packing = Packing(self._room, worker)
        source = Source(None, worker, self._size, self._every, self._standings[worker])
        here: Any = fetch
        here._IterableDatasetFetcher = self._instead_of(here._IterableDatasetFetcher, IterableFetcher, source)
        here._MapDatasetFetcher = self._instead_of(here._MapDatasetFetcher, MapFetcher, source)

    def _instead_of(self, theirs: Any, ours: Any, source: Source) -> Callable[..., Any]:
        """Return what makes a fetcher of ours for this loader, and one of torch's for a loader that the dataset makes for itself."""

        def made(dataset: Any, auto_collation: bool, collate_fn: Any, drop_last: bool) -> Any:
            if collate_fn != self.collate:
                return theirs(dataset, auto_collation, collate_fn, drop_last)
            source.dataset = dataset
            return ours(source, auto_collation, collate_fn, drop_last)

        return made

    def collate(self, samples: Any) -> Any:
        """Return the batch of samples, or its parcel."""
        return self._collate(samples) if self._packing is None else self._packing.pack(self._collate, samples)
