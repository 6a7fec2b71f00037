"""JPEGs decoded by the device: nvJPEG, by way of torchvision or of NVIDIA's nvImageCodec, whichever is installed.

Encoded bytes are a fifth of the pixels, and the host's cores are free for other work. What nvJPEG gives differs from libjpeg-turbo by a few grey levels, and it decodes whole images where workers decode only
what a crop needs; so this helps where the host's cores are few. The crop, its resize and every draw are those of the workers, made on the device image by image; images that are turned by EXIF, grey, CMYK or
no JPEG are decoded on the host.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch

from ..errors import BadData
from .base import Spec
from .chain import Chain
from .device import Keyed, sent
from .geometry import Crop, Flip, Scale, Step
from .image import Decode
from .jpeg import decode
from .random import Random
from .sample import header_of

Tensor = torch.Tensor
Decoder = Callable[[Sequence[Any], torch.device], list[Tensor]]
"""Encoded images, uint8 `[bytes]` on the host, to pixels, uint8 `[3, H, W]` on the device."""


def decoder_of() -> Decoder | None:
    """Return what decodes on the device, or None where nothing is installed that does."""
    for find in (_torchvision, _nvimagecodec):
        try:
            return find()
        except (ImportError, AttributeError):
            continue
    return None


def _torchvision() -> Decoder:
    decode_jpeg = importlib.import_module("torchvision.io").decode_jpeg
    rgb = importlib.import_module("torchvision.io").ImageReadMode.RGB

    def decoded(encoded: Sequence[Any], device: torch.device) -> list[Tensor]:
        found: list[Tensor] = decode_jpeg([torch.from_numpy(np.array(each)) for each in encoded], mode=rgb, device=device)
        return found

    return decoded


def _nvimagecodec() -> Decoder:
    codec = importlib.import_module("nvidia.nvimgcodec")
    decoders: dict[int, Any] = {}

    def decoded(encoded: Sequence[Any], device: torch.device) -> list[Tensor]:
        if device.index not in decoders:
            decoders[device.index] = codec.Decoder(device_id=device.index)
        found = decoders[device.index].decode([each.tobytes() for each in encoded], cuda_stream=torch.cuda.current_stream(device).cuda_stream)
        return [torch.as_tensor(image, device=device).movedim(-1, 0) for image in found]

    return decoded


@final
class DeviceDecode:
    """The front of a column's chain: decoding, and what gives images their size."""

    def __init__(self, chain: Chain, decoder: Decoder) -> None:
        """Take the chain that workers would run, whose output is uint8 `[3, H, W]` or `[H, W, 3]`."""
        assert isinstance(chain.decoder, Decode)
        self._chain = chain
        self._op: Decode = chain.decoder
        self._decoder = decoder

    def __call__(self, encoded: Sequence[Any], keyed: Keyed, device: torch.device) -> Tensor:
        """Return a batch of bytes on the device, `[B, *output.shape]`.

        Raises:
            BadData: an image is damaged; the row is its place in the batch.
        """
        images: list[Tensor | None] = [None] * len(encoded)
        fit = []
        for row, data in enumerate(encoded):
            try:
                header = header_of(self._op, data)
                if header.turbo and header.orientation == 1:
                    fit.append(row)
                else:
                    images[row] = sent(decode(data, header, "RGB"), device).movedim(-1, 0)
            except BadData as error:
                raise BadData(f"row {row} of the batch: {error}") from None
        for row, image in zip(fit, self._decoded([encoded[row] for row in fit], fit, device), strict=True):
            images[row] = image
        made = torch.stack(
            [self._sized(image, int(key), int(sample)) for image, key, sample in zip(images, *keyed, strict=True) if image is not None]
        )
        return made if self.output.layout == "CHW" else made.movedim(1, -1)

    def _decoded(self, encoded: list[Any], rows: list[int], device: torch.device) -> list[Tensor]:
        """Return the pixels of JPEGs; where the device finds one damaged, the host finds which."""
        try:
            return self._decoder(encoded, device) if encoded else []
        except RuntimeError:
            found = []
            for row, data in zip(rows, encoded, strict=True):
                try:
                    found.append(sent(decode(data, header_of(self._op, data), "RGB"), device).movedim(-1, 0))
                except BadData as error:
                    raise BadData(f"row {row} of the batch: {error}") from None
            return found

    @property
    def output(self) -> Spec:
        """What a row is when it has its size."""
        assert isinstance(self._chain.output, Spec)
        return self._chain.output

    def _sized(self, image: Tensor, key: int, sample: int) -> Tensor:
        for item in self._chain._plan(image.shape[1], image.shape[2], Random(key, sample)):  # noqa: SLF001  (the draws of a chain, of which this is another way to go)
            assert isinstance(item, (Crop, Flip, Scale))
            image = moved(image, item)
        return image


def moved(image: Tensor, step: Step) -> Tensor:
    """Return a uint8 image `[3, H, W]` after one step, as `resample.carry_out` does it; resized to at most one grey level from there."""
    if isinstance(step, Flip):
        return image.flip(-1)
    if isinstance(step, Scale):
        size = (step.height, step.width)
        made = torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)[0]
        return (made + 0.5).clamp(0, 255).to(torch.uint8)
    top, left, tall, wide = step.box
    height, width = image.shape[1:]
    y0, y1, x0, x1 = max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
    if (y0, y1, x0, x1) == (top, top + tall, left, left + wide):
        return image[:, top : top + tall, left : left + wide]
    out = sent(np.array(step.fill, np.uint8), image.device)[:, None, None].expand(3, tall, wide).clone()
    if y0 < y1 and x0 < x1:
        out[:, y0 - top : y1 - top, x0 - left : x1 - left] = image[:, y0:y1, x0:x1]
    return out
