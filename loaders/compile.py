"""From what the user asked for to the `Work` that inline loader and workers carry out, checked before anything runs.

Only a `map` reads data here: its first result says what batches hold, so the first row is read and transformed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import order
from ..errors import BadRequest
from ..shards.dataset import Dataset
from ..shards.windows import TokenWindows
from ..transforms.base import Op, Ragged, Spec
from ..transforms.chain import Chain, compile_chain
from ..transforms.map import DeclaredMap, Map
from .apply import Steps, sample_of
from .lookup import Lookup
from .plan import Tail
from .slots import Output
from .window_gather import WindowLookup
from .work import Work, as_read, work_of


def compile_work(
    dataset: Dataset | TokenWindows,
    transforms: Mapping[str, Sequence[Op]],
    function: Map | Callable[..., Mapping[str, Any]] | None,
    *,
    seed: int,
    shuffle: bool,
    tail: Tail,
) -> Work:
    """Return the work of a loader.

    Raises:
        BadRequest: a transform names a column that is not read or does not fit it, or a name is taken.
    """
    chains = _chains(dataset, transforms)
    mapping = None if function is None else _declared(dataset, chains, function, seed)
    steps = Steps(fields=dict(dataset.fields), chains=chains, mapping=mapping)
    return work_of(dataset, steps, _outputs(dataset, chains, mapping), seed=seed, shuffle=shuffle, tail=tail)


def _chains(dataset: Dataset | TokenWindows, transforms: Mapping[str, Sequence[Op]]) -> dict[str, Chain]:
    if not isinstance(transforms, Mapping):
        raise BadRequest(f"transforms={transforms!r} is not a dict from column to a list of ops, such as {{'image': [Resize(256), CenterCrop(224)]}}")
    unknown = [name for name in transforms if name not in dataset.fields]
    if unknown:
        raise BadRequest(f"transforms name {unknown}, but the columns that are read are {list(dataset.fields)}")
    return {name: compile_chain(name, dataset.fields[name], [ops] if isinstance(ops, Op) else ops) for name, ops in transforms.items()}


def _declared(
    dataset: Dataset | TokenWindows, chains: Mapping[str, Chain], function: Map | Callable[..., Mapping[str, Any]], seed: int
) -> DeclaredMap:
    mapping = function if isinstance(function, Map) else Map(function)
    if len(dataset) == 0:
        raise BadRequest(f"map={mapping.fn!r} needs a first row to say what it returns, and {dataset.path} has none")
    key = order.augment_key(seed, 0)
    lookup = WindowLookup(dataset) if isinstance(dataset, TokenWindows) else Lookup(dataset)
    sample, _ = sample_of(lookup.places(np.zeros(1, np.int64))[0], dataset.fields, chains, key)
    return mapping.declare(sample, key, 0)


def _outputs(dataset: Dataset | TokenWindows, chains: Mapping[str, Chain], mapping: DeclaredMap | None) -> dict[str, Output]:
    if mapping is not None:
        return {name: _of_spec(spec) for name, spec in mapping.outputs.items()}
    return {name: _of_spec(chains[name].output) if name in chains else as_read(dataset, name) for name in dataset.fields}


def _of_spec(spec: Spec | Ragged) -> Output:
    if isinstance(spec, Ragged):
        return Output(shape=(), dtype=spec.dtype, ragged=True)
    return Output(shape=spec.fixed_shape, dtype=spec.dtype)
