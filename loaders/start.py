"""A name for this start of a group of processes, which all of them share and no other start has. Imports no torch: who has a process group has imported it.

Nothing that torchrun tells its workers is such a name: TORCHELASTIC_RUN_ID is the same for all starts, MASTER_PORT too where the agents share their store, and
TORCHELASTIC_RESTART_COUNT counts the failures of one agent's workers, so that after a failure on one node, or when a node joins, it differs between ranks of one start or is
the same for two. Cost: one broadcast.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

from ..errors import BadRequest


def start_of(together: Any) -> str:
    """Return a name that the first rank of a process group makes up, and all of them learn. Called by all of them.

    Args:
        together: the group, or True for the default one.

    Raises:
        BadRequest: it is no process group, or this process is not in it.
    """
    distributed: Any = sys.modules.get("torch.distributed")  # who has a process group has imported it
    ready = together is not None and distributed is not None and distributed.is_available() and distributed.is_initialized()
    group = distributed.group.WORLD if ready and together is True else together
    try:
        rank = distributed.get_rank(group) if ready else -1
    except (TypeError, ValueError, AttributeError, RuntimeError):  # torch's words for what is no group
        rank = -1
    if rank < 0:
        raise BadRequest(
            f"Tickets: together={together!r} names no process group that this process is in: call torch.distributed.init_process_group() first, "
            "or leave it out where consumers come and go"
        )
    told = [uuid.uuid4().hex[:12]]
    distributed.broadcast_object_list(told, src=distributed.get_global_rank(group, 0), group=group)
    return told[0]
