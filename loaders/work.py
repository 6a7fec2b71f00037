"""What filling needs and where its results go: values that inline loader and workers share.

A `Sink` gives memory: a slot's, or arrays of its own. `Work` is sent to each worker once and is the whole of what a worker knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadData
from ..shards.dataset import Dataset
from ..transforms.chain import Chain
from ..transforms.map import DeclaredMap
from .ring import Stage
from .slots import Output

VALID = "valid"
"""The boolean column that tail='pad' adds: False where a row was repeated to fill the batch."""


class Sink(ABC):
    """Where a batch's rows go."""

    @abstractmethod
    def fixed(self, name: str) -> npt.NDArray[Any]:
        """Return the memory of a fixed column, `[rows, *shape]`."""

    @abstractmethod
    def ragged(self, name: str, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Note the lengths of a ragged column's rows and return memory for their values, 1-D, at least as long as their sum."""

    @abstractmethod
    def stage(self, stage: Stage) -> None:
        """Hear what is being done now."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that filling needs to know; sent to each worker once.

    Attributes:
        dataset: pinned to a version.
        digest: the dataset's digest when the plan was made; a worker that opens other shards refuses to work.
        chains: compiled transforms of the columns that have some.
        mapping: the user's function on samples or batches, or None.
        outputs: what a batch holds, in order.
        seed: of the order and of augmentation.
        shuffle: whether rows are permuted.
    """

    dataset: Dataset
    digest: str
    chains: Mapping[str, Chain]
    mapping: DeclaredMap | None
    outputs: Mapping[str, Output]
    seed: int
    shuffle: bool

    def check(self) -> None:
        """Refuse a dataset that changed on its way to a worker.

        Raises:
            BadData: it has another digest than the one that was planned with.
        """
        if self.dataset.digest != self.digest:
            raise BadData(
                f"the files changed while they were read: digest {self.dataset.digest} where {self.digest} was planned", path=self.dataset.path
            )

    @property
    def pads(self) -> bool:
        """Whether the column `valid` is ours, added by tail='pad', and not the data's or the user's function's."""
        own = self.dataset.fields if self.mapping is None else self.mapping.outputs
        return VALID in self.outputs and VALID not in own

    @property
    def splits(self) -> bool:
        """Whether rows are costly enough to spread one batch over workers, and may be seen one by one."""
        if self.mapping is not None:
            return not self.mapping.map.batched
        return any(chain.decoder is not None for chain in self.chains.values())
