"""The channel that ranks of one group share batches through: torch.distributed's broadcasts, along one mesh dimension after the other.

A batch is a short header, which says where in the order it stands, then the bytes of its columns, straight from the memory that the leader's batch lies in and into that of the receiver's: no pickle,
and one copy. Ranks whose loops part company notice it at the next batch, and say so. A broadcast that somebody does not join ends by the timeout of the process group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from ..errors import BadRequest
from .batch import Batch, Ragged
from .faults import rebuild
from .shared import Channel, Place
from .slots import Output

_BATCH, _ERROR = 0, 1

_HEAD = 2 + len(Place._fields)
"""Numbers of a header before the sizes of ragged columns: its kind, the rows or bytes that follow, and the place."""


class _Hop(NamedTuple):
    """One broadcast: its group, and the rank in it that has the batch already."""

    group: Any
    source: int


@final
class MeshChannel(Channel):
    """Shares batches among the ranks of a mesh that have the same data-parallel place."""

    def __init__(self, mesh: Any, dimensions: Sequence[str], outputs: Mapping[str, Output]) -> None:
        """Find the groups.

        Args:
            mesh: the mesh.
            dimensions: those along which ranks have the same batches.
            outputs: what a batch holds.

        Raises:
            BadRequest: there are none, or their groups cannot carry what lies in main memory.
        """
        if mesh is None or not dimensions:
            have = mesh and mesh.mesh_dim_names
            raise BadRequest(
                f"broadcast=True needs topology=DeviceMesh, and no dimension of {have} holds ranks that have the same batches; leave it out"
            )
        places = [int(mesh.get_local_rank(name)) for name in dimensions]
        self.leads = not any(places)
        self._outputs = dict(outputs)
        self._hops: list[_Hop] = []
        for number, name in enumerate(dimensions):
            if any(places[number + 1 :]):
                continue  # these get it along a later dimension
            group = mesh.get_group(name)
            if "gloo" not in str(dist.get_backend_config(group)):
                raise BadRequest(
                    f"broadcast=True sends batches from main memory, which the backend {dist.get_backend(group)!r} of mesh dimension {name!r} cannot: "
                    "use init_process_group('cpu:gloo,cuda:nccl')"
                )
            self._hops.append(_Hop(group, dist.get_global_rank(group, 0)))

    def _send(self, array: npt.NDArray[Any]) -> None:
        """Have all ranks of the group hold the leader's bytes."""
        if array.nbytes:
            tensor = torch.from_numpy(array.reshape(-1).view(np.uint8))
            for hop in self._hops:
                dist.broadcast(tensor, src=hop.source, group=hop.group)

    def batch(self, place: Place, made: Batch | None) -> Batch:
        """Return what the leader gives.

        Raises:
            BadRequest: the leader's batch stands at another place.
        """
        ragged = [name for name, output in self._outputs.items() if output.ragged]
        header = np.zeros(_HEAD + len(ragged), np.int64)
        if made is not None:
            columns = [np.ascontiguousarray(value.values if isinstance(value, Ragged) else value) for value in made.values()]
            first = next(iter(made.values()))
            header[:_HEAD] = _BATCH, len(first.offsets) - 1 if isinstance(first, Ragged) else len(first), *place
            header[_HEAD:] = [made[name].values.size for name in ragged]
            self._send(header)
            for name, column in zip(made, columns, strict=True):
                if isinstance(made[name], Ragged):
                    self._send(np.ascontiguousarray(made[name].offsets))
                self._send(column)
            return made
        self._send(header)
        if header[0] == _ERROR:
            text = np.empty(int(header[1]), np.uint8)
            self._send(text)
            raise rebuild(json.loads(text.tobytes()))
        rows, sizes = int(header[1]), dict(zip(ragged, header[_HEAD:].tolist(), strict=True))
        found: Batch = {}
        for name, output in self._outputs.items():
            offsets = np.empty(rows + 1, np.int64)
            if output.ragged:
                self._send(offsets)
            values = np.empty(sizes[name] if output.ragged else (rows, *output.shape), output.dtype)
            self._send(values)
            found[name] = Ragged(values, offsets) if output.ragged else values
        theirs = Place(*header[2:_HEAD].tolist())
        if theirs != place:  # only now, since the others of the group are in the same broadcasts
            raise BadRequest(
                f"broadcast=True: the rank that reads sent step {theirs.step} of epoch {theirs.epoch} (entered at sample {theirs.start}), and this one "
                f"is at step {place.step} of epoch {place.epoch} (entered at sample {place.start}): all ranks of the group must iterate, break off and "
                "load states alike"
            )
        return found

    def fail(self, told: Mapping[str, Any]) -> None:
        """Have the others meet an error."""
        text = np.frombuffer(json.dumps(told).encode(), np.uint8).copy()
        header = np.zeros(_HEAD + sum(output.ragged for output in self._outputs.values()), np.int64)
        header[:2] = _ERROR, text.size
        self._send(header)
        self._send(text)
