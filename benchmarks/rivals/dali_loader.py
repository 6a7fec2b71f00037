"""DALI's CPU pipeline: its file reader, decoder with random crop, resize and crop-mirror-normalise; arrays come in by its external source.

"Workers" are its threads. The reader shuffles with a buffer (`random_shuffle`, `initial_fill` 1,024 by default), so less than globally; arrays
are shuffled globally by the external source, which gathers a batch from the memory map. `run` is called directly and batches are views as numpy
arrays: its plugin for torch would copy them once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types

from .augmentation import MEAN, SIDE, STD
from .endless import Endless, orders
from .loop import Config, run
from .nothing import make
from .samples import Source, take


def finished(images: Any, kind: str) -> Any:
    """Return images flipped, laid out channels first and normalised."""
    options: dict[str, Any] = {"dtype": types.UINT8, "mean": [0.0], "std": [1.0]}
    if kind != "W1-u8":
        options = {"dtype": types.FLOAT, "mean": [255 * value for value in MEAN], "std": [255 * value for value in STD]}
    return fn.crop_mirror_normalize(images, mirror=fn.random.coin_flip(), output_layout="CHW", **options)


@pipeline_def  # type: ignore[untyped-decorator]  # it ships no types
def photographs(folder: str, kind: str) -> Any:
    """Read, decode the random part, resize."""
    files, labels = fn.readers.file(file_root=folder, random_shuffle=True, name="files")
    images = fn.decoders.image_random_crop(files, device="cpu", random_area=(0.08, 1.0), random_aspect_ratio=(3 / 4, 4 / 3))
    images = fn.resize(images, size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR)
    return finished(images, kind), labels


@pipeline_def  # type: ignore[untyped-decorator]  # it ships no types
def arrays(batches: Any, kind: str, columns: int) -> Any:
    """Take batches from outside; images are cropped and resized, tokens widened."""
    found = fn.external_source(source=batches, num_outputs=columns, batch=True)
    if kind == "W1-raw":
        images = fn.random_resized_crop(fn.reshape(found[0], layout="HWC"), size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR)
        return finished(images, kind), found[1]
    return (fn.cast(found[0], dtype=types.INT64),) if kind == "W3" else tuple(found)


def batches_of(source: Source, size: int) -> Iterator[Any]:
    """Yield batches of an array workload, a new order each epoch; whole ones, since its pipeline has one batch size."""
    for order in orders(len(source)):
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield (source.arrays["tokens"][rows],) if source.kind == "W3" else tuple(take(source, rows).values())


def runs(pipeline: Any) -> Iterator[Any]:
    """Yield a batch a run."""
    while True:
        yield [found.as_array() for found in pipeline.run()]


def load(config: Config) -> Iterable[Any]:
    """Return the loader."""
    kind, size = config["kind"], config["batch_size"]
    options: dict[str, Any] = {"batch_size": size, "num_threads": config["workers"], "device_id": None}
    source = Source(Path(config["source"]), kind)
    if kind in ("W1", "W1-u8"):
        pipeline = photographs(config["source"], kind, **options)
    else:
        pipeline = arrays(batches_of(source, size), kind, 1 if kind == "W3" else 2, **options)
    pipeline.build()
    return Endless(runs(pipeline), len(source) // size)


if __name__ == "__main__":
    run(make, load)
