"""A user's own function on samples or on batches, held to the shapes that its first result had.

The function gets a dict of arrays and returns a dict of arrays. What it returns for the first sample declares every output's shape and dtype, so
that slots can be laid out before training starts; every later result is checked against that, and one that differs is bad data with the field's
name, never a silent reshape. With `random=True` the function is handed a numpy Generator keyed by (key, sample), the only randomness that
repeats after a resume and on any number of workers.

Costs what the function costs, plus a few microseconds a field for the check. The function itself travels to workers by cloudpickle; data never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadData, BadRequest
from .base import Array, Spec
from .random import Random

_OP = 0xFFFFFFFF
"""The op number of a map's draws: no chain is so long."""

Rows = Mapping[str, Any]
"""Columns by name: what a function gets and returns."""


@dataclass(frozen=True)
class Map:
    """A function on a whole sample, or on a whole batch.

    Attributes:
        fn: takes a dict of arrays and returns a dict of arrays; with `random`, takes a numpy Generator (batched: a list of them, one a sample) too.
        batched: the dict's arrays have a first dimension of samples, going in and coming out; strings, bytes, documents and runs of unlike length
            go in as lists.
        random: hand `fn` its randomness.
    """

    fn: Callable[..., Rows]
    batched: bool = False
    random: bool = False

    def __post_init__(self) -> None:
        """Check that there is something to call."""
        if not callable(self.fn):
            raise BadRequest(f"Map: fn={self.fn!r} cannot be called; give a function from a dict of arrays to a dict of arrays")

    def declare(self, given: Rows, key: int, sample: int) -> DeclaredMap:
        """Call the function once, on one sample, and hold all later results to what it returned.

        Args:
            given: one sample: name to array, without a dimension of samples.
            key: 64 bits folded from seed and epoch.
            sample: the sample's number in the dataset.

        Raises:
            BadRequest: it returned no dict of numeric arrays; names the field.
        """
        rows = {name: stacked([value]) for name, value in given.items()} if self.batched else given
        result = self._call(rows, [key], [sample])
        if not isinstance(result, Mapping) or not result:
            raise BadRequest(f"map={_name(self.fn)} returned {type(result).__name__}, not a dict of arrays by name")
        outputs = {}
        for name, value in result.items():
            array = _array(value)
            if not isinstance(name, str) or array is None or (self.batched and array.shape[:1] != (1,)):
                got = f"{array.dtype} {list(array.shape)}" if array is not None else type(value).__name__
                wanted = "an array whose first dimension counts the batch's samples (1 here)" if self.batched else "an array or a number"
                raise BadRequest(f"map={_name(self.fn)}: field {name!r} is {got}, not {wanted}")
            outputs[name] = Spec(array.shape[1:] if self.batched else array.shape, array.dtype.name)
        return DeclaredMap(map=self, outputs=outputs)

    def _call(self, rows: Rows, keys: Sequence[int], samples: Sequence[int]) -> Any:
        if not self.random:
            return self.fn(rows)
        generators = [Random(key, sample, _OP).generator() for key, sample in zip(keys, samples, strict=True)]
        return self.fn(rows, generators if self.batched else generators[0])


@dataclass(frozen=True, kw_only=True)
class DeclaredMap:
    """A map whose outputs are known.

    Attributes:
        map: the function and how to call it.
        outputs: shape and dtype of each field of one sample, all dimensions known.
    """

    map: Map
    outputs: dict[str, Spec]

    def run(self, given: Rows, key: int, sample: int) -> dict[str, Array]:
        """Return the outputs of one sample.

        Raises:
            BadData: they differ from what was declared; names the field, what was expected and what came.
        """
        rows = {name: stacked([value]) for name, value in given.items()} if self.map.batched else given
        checked = self._checked(self.map._call(rows, [key], [sample]), (1,) if self.map.batched else ())  # noqa: SLF001 - a map and its declared self
        return {name: value[0] for name, value in checked.items()} if self.map.batched else checked

    def run_batch(self, given: Rows, keys: Sequence[int], samples: Sequence[int]) -> dict[str, Array]:
        """Return the outputs of a batch, each with a first dimension of samples; a map on samples is called for each, with its key.

        Raises:
            BadData: they differ from what was declared; names the field, what was expected and what came.
        """
        if self.map.batched:
            return self._checked(self.map._call(given, keys, samples), (len(samples),))  # noqa: SLF001 - a map and its declared self
        rows = [
            self.run({name: column[n] for name, column in given.items()}, key, sample)
            for n, (key, sample) in enumerate(zip(keys, samples, strict=True))
        ]
        return {name: np.stack([row[name] for row in rows]) for name in self.outputs}

    def _checked(self, result: Any, leading: tuple[int, ...]) -> dict[str, Array]:
        name = _name(self.map.fn)
        if not isinstance(result, Mapping) or result.keys() != self.outputs.keys():
            got = sorted(result) if isinstance(result, Mapping) else type(result).__name__
            raise BadData(f"map={name} returned {got}; on the first sample it returned fields {sorted(self.outputs)}")
        checked = {}
        for field, spec in self.outputs.items():
            array, shape = _array(result[field]), (*leading, *spec.fixed_shape)
            if array is None or array.shape != shape or array.dtype.name != spec.dtype:
                got = f"{array.dtype} {list(array.shape)}" if array is not None else type(result[field]).__name__
                raise BadData(f"map={name} returned {got}; on the first sample it was {spec.dtype} {list(shape)}; all must agree", field=field)
            checked[field] = array
        return checked


def stacked(values: Sequence[Any]) -> Any:
    """Return a batch's values as a batched function gets them: numbers and arrays of one shape as an array `[B, ...]`, anything else as a list."""
    if isinstance(values[0], (str, bytes, dict, list)) or len({np.shape(value) for value in values}) > 1:
        return list(values)
    return np.stack([np.asarray(value) for value in values])


def _array(value: object) -> Array | None:
    """Return a numeric array, or None."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _name(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
