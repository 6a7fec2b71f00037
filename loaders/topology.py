"""Who shares the data: the data-parallel rank of this process and how many there are.

Explicit numbers win. Otherwise whoever started this process is asked: torch.distributed if it has been initialised, torchrun, Horovod, Open MPI, JAX,
TF_CONFIG; those that speak must say the same. SLURM is asked last, since srun as often starts launchers as processes: `srun torchrun` on two nodes is
two tasks to SLURM and sixteen ranks to torchrun, and no contradiction. Where both know the same number of processes, srun started them itself, and another rank is
one; but for torchrun's agents, which number themselves. Without any of them this is one process. Nothing is imported for it: a process that never imported torch has
not initialised torch.distributed.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadRequest
from . import mesh as meshes

_LOG = logging.getLogger("penstock")

LAUNCHERS = {
    "torchrun environment": ("RANK", "WORLD_SIZE"),
    "Horovod": ("HOROVOD_RANK", "HOROVOD_SIZE"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "JAX environment": ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"),
}
"""What launchers tell the processes that they start: the variables of the rank and of the world size."""

SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
"""Of a step that srun started. A batch script has the job's variables without being a step, and is one process whatever they say."""

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""What torchrun sets beside ranks, and nobody else."""

_TRAINS = ("chief", "master", "worker")
"""The tasks of a TF_CONFIG that share the data, in the order of their ranks."""

_TOLD: set[str] = set()
"""Topologies that were logged by this process."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A place among data-parallel processes.

    Attributes:
        rank: this process, in [0, world_size).
        world_size: how many share the data.
        source: where the numbers come from, for `repr` and messages.
        context_rank: this process among those that share the same sequences.
        context_size: how many share them; each has a part.
        mesh: the `DeviceMesh` that says so, if one does.
        same: dimensions of the mesh along which ranks have the same batches, or parts of them.
    """

    rank: int = 0
    world_size: int = 1
    source: str = "explicit"
    context_rank: int = 0
    context_size: int = 1
    mesh: Any = field(default=None, compare=False, repr=False)
    same: tuple[str, ...] = ()

    @property
    def first_of_its_group(self) -> bool:
        """Whether this process has the first place among those that have the same batches."""
        return self.mesh is None or not any(self.mesh.get_local_rank(name) for name in self.same)

    def __str__(self) -> str:
        """Return the place in words."""
        part = f", part {self.context_rank} of {self.context_size} of each sequence" if self.context_size > 1 else ""
        return f"rank {self.rank} of {self.world_size}{part} ({self.source})"

    def __post_init__(self) -> None:
        """Refuse numbers that are no place."""
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise BadRequest(f"topology ({self.source}): rank {self.rank} of world size {self.world_size}; rank must be in [0, world size)")
        if self.context_size < 1 or not 0 <= self.context_rank < self.context_size:
            raise BadRequest(f"topology ({self.source}): part {self.context_rank} of {self.context_size} of each sequence; parts count from 0")

    @staticmethod
    def of_mesh(mesh: Any, data: Sequence[str] | None = None, context: Sequence[str] | None = None) -> Topology:
        """Return the place that a torch `DeviceMesh` gives this process.

        Ranks with the same place along data-parallel dimensions get the same batches; context-parallel ones get parts of the same sequences.

        Args:
            mesh: with named dimensions.
            data: the data-parallel ones, when their names are not usual ones: then all that are neither these nor `context` get the same.
            context: the context-parallel ones.

        Raises:
            BadRequest: a name is not known, or not there.
        """
        own, parts, same = meshes.dimensions(mesh, data, context)
        (rank, size), (part, part_size) = meshes.index(mesh, own), meshes.index(mesh, parts)
        told = "DeviceMesh(" + ", ".join(f"{name}={mesh.shape[number]}" for number, name in enumerate(mesh.mesh_dim_names)) + ")"
        return Topology(rank=rank, world_size=size, source=told, context_rank=part, context_size=part_size, mesh=mesh, same=(*parts, *same))


def detect(given: Any = None, environment: Mapping[str, str] | None = None) -> Topology:
    """Return the topology: `given` (a `Topology`, `(rank, world_size)` or a torch `DeviceMesh`), or what whoever started this process says; and log it once.

    Raises:
        BadRequest: the numbers do not fit, or two that should know contradict each other.
    """
    found = (
        given
        if isinstance(given, Topology)
        else Topology.of_mesh(given)
        if meshes.is_mesh(given)
        else _explicit(given)
        if given is not None
        else _asked(os.environ if environment is None else environment)
    )
    told = str(found)
    if (found.world_size > 1 or found.context_size > 1) and told not in _TOLD:
        _TOLD.add(told)
        _LOG.info("penstock: data is shared as %s", told)
    return found


def _asked(environment: Mapping[str, str]) -> Topology:
    """Return what the first of those says that speak; all of them must agree."""
    found = [_torch_distributed(), *(_variables(environment, source, *names) for source, names in LAUNCHERS.items()), _tf_config(environment)]
    speaking = [place for place in found if place is not None]
    step = _variables(environment, "SLURM", *SLURM)
    if speaking and step is not None and step.world_size == speaking[0].world_size and TORCHRUN not in environment:
        speaking.append(step)
    if len({(place.rank, place.world_size) for place in speaking}) > 1:
        each = "; ".join(f"{place.source} says rank {place.rank} of {place.world_size}" for place in speaking)
        raise BadRequest(f"{each}; pass topology=(rank, world_size) to say which is meant, or unset the variables of the others")
    for names in LAUNCHERS.values():
        _check_half(environment, names, speaking[0] if speaking else None)
    return speaking[0] if speaking else step or Topology(source="one process")


def _check_half(environment: Mapping[str, str], names: tuple[str, str], known: Topology | None) -> None:
    """Refuse one of a launcher's two numbers without the other, unless that is what is known anyway: so is a world of one, and what somebody else says whole.

    Lightning tells its processes WORLD_SIZE and initialises torch.distributed later.
    """
    told = {name: environment[name] for name in names if name in environment}
    if len(told) != 1:
        return
    (name, text), (missing,) = *told.items(), set(names) - set(told)
    expected = (1 if known is None else known.world_size) if name == names[1] else None if known is None else known.rank
    if text.strip() != str(expected):
        others = "nobody else says which process this is" if known is None else f"this is {known}"
        raise BadRequest(
            f"the environment holds {name}={text[:50]!r} and no {missing}, and {others}: make the loader where torch.distributed is initialised (with Lightning in "
            "train_dataloader()), pass topology=(rank, world_size), or set or unset both"
        )


def _explicit(given: tuple[int, int]) -> Topology:
    try:
        rank, world_size = (operator.index(number) for number in given)
    except (TypeError, ValueError):
        raise BadRequest(f"topology={given!r} is neither (rank, world_size), two integers, nor a DeviceMesh with named dimensions") from None
    return Topology(rank=rank, world_size=world_size)


def _variables(environment: Mapping[str, str], source: str, *names: str) -> Topology | None:
    rank, world_size = (environment.get(name) for name in names)
    if rank is None or world_size is None:
        return None
    try:
        return Topology(rank=int(rank), world_size=int(world_size), source=source)
    except (ValueError, BadRequest):
        raise BadRequest(
            f"the environment holds {names[0]}={rank!r} and {names[1]}={world_size!r}, which are no place among processes; unset them or mend them"
        ) from None


def _tf_config(environment: Mapping[str, str]) -> Topology | None:
    """Return the place that a TF_CONFIG gives: chief first, then the workers; an evaluator has all data to itself."""
    text = environment.get("TF_CONFIG")
    if not text:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    cluster, task = (told.get("cluster", {}), told.get("task", {})) if isinstance(told, dict) else (None, None)
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _no_config(text, "which is no cluster and task in JSON")
    kind, index = task.get("type", ""), task.get("index", 0)
    index = int(index) if isinstance(index, str) and index.isdecimal() and len(index) < 20 else index
    for name in _TRAINS:
        if not isinstance(cluster.get(name, []), list) or not all(isinstance(one, str) for one in cluster.get(name, [])):
            raise _no_config(text, f"whose {name!r} is no list of addresses")
    if not isinstance(kind, str) or type(index) is not int:
        raise _no_config(text, f"whose task has type {str(kind)[:50]!r} and index {str(index)[:50]!r}, which are no name and no integer")
    if not cluster or kind == "evaluator":
        return None
    if kind not in _TRAINS:
        raise BadRequest(f"TF_CONFIG says that this is task {kind!r}, which reads no data of its own; pass topology=(rank, world_size) if it shall")
    sizes = {name: len(cluster.get(name, [])) for name in _TRAINS}
    if not 0 <= index < sizes[kind]:
        raise _no_config(text, f"whose cluster has {sizes[kind]} of {kind!r} and no number {index}")
    if sizes["chief"] + sizes["master"] > 1:
        raise _no_config(text, f"whose cluster has {sizes['chief'] + sizes['master']} chiefs, where one leads")
    before = sum(sizes[name] for name in _TRAINS[: _TRAINS.index(kind)])
    return Topology(rank=before + index, world_size=sum(sizes.values()), source="TF_CONFIG")


def _no_config(text: str, why: str) -> BadRequest:
    return BadRequest(f"the environment holds TF_CONFIG={text[:200]!r}, {why}; unset it or mend it")


def _torch_distributed() -> Topology | None:
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    return Topology(rank=module.get_rank(), world_size=module.get_world_size(), source="torch.distributed")
