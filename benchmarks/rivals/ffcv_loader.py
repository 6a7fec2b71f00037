"""FFCV: a beton file, `Loader` with `OrderOption.RANDOM` and the data cached by the operating system.

Images as its ImageNet recipe has them: W1 stored as JPEG (`write_mode="jpg"`, quality 90), W1-raw stored raw; `RandomResizedCropRGBImageDecoder`,
flip, `NormalizeImage`, torch layout. Arrays as `NDArrayField`. "Workers" are its threads. Every process compiles its pipeline with numba first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Convert, NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

from .augmentation import MEAN, SIDE, STD
from .loop import Config, run
from .samples import SHAPES, Source


class Tuples:
    """Rows as tuples in the order of the fields."""

    def __init__(self, source: Source) -> None:
        """Keep the source."""
        self.source = source

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return a row; of W1 the decoded picture, which FFCV encodes itself."""
        if self.source.files:
            sample = self.source[index]
            return Image.open(self.source.files[index]).convert("RGB"), sample["label"]
        return tuple(np.array(value) if isinstance(value, np.ndarray) else value for value in self.source[index].values())


def make(kind: str, source: Path, out: Path) -> None:
    """Write one beton."""
    fields: dict[str, Any] = {}
    if kind.startswith("W1"):
        mode: dict[str, Any] = {"write_mode": "raw"} if kind == "W1-raw" else {"write_mode": "jpg", "jpeg_quality": 90}
        fields["image"] = RGBImageField(**mode)
    else:
        name, shape, dtype = SHAPES[kind]
        fields[name] = NDArrayField(np.dtype(dtype), shape)
    if kind != "W3":
        fields["label"] = IntField()
    DatasetWriter(str(out / "rows.beton"), fields, num_workers=2).from_indexed_dataset(Tuples(Source(source, kind)))


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind = config["kind"]
    pipelines: dict[str, Any] = {} if kind == "W3" else {"label": [IntDecoder(), ToTensor(), Squeeze()]}
    if kind.startswith("W1"):
        last = [] if kind == "W1-u8" else [NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32)]
        decode = RandomResizedCropRGBImageDecoder((SIDE, SIDE))
        pipelines["image"] = [decode, RandomHorizontalFlip(), *last, ToTensor(), ToTorchImage()]
    else:
        last = [Convert(torch.int64)] if kind == "W3" else []
        pipelines[SHAPES[kind][0]] = [NDArrayDecoder(), ToTensor(), *last]
    options: dict[str, Any] = {"batch_size": config["batch_size"], "num_workers": config["workers"], "drop_last": False}
    loader: Iterable[Any] = Loader(str(Path(config["data"]) / "rows.beton"), order=OrderOption.RANDOM, os_cache=True, pipelines=pipelines, **options)
    return loader


if __name__ == "__main__":
    run(make, load)
