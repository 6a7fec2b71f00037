"""What is done to a batch where it arrives: the rest of chains that were cut in two, and ops that mix the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from ..errors import BadRequest
from ..transforms.device import DeviceChain, Keyed, mixed
from ..transforms.mixing import BatchOp
from ..transforms.split import Rest
from .batch import Batch
from .slots import Output


@final
class Finish:
    """Finishes the batches of one loader."""

    def __init__(self, rests: Mapping[str, Rest], ops: tuple[BatchOp, ...]) -> None:
        """Prepare what is done to each column."""
        self._chains = {name: DeviceChain(rest) for name, rest in rests.items()}
        self._ops = ops

    def check(self, outputs: Mapping[str, Output]) -> None:
        """Refuse ops that the batches are not for; `outputs` is what they hold when they arrive.

        Raises:
            BadRequest: it names the column and what there is.
        """
        shapes = {name: (output.shape, output.dtype) for name, output in outputs.items() if not output.ragged}
        shapes |= {name: (chain.output.fixed_shape, chain.output.dtype) for name, chain in self._chains.items()}
        for op in self._ops:
            if not isinstance(op, BatchOp):
                raise BadRequest(f"batch_transforms: {op!r} is not MixUp or CutMix; ops on columns go to transforms=")
            op.check(shapes)
            shapes[op.label] = (op.num_classes,), "float32"

    def of(self, keyed: Iterator[tuple[Any, Any]], before: Callable[[Batch], Batch], behind: Callable[[Batch], Batch]) -> Callable[[Batch], Batch]:
        """Return what finishes the batches of an epoch, whose keys and samples come in order, between two other things that are done to them."""

        def finish(batch: Batch) -> Batch:
            rows = Keyed(*next(keyed))
            made = before(batch)
            for name, chain in self._chains.items():
                made[name] = chain(made[name], rows)
            return behind(mixed(made, self._ops, rows))

        return finish
