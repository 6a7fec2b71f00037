"""The state of a loader over datasets, samplers and collate functions that are torch's or the user's own, and its iterators.

What such a loader delivers is torch's to say; what is kept here is how far its present epoch has come, and where the next iterator begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch.utils.data.dataloader import DataLoader, _DatasetKind

from ..errors import BadRequest
from .torch_course import Course, Standing, from_json, heard, to_json
from .torch_iterators import Inline, Pooled

FORMAT = 1
"""The version of the state dict."""

KIND = "torch"
"""Says in a state dict that it is not one of a loader over stored data."""


@final
class Borrowed:
    """Where a loader of torch's kind stands.

    Attributes:
        every: a dataset that has a state is asked for it behind so many batches of a worker.
    """

    def __init__(self, every: int | None) -> None:
        """Stand at the beginning.

        Raises:
            BadRequest: `every` is no number of batches.
        """
        if every is not None and (type(every) is not int or every < 1):
            raise BadRequest(f"snapshot_every_n_steps={every!r}: states are taken behind every batch (1) or every so many")
        self.every = every or 1
        self._next: Standing | None = None
        self._course: Course | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the setting; an epoch under way belongs to one loader."""
        return Borrowed, (self.every,)

    def iterator(self, loader: DataLoader[Any]) -> Inline | Pooled:
        """Return an iterator of an epoch."""
        if loader.num_workers == 0:
            return Inline(loader, self)
        loader.check_worker_number_rationality()
        return Pooled(loader, self)

    def take(self) -> Standing:
        """Return where the next epoch begins, once."""
        standing, self._next = self._next, None
        return Standing() if standing is None else standing

    def began(self, course: Course) -> Course:
        """Hear of an epoch that begins, and return its course."""
        self._course = course
        return course

    def state_dict(self, loader: DataLoader[Any]) -> dict[str, Any]:
        """Return where the present epoch stands, or where the next one begins."""
        standing = self._next or (Standing() if self._course is None else self._course.standing())
        epochs = [epoch for each in _samplers(loader) if (epoch := getattr(each, "epoch", None)) is not None]
        return {"kind": KIND, "version": FORMAT, "num_workers": loader.num_workers, "epoch": epochs[0] if epochs else None, **to_json(standing)}

    def load_state_dict(self, loader: Any, state: Any) -> None:
        """Have the next iterator go on where a state was saved.

        Raises:
            BadRequest: it is no such state, or it needs another number of workers.
        """
        if not isinstance(state, Mapping) or state.get("kind") != KIND or state.get("version") != FORMAT:
            raise BadRequest(f"this is no state of version {FORMAT} of a loader over a {type(loader.dataset).__name__}; save one with state_dict()")
        try:
            standing = from_json(state)
        except (KeyError, TypeError, IndexError) as error:
            raise BadRequest(f"this state is not whole: {error!r}; save one with state_dict()") from error
        counted = loader._dataset_kind != _DatasetKind.Iterable and not any(told for told, _ in standing.workers)
        if state["num_workers"] != loader.num_workers:
            if not counted and standing.workers:
                raise BadRequest(
                    f"num_workers={loader.num_workers}, and the state was saved with {state['num_workers']}: each worker of a dataset that is iterable or has a "
                    "state goes on with its own part; use as many"
                )
            standing = standing._replace(workers=(), worker=-1)
        if state["epoch"] is not None:
            self.set_epoch(loader, state["epoch"])
        if standing.finished:
            if standing.generator and loader.generator is not None:
                loader.generator.set_state(heard(standing.generator))
            standing = Standing()
        self.close(loader)
        self._next, self._course = standing, None

    def set_epoch(self, loader: DataLoader[Any], epoch: int) -> None:
        """Tell those that want to know which epoch it is."""
        for each in (*_samplers(loader), loader.dataset):
            if callable(tell := getattr(each, "set_epoch", None)):
                tell(epoch)

    def close(self, loader: Any) -> None:
        """End persistent workers."""
        iterator, loader._iterator = loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """Return the samplers of a loader, each once."""
    found = [loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None), loader.sampler]
    return list({id(each): each for each in found if each is not None}.values())
