"""Who shares the data: the data-parallel rank of this process and how many there are.

Explicit numbers win; otherwise torch.distributed if it has been initialised, else torchrun's environment, else one process. Nothing is
imported for it: a process that never imported torch has not initialised torch.distributed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import BadRequest


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A place among data-parallel processes.

    Attributes:
        rank: this process, in [0, world_size).
        world_size: how many share the data.
        source: where the numbers come from, for `repr` and messages.
    """

    rank: int = 0
    world_size: int = 1
    source: str = "explicit"

    def __post_init__(self) -> None:
        """Refuse numbers that are no place."""
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise BadRequest(f"topology ({self.source}): rank {self.rank} of world size {self.world_size}; rank must be in [0, world size)")


def detect(given: Topology | tuple[int, int] | None = None, environment: Mapping[str, str] | None = None) -> Topology:
    """Return the topology: `given` (a `Topology` or `(rank, world_size)`), or what torch.distributed or torchrun's environment says.

    Raises:
        BadRequest: the numbers do not fit, or torch.distributed and the environment contradict each other.
    """
    if isinstance(given, Topology):
        return given
    if given is not None:
        return _explicit(given)
    told = _torchrun(os.environ if environment is None else environment)
    found = _torch_distributed()
    if found is not None and told is not None and (found.rank, found.world_size) != (told.rank, told.world_size):
        raise BadRequest(
            f"torch.distributed says rank {found.rank} of {found.world_size}, the environment (RANK, WORLD_SIZE) says rank {told.rank} of "
            f"{told.world_size}; pass topology=(rank, world_size) to say which is meant"
        )
    return found or told or Topology(source="one process")


def _explicit(given: tuple[int, int]) -> Topology:
    try:
        rank, world_size = (int(number) for number in given)
    except (TypeError, ValueError):
        raise BadRequest(f"topology={given!r} is not (rank, world_size)") from None
    return Topology(rank=rank, world_size=world_size)


def _torchrun(environment: Mapping[str, str]) -> Topology | None:
    rank, world_size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return None
    try:
        return Topology(rank=int(rank), world_size=int(world_size), source="torchrun environment")
    except ValueError:
        raise BadRequest(
            f"the environment holds RANK={rank!r} and WORLD_SIZE={world_size!r}, which are no place among processes; unset them or mend them"
        ) from None


def _torch_distributed() -> Topology | None:
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    return Topology(rank=module.get_rank(), world_size=module.get_world_size(), source="torch.distributed")
