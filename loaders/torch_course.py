"""How far an epoch over a stranger's dataset has come: what was drawn from the sampler, what the consumer was given, and how to go on from there.

A sampler (or its iterator) that has `state_dict` and `load_state_dict` is asked; any other is run again from where its random numbers stood when it was first
asked, over as many batches as were given. Drawing runs ahead of giving, so states are kept until their batch was given.

Cost: a generator's state (5 KB) once an epoch. Refused: copying samplers, which may hold anything.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, final

import torch

from ..errors import BadRequest


class Standing(NamedTuple):
    """Where an epoch stands.

    Attributes:
        batches: how many of its first were given.
        beyond: numbers of later ones that were given too, by a loader that gives out of order.
        seed: what the workers' random numbers come from.
        default: the state of torch's default generator when the sampler was first asked; empty before that.
        generator: that of the loader's own generator, if it has one.
        sampler: the sampler's own state behind the batches that were given; None where it has none.
        workers: what each worker's dataset says of itself, and batches since; without workers, of the only one.
        worker: the worker that gave the last batch; -1 for none.
        finished: whether the consumer has seen the end.
    """

    batches: int = 0
    beyond: tuple[int, ...] = ()
    seed: int | None = None
    default: str = ""
    generator: str = ""
    sampler: Any = None
    workers: tuple[tuple[Any, int], ...] = ()
    worker: int = -1
    finished: bool = False


def stateful(value: object) -> bool:
    """Return whether something can save its state and load one."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def told(state: torch.Tensor) -> str:
    """Return a generator's state as text."""
    return base64.b85encode(zlib.compress(state.numpy().tobytes(), 1)).decode()


def heard(text: str) -> torch.Tensor:
    """Return the generator's state that `told` made text of."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.uint8)


@final
class Course:
    """One epoch's draws and deliveries.

    Attributes:
        finished: whether the consumer has seen the end.
        seed: what the workers' random numbers come from.
    """

    def __init__(self, sampler: Any, generator: torch.Generator | None, workers: int, standing: Standing, *, counted: bool) -> None:
        """Begin at the beginning, or where an earlier run stood.

        Args:
            sampler: what is iterated for indices: a batch sampler or a sampler.
            generator: the loader's own.
            workers: how many there are.
            standing: where to begin.
            counted: whether batches have numbers, as those of a map-style dataset have; those of an iterable one end when they end.
        """
        self._generator, self._from, self._counted = generator, standing, counted
        self._inner: Any = sampler if stateful(sampler) else getattr(sampler, "sampler", None)
        self._default, self._own = standing.default, standing.generator
        self._states: dict[int, Any] = {}
        self._given, self._beyond = standing.batches, set(standing.beyond)
        self._drawn = -1
        self._workers = list(standing.workers or [(None, 0)] * max(workers, 1))
        self._worker = standing.worker
        self.finished = False
        self.seed = standing.seed
        if standing.sampler is not None and standing.sampler["of"] == "sampler":
            _given_state(self._inner, standing.sampler["state"])

    def draw(self, indices: Iterator[Any]) -> tuple[int, Any]:
        """Return the next batch's number in the epoch, and its indices.

        Raises:
            StopIteration: there are no more.
        """
        if not self._counted:
            return 0, next(indices)
        if self._drawn < 0:
            with self._randomness():
                self._forward(indices)
                return self._draw(indices)
        return self._draw(indices)

    def _draw(self, indices: Iterator[Any]) -> tuple[int, Any]:
        index = next(indices)
        while self._drawn in self._beyond:
            self._drawn += 1
            index = next(indices)
        self._drawn += 1
        if (state := self._state(indices)) is not None:
            self._states[self._drawn] = state
        return self._drawn - 1, index

    @contextlib.contextmanager
    def _randomness(self) -> Iterator[None]:
        """Note where random numbers stand when a sampler is first asked; or have them stand where they stood, while it is asked again."""
        if not self._default:
            self._default, self._own = self._numbers()
            yield
            return
        before = torch.get_rng_state()
        torch.set_rng_state(heard(self._default))
        if self._generator is not None and self._own:
            self._generator.set_state(heard(self._own))
        try:
            yield
        finally:
            torch.set_rng_state(before)

    def _numbers(self) -> tuple[str, str]:
        """Return where random numbers stand: those of the default generator, and of the loader's."""
        return told(torch.get_rng_state()), "" if self._generator is None else told(self._generator.get_state())

    def _forward(self, indices: Iterator[Any]) -> None:
        """Go to where the epoch is to begin."""
        self._drawn = self._from.batches
        saved = self._from.sampler
        if saved is None:
            for _ in range(self._drawn):
                next(indices)
        elif saved["of"] == "iterator":
            _given_state(indices, saved["state"])

    def _state(self, indices: Iterator[Any]) -> Any:
        if stateful(indices):
            return {"of": "iterator", "state": copy.deepcopy(indices.state_dict())}  # type: ignore[attr-defined]
        if stateful(self._inner):
            return {"of": "sampler", "state": copy.deepcopy(self._inner.state_dict())}
        return None

    def give(self, number: int, worker: int, state: Any) -> None:
        """Note that a batch was given to the consumer, or failed: what a worker says of itself behind it is None where it says nothing."""
        before, since = self._workers[worker]
        self._workers[worker] = (before, since + 1) if state is None else (state, 0)
        self._worker = worker
        self._beyond.add(number if self._counted else self._given)
        while self._given in self._beyond:
            self._beyond.discard(self._given)
            self._given += 1
        for old in [each for each in self._states if each < self._given]:
            del self._states[old]

    def standing(self) -> Standing:
        """Return where the epoch stands; of one that is finished, where the loader's generator does, which the next one draws from."""
        if self.finished:
            return Standing(finished=True, generator="" if self._generator is None else told(self._generator.get_state()))
        default, own = self._default, self._own
        if self._counted and not default:  # nothing was drawn yet: what is drawn next begins with the random numbers of now
            default, own = self._numbers()
        sampler = self._states.get(self._given, self._from.sampler if self._given == self._from.batches else None)
        workers = tuple(self._workers)
        return Standing(self._given, tuple(sorted(self._beyond)), self.seed, default, own, sampler, workers, self._worker, self.finished)

    @property
    def next_worker(self) -> int:
        """The worker whose turn it is: they take turns."""
        return (self._worker + 1) % len(self._workers)


def _given_state(sampler: Any, state: Any) -> None:
    """Give a sampler, or its iterator, the state that was saved of one.

    Raises:
        BadRequest: it takes none.
    """
    if not stateful(sampler):
        raise BadRequest(f"the state has one of a sampler, and {type(sampler).__name__} takes none; use the sampler that the state was saved with")
    sampler.load_state_dict(state)


def to_json(standing: Standing) -> dict[str, Any]:
    """Return a standing as a dict."""
    return {**standing._asdict(), "beyond": list(standing.beyond), "workers": [list(each) for each in standing.workers]}


def from_json(saved: Mapping[str, Any]) -> Standing:
    """Return the standing that `to_json` made a dict of."""
    values = {name: saved[name] for name in Standing._fields}
    return Standing(**{**values, "beyond": tuple(values["beyond"]), "workers": tuple((each[0], each[1]) for each in values["workers"])})
