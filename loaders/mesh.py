"""A torch `DeviceMesh` read as a place: which of its dimensions share the data, which see the same, and which share a sequence.

Known by duck type, so that nothing here imports torch. Names are those of torch's own recipes, torchtitan and Accelerate; others are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import BadRequest

DATA = ("dp", "ddp", "fsdp", "hsdp", "data", "replicate", "shard", "dp_replicate", "dp_shard")
"""Dimensions along which ranks get batches of their own."""

MODEL = ("tp", "pp", "sp", "ep", "etp", "tensor", "pipeline", "expert")
"""Dimensions along which ranks get the same batches."""

CONTEXT = ("cp", "context")
"""Dimensions along which ranks get parts of the same sequences."""


def is_mesh(value: object) -> bool:
    """Return whether a value is a device mesh."""
    return hasattr(value, "mesh_dim_names") and hasattr(value, "get_local_rank")


def dimensions(mesh: Any, data: Sequence[str] | None, context: Sequence[str] | None) -> tuple[list[str], list[str], list[str]]:
    """Return the dimensions along which ranks have batches of their own, parts of sequences, and the same.

    Args:
        mesh: with names.
        data: what shares the data, when the names do not tell; all that is neither that nor `context` then sees the same.
        context: what shares sequences.

    Raises:
        BadRequest: a dimension has no name, or one that is not known; or one is named that the mesh does not have.
    """
    names = list(mesh.mesh_dim_names or ())
    if not names:
        raise BadRequest(f"a DeviceMesh of shape {tuple(mesh.shape)} without names: give mesh_dim_names=, such as ('dp', 'tp')")
    unknown = [name for name in (*(data or ()), *(context or ())) if name not in names]
    if unknown:
        raise BadRequest(f"{unknown} are no dimensions of the mesh, which has {names}")
    own = list(data) if data is not None else [name for name in names if name in DATA]
    parts = list(context) if context is not None else [name for name in names if name in CONTEXT and name not in own]
    same = [name for name in names if name not in own and name not in parts]
    strange = [name for name in same if name not in MODEL] if data is None else []
    if strange:
        raise BadRequest(
            f"mesh dimensions {strange} of {names}: is each rank along them given batches of its own, or the same ones? "
            "Say so with topology=Topology.of_mesh(mesh, data=[...], context=[...])"
        )
    return own, parts, same


def index(mesh: Any, names: Sequence[str]) -> tuple[int, int]:
    """Return this rank's number along some dimensions together, the last one fastest, and how many there are."""
    rank, size = 0, 1
    for name in names:
        length = int(mesh.shape[mesh.mesh_dim_names.index(name)])
        rank, size = rank * length + int(mesh.get_local_rank(name)), size * length
    return rank, size
