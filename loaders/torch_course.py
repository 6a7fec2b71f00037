"""How far an epoch over a stranger's dataset has come: what was drawn from the sampler, what the consumer was given, and how to go on from there.

A sampler (or its iterator) that has `state_dict` and `load_state_dict` is asked; any other is run again from where random numbers stood when it was first
asked, over as many batches as were given: those of torch's default generator, of the loader's and of the samplers' own. Drawing runs ahead of giving,
so states are kept until their batch was given.

Cost: a generator's state (4 KB of text for each) once an epoch. Refused: copying samplers, which may hold anything.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import zlib
from collections.abc import Iterator, Sequence
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
        generators: the states of the loader's generator and the samplers' own.
        sampler: the sampler's own state behind the batches that were given; None where it has none.
        workers: what each worker's dataset says of itself, and batches since; without workers, of the only one.
        worker: the worker that gave the last batch; -1 for none.
        finished: whether the consumer has seen the end: the states are those that the next epoch begins with.
    """

    batches: int = 0
    beyond: tuple[int, ...] = ()
    seed: int | None = None
    default: str = ""
    generators: tuple[str, ...] = ()
    sampler: Any = None
    workers: tuple[tuple[Any, int], ...] = ()
    worker: int = -1
    finished: bool = False

    def next_epoch(self) -> Standing:
        """Return where the epoch behind a finished one begins."""
        return Standing(sampler=self.sampler, workers=self.workers)


def stateful(value: object) -> bool:
    """Return whether something can save its state and load one."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def told(state: torch.Tensor) -> str:
    """Return a generator's state, uint8 `[bytes]`, as text."""
    return base64.b85encode(zlib.compress(state.numpy().tobytes(), 1)).decode()


def heard(text: str) -> torch.Tensor:
    """Return the generator's state, uint8 `[bytes]`, that `told` made text of."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b85decode(text))), dtype=torch.uint8)


def chain_of(loader: Any) -> list[Any]:
    """Return the samplers of a loader, from the outermost on, each once."""
    found = [loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None), loader.sampler]
    return list({id(each): each for each in found if each is not None}.values())


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators that decide which rows a loader draws: its own, and its samplers'; each once."""
    found = [loader.generator, *(getattr(each, "generator", None) for each in chain_of(loader))]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def without_iterators(workers: Sequence[tuple[Any, int]]) -> tuple[tuple[Any, int], ...]:
    """Return what is left of workers' states when an epoch ends, and its iterators with it: those of their datasets."""
    return tuple((None if state is None or state["dataset"] is None else {**state, "iterator": None}, 0) for state, _ in workers)


