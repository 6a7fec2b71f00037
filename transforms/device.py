"""The ops that a device does, on whole batches with torch: what `split` left of a chain, and the ops that mix a batch.

Every draw is made on the host, by the ops themselves and from the keys that workers would have used, and sent along as small arrays; so the pixels are the workers' own,
but for the last bit of a float, or one grey level where a colour op rounds. Nothing waits for the device. The same code runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
import torch

from ..errors import BadData
from .base import Spec, Words
from .chain import Stage
from .color import ColorJitter, Grayscale
from .erasing import RandomErasing
from .image import RandomHorizontalFlip
from .mixing import FIRST_NUMBER, BatchOp
from .random import Random
from .split import Rest

Tensor = torch.Tensor


class Keyed(NamedTuple):
    """Whose draws a batch has: the key and the number of each sample, uint64 `[B]`."""

    keys: Words
    samples: Words


def sent(array: Any, device: torch.device) -> Tensor:
    """Return an array on a device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@final
class DeviceChain:
    """The rest of a column's chain."""

    def __init__(self, rest: Rest) -> None:
        """Prepare its table."""
        self._rest = rest
        self._line = _line(rest.table)
        self._tables: dict[torch.device, Tensor] = {}

    @property
    def output(self) -> Spec:
        """What a row is in the end."""
        return self._rest.output

    def __call__(self, images: Tensor, keyed: Keyed) -> Tensor:
        """Return the finished batch.

        Args:
            images: uint8 `[B, *given.shape]`, on any device.
            keyed: the keys and samples of its rows.
        """
        last = self._rest.output.layout == "HWC"
        images = images.movedim(-1, 1) if last else images
        for stage in self._rest.body:
            images = _OPS[type(stage.op)](images, stage, keyed)
        made = self._through_table(images)
        for stage in self._rest.after:
            assert isinstance(stage.op, RandomErasing)
            made = _erased(made, stage.op, stage.number, keyed)
        return (made.movedim(1, -1) if last else made).contiguous()

    def _through_table(self, images: Tensor) -> Tensor:
        """Return what the last ops make of each byte."""
        table = self._rest.table
        if table.dtype == np.uint8 and (table == np.arange(256, dtype=np.uint8)).all():
            return images
        place = self._tables.get(images.device)
        if place is None:
            place = self._tables[images.device] = sent(table if self._line is None else self._line, images.device)
        if self._line is not None:
            dtype = torch.from_numpy(table[:0]).dtype
            return torch.addcmul(place[1][:, None, None], images.to(dtype), place[0][:, None, None])
        shift = torch.arange(0, table.size, 256, device=images.device)[:, None, None]
        return place.flatten()[images.long() + shift]


def _line(table: Any) -> Any:
    """Return factors and offsets, `[2, channels]`, when the table is a line through its first and last value, as scaling and normalising make it; or None."""
    if table.dtype not in (np.float32, np.float64):
        return None
    factor = (table[:, 255].astype(np.float64) - table[:, 0]) / 255
    lines = table[:, :1] + factor[:, None] * np.arange(256)
    near = np.abs(lines - table) <= 4 * np.finfo(table.dtype).eps * np.abs(table).max(initial=1)
    return np.stack([factor, table[:, 0]]).astype(table.dtype) if near.all() else None


