"""Transforms cut in two by column, for loaders whose images are finished on a device; imported by name, for those alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..fields import Image
from ..transforms.base import Op
from ..transforms.chain import Chain
from ..transforms.split import Rest, decodable, split
from ..transforms.tokens import From
from .compile import check_mapping
from .ways import Source


def split_transforms(dataset: Source, transforms: Mapping[str, Sequence[Op]]) -> tuple[dict[str, Sequence[Op]], dict[str, Rest]]:
    """Return the transforms that workers keep, and by column what is left for a device.

    Raises:
        BadRequest: a transform does not fit its column.
    """
    check_mapping(transforms)
    stays: dict[str, Sequence[Op]] = {}
    rests: dict[str, Rest] = {}
    for name, given in transforms.items():
        ops = [given] if isinstance(given, Op) else list(given)
        new = ops[:1] if ops and isinstance(ops[0], From) else []
        source = new[0].column if new and isinstance(new[0], From) else name
        cut = split(name, dataset.fields[source], ops[len(new) :], source) if source in dataset.fields else None
        stays[name] = ops if cut is None else [*new, *cut[0]]
        if cut is not None:
            rests[name] = cut[1]
    return stays, rests


def decoded_later(dataset: Source, transforms: Mapping[str, Sequence[Op]]) -> dict[str, Chain]:
    """Return by column what a device can do from the encoded bytes on; columns that are made from others, and whatever else stands in a chain, are left to workers."""
    found = {}
    for name, given in transforms.items():
        ops = [given] if isinstance(given, Op) else list(given)
        if isinstance(dataset.fields.get(name), Image) and not (ops and isinstance(ops[0], From)):
            chain = decodable(name, dataset.fields[name], ops)
            if chain is not None:
                found[name] = chain
    return found
