"""Decoding by the device, with a decoder that is none: which images it is given, what becomes of them, and what is said of damaged ones."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from contracts.pictures import encode, noise, photo
from PIL import Image

import penstock.transforms as tr
from penstock import fields
from penstock.errors import BadData
from penstock.transforms import device_decode
from penstock.transforms.chain import compile_chain
from penstock.transforms.device import Keyed
from penstock.transforms.device_decode import DeviceDecode, decoder_of
from penstock.transforms.random import words_of
from penstock.transforms.split import decodable

CPU = torch.device("cpu")


class Stand:
    """What stands in for nvJPEG; notes what it was given."""

    def __init__(self) -> None:
        """Have been given nothing."""
        self.given = 0

    def __call__(self, encoded: Sequence[Any], device: torch.device) -> list[torch.Tensor]:
        """Decode as libjpeg does, and fail as nvJPEG does."""
        self.given += len(encoded)
        try:
            return [torch.from_numpy(simplejpeg.decode_jpeg(each, strict=True)).movedim(-1, 0) for each in encoded]
        except ValueError as error:
            raise RuntimeError("nvjpeg: image not supported") from error


def file_of(picture: Any, **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture as a file's bytes."""
    sink = io.BytesIO()
    kind = options.pop("kind", "JPEG")
    Image.fromarray(picture).convert(options.pop("mode", "RGB")).save(sink, kind, **options)
    return np.frombuffer(sink.getvalue(), np.uint8)


def turned() -> Image.Exif:
    """Return an EXIF block that says that an image lies on its side."""
    made = Image.Exif()
    made[0x0112] = 6
    return made


@pytest.mark.parametrize(
    "ops",
    [
        [tr.RandomResizedCrop(24)],
        [tr.Resize((20, 30)), tr.CenterCrop(18), tr.ToLayout("HWC")],
        [tr.RandomCrop(50, padding=9, fill=3), tr.RandomHorizontalFlip()],
        [tr.Decode(scaled=False), tr.Resize(16), tr.CenterCrop(16), tr.RandomHorizontalFlip(1.0)],
    ],
)
def test_images_come_out_as_from_workers(ops: list[Any]) -> None:
    """JPEGs of any size, and what a device is not given (turned, grey, CMYK, PNG), come out with the workers' draws, where workers decode at full scale to two grey levels."""
    pictures = [photo(60, 80), photo(48, 48, 1), noise(33, 70), photo(60, 80), photo(60, 80), photo(50, 60), photo(40, 52)]
    files = [encode(each) for each in pictures[:3]]
    files += [
        file_of(pictures[3], exif=turned()),
        file_of(pictures[4], mode="L"),
        file_of(pictures[5], mode="CMYK"),
        file_of(pictures[6], kind="PNG"),
    ]
    whole = [tr.Decode(scaled=False, apply_exif_orientation=True), *(op for op in ops if not isinstance(op, tr.Decode))]
    chain = decodable("image", fields.Image("jpeg"), whole)
    assert chain is not None
    stand = Stand()
    keyed = Keyed(words_of([5, 6, 7, 8, 9, 10, 11]), words_of(range(100, 107)))
    found = DeviceDecode(chain, stand)(files, keyed, CPU)
    expected = np.empty(found.shape, np.uint8)
    reference = compile_chain("image", fields.Image("jpeg"), whole)
    for file, key, sample, out in zip(files, *keyed, expected, strict=True):
        reference.run(file, int(key), int(sample), out)
    assert stand.given == 4  # the grey one too, of which colours are made
    gap = np.abs(found.numpy().astype(int) - expected)
    assert gap.max() <= 2
    assert gap.mean() < 0.6


def test_a_damaged_image_is_named_by_its_place() -> None:
    """What the device refuses is decoded on the host, which says which row is damaged; so is what has no header."""
    chain = decodable("image", fields.Image("jpeg"), [tr.Resize((8, 8))])
    assert chain is not None
    keyed = Keyed(words_of([1, 1, 1]), words_of([0, 1, 2]))
    good = encode(photo(40, 40))
    for bad in (good[: len(good) // 2], np.frombuffer(b"no image at all", np.uint8)):
        with pytest.raises(BadData, match="row 1 of the batch"):
            DeviceDecode(chain, Stand())([good, bad, good], keyed, CPU)


def test_what_a_device_cannot_decode_is_left_to_workers() -> None:
    """Grey images, colours changed in front of a crop, and pixels that are stored decoded."""
    jpeg = fields.Image("jpeg")
    assert decodable("image", jpeg, [tr.Decode("GRAY"), tr.CenterCrop(8)]) is None
    assert decodable("image", jpeg, [tr.ColorJitter(0.1), tr.CenterCrop(8)]) is None
    assert decodable("image", jpeg, [tr.CenterCrop(8), tr.Normalize(0.5, 0.5)]) is None
    assert decodable("image", fields.Array((9, 9, 3), "uint8"), [tr.CenterCrop(8)]) is None


def test_what_is_installed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision comes first, nvImageCodec where there is none, and without either nothing decodes on the device."""
    for name in ("torchvision.io", "nvidia.nvimgcodec"):
        monkeypatch.setitem(sys.modules, name, None)
    assert decoder_of() is None
    asked: list[Any] = []

    def decode_jpeg(files: list[torch.Tensor], mode: Any, device: torch.device) -> list[torch.Tensor]:
        asked.append((len(files), mode, device))
        return [torch.zeros(3, 2, 2)] * len(files)

    module = types.ModuleType("torchvision.io")
    module.decode_jpeg, module.ImageReadMode = decode_jpeg, types.SimpleNamespace(RGB="rgb")  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "torchvision.io", module)
    decoder = decoder_of()
    assert decoder is not None
    assert len(decoder([encode(photo(8, 8))] * 2, CPU)) == 2
    assert asked == [(2, "rgb", CPU)]
    monkeypatch.setattr(device_decode, "_torchvision", lambda: None)
    assert decoder_of() is None


@pytest.mark.gpu
def test_nvjpeg_is_near_libjpeg() -> None:
    """Where something is installed that decodes on the device, its pixels are within a few grey levels of libjpeg's on average."""
    decoder = decoder_of()
    if decoder is None:
        pytest.skip("neither torchvision nor nvidia-nvimgcodec is installed")
    file = encode(photo(375, 500))
    (found,) = decoder([file], torch.device("cuda", 0))
    gap = np.abs(found.cpu().movedim(0, -1).numpy().astype(int) - simplejpeg.decode_jpeg(file))
    assert gap.mean() < 3
