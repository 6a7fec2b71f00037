"""Whose rows a batch holds, told again where the batch arrives: the key and the number that each row's draws go by. Pure; costs the order of a batch once more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..transforms.random import words_of
from .law import Stream
from .mixture import MixedStream
from .plan import Plan

Words = npt.NDArray[np.uint64]


def identities(stream: Stream | MixedStream, plan: Plan, seed: int, epoch: int, start: int) -> Iterator[tuple[Words, Words]]:
    """Yield the keys and the samples of each batch of an epoch entered at position `start`, uint64 `[B]` each, as they are given to ops."""
    for step in range(plan.steps(start)):
        drawn = stream.draw(epoch, plan.batch(step, start).positions() % max(plan.rows, 1))
        yield words_of(drawn.keys(seed)), drawn.rows.astype(np.uint64)
