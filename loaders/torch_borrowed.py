"""The state of a loader over datasets, samplers and collate functions that are torch's or the user's own, and its iterators.

What such a loader delivers is torch's to say; what is kept here is how far its present epoch has come, and where the next iterator begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, final

from torch.utils.data.dataloader import DataLoader, _DatasetKind

from ..errors import BadRequest
from .torch_course import Course, Standing, chain_of, from_json, generators_of, heard, to_json
from .torch_iterators import Inline, Pooled

FORMAT = 1
"""The version of the state dict."""

KIND = "torch"
"""Says in a state dict that it is not one of a loader over stored data."""


def plan_of(loader: Any) -> dict[str, Any]:
    """Return what decides which rows a loader's batches have, as far as it can be told: what must be the same at a resume."""
    try:
        rows = len(loader.dataset)
    except TypeError:  # a stream without a length
        rows = None
    samplers = [type(each).__name__ for each in chain_of(loader)]
    return {
        "rows": rows,
        "batch_size": loader.batch_size,
        "drop_last": loader.drop_last,
        "samplers": samplers,
        "own_generators": len(generators_of(loader)),
    }


@final
class Borrowed:
    """Where a loader of torch's kind stands.

    Attributes:
        every: a dataset that has a state is asked for it behind so many batches of a worker.
        strange: the class of an iterator that a subclass of the loader made without us; None for none.
    """

    def __init__(self, every: int | None) -> None:
        """Stand at the beginning.

        Raises:
            BadRequest: `every` is no number of batches.
        """
        if every is not None and (type(every) is not int or every < 1):
            raise BadRequest(f"snapshot_every_n_steps={every!r}: states are taken behind every batch (1) or every so many")
        self.every = every or 1
        self.strange: type | None = None
        self._next: Standing | None = None
        self._course: Course | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the setting; an epoch under way belongs to one loader."""
        return Borrowed, (self.every,)

    def iterator(self, loader: DataLoader[Any]) -> Inline | Pooled:
        """Return an iterator of an epoch."""
        return Inline(loader, self) if loader.num_workers == 0 else Pooled(loader, self)

    def take(self) -> Standing:
        """Return where the next epoch begins, once."""
        standing, self._next = self._next, None
        if standing is None:
            return Standing()
        return standing.next_epoch() if standing.finished else standing

    def note(self, iterator: object) -> None:
        """Hear of an iterator that the loader gives."""
        self.strange = None if isinstance(iterator, (Inline, Pooled)) else type(iterator)

    def began(self, course: Course) -> Course:
        """Hear of an epoch that begins, and return its course."""
        self._course = course
        return course

    def state_dict(self, loader: Any) -> dict[str, Any]:
        """Return where the present epoch stands, or where the next one begins.

        Raises:
            BadRequest: a subclass of the loader makes iterators of its own, which nothing is known of.
        """
        if self.strange is not None:
            raise BadRequest(
                f"batches come from a {self.strange.__name__} that {type(loader).__name__} made itself, so nobody knows how many were given"
            )
        standing = self._next or (Standing() if self._course is None else self._course.standing())
        return {
            "kind": KIND,
            "version": FORMAT,
            **plan_of(loader),
            "num_workers": loader.num_workers,
            "epoch": _epoch_of(loader),
            **to_json(standing),
        }

    def load_state_dict(self, loader: Any, state: Any, accept: Collection[str] = ()) -> None:
        """Have the next iterator go on where a state was saved; parts of the plan that are accepted may differ.

        Raises:
            BadRequest: it is no such state, or of another plan, or it needs another number of workers.
        """
        if not isinstance(state, Mapping) or state.get("kind") != KIND or state.get("version") != FORMAT:
            raise BadRequest(f"this is no state of version {FORMAT} of a loader over a {type(loader.dataset).__name__}; save one with state_dict()")
        standing = from_json(state)
        plan, missing = plan_of(loader), {"num_workers", "epoch", *plan_of(loader)} - set(state)
        if missing:
            raise BadRequest(f"this state is not whole: it says nothing of {', '.join(sorted(missing))}; save one with state_dict()")
        differs = [f"{name} was {state[name]!r} and is {value!r}" for name, value in plan.items() if state[name] != value and name not in accept]
        if differs:
            raise BadRequest(
                f"this state belongs to other batches: {'; '.join(differs)}; build the loader as it was, or name what may differ in accept="
            )
        parts = loader._dataset_kind == _DatasetKind.Iterable or any(told for told, _ in standing.workers)
        if state["num_workers"] != loader.num_workers or len(standing.workers) not in {0, max(loader.num_workers, 1)}:
            if parts and standing.workers:
                raise BadRequest(
                    f"num_workers={loader.num_workers}, and the state was saved with {state['num_workers']}: each worker of a dataset that is iterable or has a "
                    "state goes on with its own part; use as many"
                )
            standing = standing._replace(workers=(), worker=-1)
        if state["epoch"] is not None:
            self.set_epoch(loader, state["epoch"])
        if standing.finished:
            for generator, text in zip(generators_of(loader), standing.generators, strict=False):
                generator.set_state(heard(text))
        self.close(loader)
        self._next, self._course = standing, None

    def set_epoch(self, loader: DataLoader[Any], epoch: int) -> None:
        """Tell those that want to know which epoch it is."""
        for each in (*chain_of(loader), loader.dataset):
            if callable(tell := getattr(each, "set_epoch", None)):
                tell(epoch)

    def close(self, loader: Any) -> None:
        """End persistent workers."""
        iterator, loader._iterator = loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


def _epoch_of(loader: Any) -> int | None:
    """Return which epoch sampler or dataset say it is; None where none says so."""
    epochs = [getattr(each, "epoch", None) for each in (*chain_of(loader), loader.dataset) if callable(getattr(each, "set_epoch", None))]
    return next((epoch for epoch in epochs if isinstance(epoch, int)), None)
