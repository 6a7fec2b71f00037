"""What is done to a batch where it arrives: the rest of chains that were cut in two, and ops that mix the batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch

from ..errors import BadRequest
from ..transforms.chain import Chain
from ..transforms.device import DeviceChain, Keyed, mixed
from ..transforms.device_decode import DeviceDecode, decoder_of
from ..transforms.mixing import BatchOp
from ..transforms.split import Rest
from .batch import Batch, Ragged
from .slots import Output


def decoding(chains: Mapping[str, Chain]) -> dict[str, DeviceDecode]:
    """Return what decodes each column on the device; nothing, with a warning, where nothing is installed that does."""
    decoder = decoder_of() if chains else None
    if decoder is None:
        what = (
            "neither torchvision nor nvidia-nvimgcodec can be imported"
            if chains
            else "no column is one of colour images that are decoded and then cropped and resized only"
        )
        warnings.warn(f"decode_on='device': {what}, so workers decode", stacklevel=6)
        return {}
    return {name: DeviceDecode(chain, decoder) for name, chain in chains.items()}


def runs(column: Ragged) -> Iterator[Any]:
    """Yield the rows of a ragged column."""
    ends = column.offsets.tolist()
    for start, stop in itertools.pairwise(ends):
        yield column.values[start:stop]


@final
class Finish:
    """Finishes the batches of one loader."""

    def __init__(self, rests: Mapping[str, Rest], ops: tuple[BatchOp, ...], decodes: Mapping[str, DeviceDecode], device: torch.device | None) -> None:
        """Prepare what is done to each column, on a device where some are decoded."""
        self._decodes = decodes
        self._device: Any = device  # torch says that its index is never None, which it is
        self._chains = {name: DeviceChain(rest) for name, rest in rests.items()}
        self._ops = ops

    def _device_now(self) -> torch.device:
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        return torch.device(self._device)

    def check(self, outputs: Mapping[str, Output]) -> None:
        """Refuse ops that the batches are not for; `outputs` is what they hold when they arrive.

        Raises:
            BadRequest: it names the column and what there is.
        """
        shapes = {name: (output.shape, output.dtype) for name, output in outputs.items() if not output.ragged}
        shapes |= {name: (decode.output.fixed_shape, decode.output.dtype) for name, decode in self._decodes.items()}
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
            for name, decode in self._decodes.items():
                made[name] = decode(list(runs(made[name])), rows, self._device_now())
            for name, chain in self._chains.items():
                made[name] = chain(made[name], rows)
            return behind(mixed(made, self._ops, rows))

        return finish
