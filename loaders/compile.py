"""From what the user asked for to the `Work` that inline loader and workers carry out, checked before anything runs.

Only a `map` reads data here: its first result says what batches hold, so the first row is read and transformed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import order
from ..errors import BadRequest
from ..transforms.base import Op, Ragged, Spec
from ..transforms.chain import Chain, compile_chain
from ..transforms.map import DeclaredMap, Map
from ..transforms.tokens import From
from .apply import Steps, sample_of
from .law import Ordering
from .plan import Tail
from .slots import Output
from .ways import Source, lookup_of
from .work import Work, as_read, work_of


def compile_work(
    dataset: Source,
    transforms: Mapping[str, Sequence[Op]],
    function: Map | Callable[..., Mapping[str, Any]] | None,
    *,
    ordering: Ordering,
    tail: Tail,
) -> Work:
    """Return the work of a loader.

    Raises:
        BadRequest: a transform names a column that is not read or does not fit it, or a name is taken.
    """
    chains = _chains(dataset, transforms)
    mapping = None if function is None else _declared(dataset, chains, function, ordering.seed)
    steps = Steps(fields=dict(dataset.fields), chains=chains, mapping=mapping)
    return work_of(dataset, steps, _outputs(dataset, chains, mapping), ordering=ordering, tail=tail)


def _chains(dataset: Source, transforms: Mapping[str, Sequence[Op]]) -> dict[str, Chain]:
    check_mapping(transforms)
    return {name: _chain(dataset, name, [ops] if isinstance(ops, Op) else list(ops)) for name, ops in transforms.items()}


def check_mapping(transforms: object) -> None:
    """Refuse transforms that are not told by column.

    Raises:
        BadRequest: they are not.
    """
    if not isinstance(transforms, Mapping):
        raise BadRequest(f"transforms={transforms!r} is not a dict from column to a list of ops, such as {{'image': [Resize(256), CenterCrop(224)]}}")


def _chain(dataset: Source, name: str, ops: Sequence[Op]) -> Chain:
    fields, source = dataset.fields, name
    if ops and isinstance(ops[0], From):
        source, ops = ops[0].column, ops[1:]
        if name in fields:
            raise BadRequest(f"column {name!r}: From({source!r}) begins a column that is new, and the dataset has this one; give it another name")
    if source not in fields:
        raise BadRequest(
            f"transforms name {source!r}, but the columns that are read are {list(fields)}; a new column begins with From('one of them')"
        )
    return compile_chain(name, fields[source], ops, source)


def _declared(dataset: Source, chains: Mapping[str, Chain], function: Map | Callable[..., Mapping[str, Any]], seed: int) -> DeclaredMap:
    mapping = function if isinstance(function, Map) else Map(function)
    if len(dataset) == 0:
        raise BadRequest(f"map={mapping.fn!r} needs a first row to say what it returns, and {dataset.path} has none")
    key = order.augment_key(seed, 0)
    sample, _ = sample_of(lookup_of(dataset).places(np.zeros(1, np.int64))[0], dataset.fields, chains, key)
    return mapping.declare(sample, key, 0)


def _outputs(dataset: Source, chains: Mapping[str, Chain], mapping: DeclaredMap | None) -> dict[str, Output]:
    if mapping is not None:
        return {name: _of_spec(spec) for name, spec in mapping.outputs.items()}
    return {name: _of_spec(chains[name].output) if name in chains else as_read(dataset, name) for name in {**dataset.fields, **chains}}


def _of_spec(spec: Spec | Ragged) -> Output:
    if isinstance(spec, Ragged):
        return Output(shape=(), dtype=spec.dtype, ragged=True)
    return Output(shape=spec.fixed_shape, dtype=spec.dtype)