@final
class Course:
    """One epoch's draws and deliveries.

    Attributes:
        finished: whether the consumer has seen the end.
        seed: what the workers' random numbers come from.
    """

    def __init__(self, loader: Any, standing: Standing, *, counted: bool) -> None:
        """Begin at the beginning, or where an earlier run stood.

        Args:
            loader: whose epoch it is.
            standing: where to begin.
            counted: whether batches have numbers, as those of a map-style dataset have; those of an iterable one end when they end.

        Raises:
            BadRequest: the state has one of a sampler, and the loader's sampler takes none.
        """
        self._from, self._counted = standing, counted
        self._inner: Any = next((each for each in chain_of(loader) if stateful(each)), None)
        self._generators = generators_of(loader)
        self._default, self._own = standing.default, standing.generators
        self._states: dict[int, Any] = {}
        self._given, self._beyond = standing.batches, set(standing.beyond)
        self._drawn = -1
        self.workers = list(standing.workers or [(None, 0)] * max(loader.num_workers, 1))
        """What each worker's dataset says of itself, and batches since."""
        self._worker = standing.worker
        self.finished = False
        self.seed = standing.seed
        if standing.sampler is not None and standing.sampler["of"] == "sampler":
            _given_state(self._inner, standing.sampler["state"])

    def begin_with(self, seed: int, default: str = "") -> None:
        """Note the workers' seed, and where the default generator stood before an iterable dataset was first asked, in this process."""
        self.seed, self._default = seed, default or self._default
        if not self._counted:
            for generator, state in zip(self._generators, self._from.generators, strict=False):
                generator.set_state(heard(state))

    def draw(self, indices: Iterator[Any]) -> tuple[int, Any]:
        """Return the next batch's number in the epoch, and its indices.

        Raises:
            StopIteration: there are no more.
            BadRequest: the state has one of a sampler's iterator, and this one takes none.
        """
        if not self._counted:
            return 0, next(indices)
        if self._drawn < 0:
            with self._randomness():
                self._forward(indices)
                return self._draw(indices)
        return self._draw(indices)

    def _draw(self, indices: Iterator[Any]) -> tuple[int, Any]:
        while True:
            index = next(indices)
            self._drawn += 1
            self._note(indices)
            if self._drawn - 1 not in self._beyond:
                return self._drawn - 1, index

    def _note(self, indices: Iterator[Any]) -> None:
        """Keep the sampler's state behind so many batches."""
        if stateful(indices):
            self._states[self._drawn] = {"of": "iterator", "state": copy.deepcopy(indices.state_dict())}  # type: ignore[attr-defined]
        elif self._inner is not None:
            self._states[self._drawn] = self._sampler()

    def _sampler(self) -> Any:
        """Return the sampler's state as it is now; None where it has none."""
        return None if self._inner is None else {"of": "sampler", "state": copy.deepcopy(self._inner.state_dict())}

    @contextlib.contextmanager
    def _randomness(self) -> Iterator[None]:
        """Note where random numbers stand when a sampler is first asked; or have them stand where they stood, while it is asked again."""
        if not self._default:
            self._default, self._own = self._numbers()
            yield
            return
        for generator, state in zip(self._generators, self._own, strict=False):
            generator.set_state(heard(state))
        before = torch.get_rng_state()
        torch.set_rng_state(heard(self._default))
        try:
            yield
        finally:
            torch.set_rng_state(before)

    def _numbers(self) -> tuple[str, tuple[str, ...]]:
        """Return where random numbers stand: those of the default generator, and of the others."""
        return told(torch.get_rng_state()), tuple(told(generator.get_state()) for generator in self._generators)

    def _forward(self, indices: Iterator[Any]) -> None:
        """Go to where the epoch is to begin."""
        self._drawn, saved = self._from.batches, self._from.sampler
        if saved is None:
            for _ in range(self._drawn):
                next(indices)
        elif saved["of"] == "iterator":
            _given_state(indices, saved["state"])
        self._note(indices)

    def give(self, number: int, worker: int, state: Any) -> None:
        """Note that a batch was given to the consumer, or failed: what a worker says of itself behind it is None where it says nothing."""
        before, since = self.workers[worker]
        self.workers[worker] = (before, since + 1) if state is None else (state, 0)
        self._worker = worker
        self._beyond.add(number if self._counted else self._given)
        while self._given in self._beyond:
            self._beyond.discard(self._given)
            self._given += 1
        for old in [each for each in self._states if each < self._given]:
            del self._states[old]

    def standing(self) -> Standing:
        """Return where the epoch stands."""
        if self.finished:
            workers = without_iterators(self.workers)
            return Standing(generators=self._numbers()[1], sampler=self._sampler(), workers=workers, finished=True)
        sampler = self._states.get(self._given, self._from.sampler if self._given == self._from.batches else None)
        if sampler is None and self._drawn < 0:
            sampler = self._sampler()
        default, own = self._default, self._own
        if not self._counted:
            own = self._numbers()[1]  # nothing is drawn from them but seeds
        elif not default:  # nothing was drawn yet: what is drawn next begins with the random numbers of now
            default, own = self._numbers()
        return Standing(
            batches=self._given,
            beyond=tuple(sorted(self._beyond)),
            seed=self.seed,
            default=default,
            generators=own,
            sampler=sampler,
            workers=tuple(self.workers),
            worker=self._worker,
        )

    @property
    def next_worker(self) -> int:
        """The worker whose turn it is: they take turns."""
        return (self._worker + 1) % len(self.workers)


def _given_state(sampler: Any, state: Any) -> None:
    """Give a sampler, or its iterator, the state that was saved of one.

    Raises:
        BadRequest: it takes none.
    """
    if not stateful(sampler):
        named = "this loader's" if sampler is None else type(sampler).__name__
        raise BadRequest(f"the state has one of a sampler, and {named} takes none; use the sampler that the state was saved with")
    sampler.load_state_dict(state)


def to_json(standing: Standing) -> dict[str, Any]:
    """Return a standing as a dict of what JSON holds, but for the states of strangers."""
    lists = {"beyond": list(standing.beyond), "generators": list(standing.generators), "workers": [list(each) for each in standing.workers]}
    return {**standing._asdict(), **lists}


def _count(value: Any, least: int) -> int:
    """Return a whole number that is not below the least."""
    if type(value) is not int or value < least:
        raise ValueError(f"{value!r} is no count")
    return value


def from_json(saved: Any) -> Standing:
    """Return the standing that `to_json` made a dict of.

    Raises:
        BadRequest: it is none; the part at fault is named.
    """
    try:
        values = {name: saved[name] for name in Standing._fields}
        values["batches"], values["worker"] = _count(values["batches"], 0), _count(values["worker"], -1)
        values["beyond"], values["generators"] = tuple(map(int, values["beyond"])), tuple(map(str, values["generators"]))
        values["workers"] = tuple((state, _count(since, 0)) for state, since in values["workers"])
        for text in filter(None, (values["default"], *values["generators"])):
            heard(text)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise BadRequest(f"this state is not whole ({type(error).__name__}: {error}); save one with state_dict()") from error
    return Standing(**values)