def _flipped(images: Tensor, stage: Stage, keyed: Keyed) -> Tensor:
    assert isinstance(stage.op, RandomHorizontalFlip)
    flips = sent(stage.op.flips(keyed.keys, keyed.samples, stage.number), images.device)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def _gray(images: Tensor) -> Tensor:
    """Return the luma, int32 `[B, 1, H, W]`, as `color.gray_reference` rounds it."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = (images[:, channel : channel + 1].int() for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _grayed(images: Tensor, stage: Stage, keyed: Keyed) -> Tensor:
    del keyed
    assert isinstance(stage.op, Grayscale)
    return _gray(images).to(torch.uint8).expand(-1, stage.op.num_output_channels, -1, -1)


def _blended(dull: Tensor | float, images: Tensor, factors: Tensor) -> Tensor:
    moved = images.float()
    return (dull + factors * (moved - dull)).clamp(0, 255).to(torch.uint8)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    gray = _gray(images)
    mean = (gray.sum((1, 2, 3), dtype=torch.int64).double() / (gray.shape[2] * gray.shape[3]) + 0.5).floor().float()
    return _blended(mean[:, None, None, None], images, factors)


def _hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the colours as `color.hue_reference` does."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, channel].float() / 255 for channel in range(3))
    top, bottom = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    spread = top - bottom
    divisor, saturation = torch.where(spread == 0, 1.0, spread), spread / torch.where(top == 0, 1.0, top)
    r, g, b = ((top - colour) / divisor for colour in (red, green, blue))
    hue = torch.where(red == top, b - g, torch.where(green == top, 2 + r - b, 4 + g - r)) / 6 + turns[:, 0]
    hue = (hue - hue.floor()) * 6
    sector = hue.floor()
    rest = hue - sector
    p, q, t = top * (1 - saturation), top * (1 - saturation * rest), top * (1 - saturation * (1 - rest))
    kind = sector.long() % 6
    table = torch.stack([top, t, p, q])
    places = sent(_PARTS, images.device)
    chosen = [table.gather(0, places[:, channel][kind][None])[0] for channel in range(3)]
    return (torch.stack(chosen, 1) * 255 + 0.5).to(torch.uint8)


_PARTS = np.array([[0, 1, 2], [3, 0, 2], [2, 0, 1], [2, 3, 0], [1, 2, 0], [0, 2, 3]])
"""Which of top, t, p and q a sixth of the colour circle has for red, green and blue."""


def _jittered(images: Tensor, stage: Stage, keyed: Keyed) -> Tensor:
    """Adjust every image in an order of its own: of each turn those that have the same to do together."""
    op = stage.op
    assert isinstance(op, ColorJitter)
    drawn = [op.draw(Random(int(key), int(sample), stage.number)) for key, sample in zip(keyed.keys, keyed.samples, strict=True)]
    images = images.clone()
    for turn in range(4):
        for kind, change in enumerate((_brightness, _contrast, _saturation, _hue)):
            mine = [row for row, todo in enumerate(drawn) if turn < len(todo) and todo[turn][0] == kind]
            if mine:
                rows = sent(np.array(mine), images.device)
                factors = sent(np.array([drawn[row][turn][1] for row in mine], np.float32), images.device)
                images[rows] = change(images[rows], factors[:, None, None, None])
    return images


def _brightness(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(0.0, images, factors)


def _saturation(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(_gray(images).float(), images, factors)


_OPS: dict[type, Callable[[Tensor, Stage, Keyed], Tensor]] = {RandomHorizontalFlip: _flipped, ColorJitter: _jittered, Grayscale: _grayed}
"""How each op is done that says `on_device`."""


def _erased(images: Tensor, op: RandomErasing, number: int, keyed: Keyed) -> Tensor:
    height, width = images.shape[2:]
    boxes = sent(op.boxes(height, width, keyed.keys, keyed.samples, number), images.device)[:, :, None]
    down, across = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (down >= boxes[:, 0]) & (down < boxes[:, 0] + boxes[:, 2])
    columns = (across >= boxes[:, 1]) & (across < boxes[:, 1] + boxes[:, 3])
    values = sent(np.array(op.values), images.device).to(images.dtype)[:, None, None]
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], values, images)


def mixed(batch: dict[str, Any], ops: tuple[BatchOp, ...], keyed: Keyed) -> dict[str, Any]:
    """Return a batch whose samples are mixed with one another, by one op after the other; keyed by its first sample."""
    for number, op in enumerate(ops, FIRST_NUMBER):
        images, labels = batch[op.image], batch[op.label]
        if not len(images):
            continue
        mix = op.draw(images.shape[2], images.shape[3], Random(int(keyed.keys[0]), int(keyed.samples[0]), number))
        others = images.roll(1, 0)
        if mix.box is None:
            made = images * mix.share + others * (1.0 - mix.share)
        else:
            top, left, tall, wide = mix.box
            made = images.clone()
            made[:, :, top : top + tall, left : left + wide] = others[:, :, top : top + tall, left : left + wide]
        if (
            labels.ndim == 1 and not labels.is_cuda and not 0 <= int(labels.min()) <= int(labels.max()) < op.num_classes
        ):  # a device would have to be waited for
            raise BadData(f"{op}: column {op.label!r} holds labels from {int(labels.min())} to {int(labels.max())}")
        told = torch.nn.functional.one_hot(labels.long(), op.num_classes).float() if labels.ndim == 1 else labels
        batch = {**batch, op.image: made, op.label: told * mix.share + told.roll(1, 0) * (1.0 - mix.share)}
    return batch
