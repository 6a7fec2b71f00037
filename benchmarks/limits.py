"""What this machine can do with no loader at all: the same work, the data already in memory, as many processes as are asked for.

- `full`: W1 and W1-u8: simplejpeg decodes the whole image at the best scale, the library's fused kernel crops, resizes, flips and normalises
  it into a batch that is made once.
- `region`: the same, but only the part that the crop needs is decoded (`transforms.region`).
- `fused`: W1-raw: the fused kernel alone, from the mapped file into the batch.
- `gather`: W2, W3, W4: rows from the mapped file into one batch in one process, their positions computed by the law of order.
- `given`: the same with the order made before.
- `copy`: W3: nothing but copying as many bytes as are delivered, from memory into the batch.

Nothing is handed over, so no loader with workers can be expected to reach the limits of images, and one that fetches batches ahead of the loop
may beat a limit of one process. Images go through the library's kernels: the limit is what they can do, not what any kernel could. Each process
draws its own order and parameters, works for `warm_s` and then for `seconds`; rates are added up.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock import order
from penstock.transforms import region
from penstock.transforms.chain import compile_chain
from penstock.transforms.geometry import Crop, Flip, Scale, Step, View
from penstock.transforms.jpeg import decode, read_header
from penstock.transforms.resample import pixel_buffer, resample, resample_rows

from .limits_kernels import copy_rows
from .rivals.augmentation import MEAN, SIDE, STD, crop
from .rivals.samples import Source, take

Config = dict[str, Any]
Batches = Iterator[int]
"""Makes a batch at each `next`, and yields how many samples it has."""

POSITIONS = 8192
"""Positions whose rows are computed at once."""

PIECES = 64
"""How many batches' bytes `copy` copies from in turn, so that they come from memory and not from a cache."""


def _table(kind: str) -> Any:
    """Return what becomes of each byte of each channel."""
    ops: list[Any] = [ps.transforms.RandomResizedCrop(SIDE), ps.transforms.RandomHorizontalFlip()]
    return compile_chain("image", ps.Image("jpeg"), ops if kind == "W1-u8" else [*ops, ps.transforms.Normalize(MEAN, STD)]).table


def _view(height: int, width: int) -> View:
    """Draw a crop and a flip."""
    steps: list[Step] = [Crop(crop(height, width)), Scale(SIDE, SIDE), *([Flip()] if random.random() < 0.5 else [])]
    view = View.whole(height, width)
    for step in steps:
        longer = view.then(step)
        assert longer is not None, "a crop, a resize and a flip are one pass"
        view = longer
    return view


def _decoded(data: Any, *, parts: bool) -> tuple[Any, View, int]:
    """Return pixels, the view of them, and the scale they were decoded at."""
    header = read_header(data, orientation=False)
    height, width = header.height, header.width
    view = _view(height, width)
    factor = view.factor()
    buffer = pixel_buffer((height // factor + 1) * (width // factor + 1) * 3)
    top, left, tall, wide = view.source
    if parts and (tall, wide) != (height, width):
        first, column = top // factor, left // factor
        box = (first, column, (top + tall - 1) // factor - first + 1, (left + wide - 1) // factor - column + 1)
        found = region.decode_region(data, factor, box, (-(-height // factor), -(-width // factor)), buffer)
        if found is not None:
            source = (top - first * factor, left - found.left * factor, tall, wide)
            return found.pixels, View(source, view.scale, view.window, view.scaled, view.windowed, view.flipped), factor
    return decode(data, header, "RGB", factor, buffer), view, factor


def _images(config: Config, source: Source) -> Batches:
    """Make batches of JPEGs, which are read into memory first."""
    table, size = _table(config["kind"]), config["batch_size"]
    batch = np.zeros((size, 3, SIDE, SIDE), table.dtype)
    stored = [np.frombuffer(source[index]["image"], np.uint8) for index in range(len(source))]
    while True:
        places = np.random.default_rng().permutation(len(stored))
        for start in range(0, len(places), size):
            rows = places[start : start + size]
            for out, row in zip(batch, rows, strict=False):
                pixels, view, factor = _decoded(stored[row], parts=config["style"] == "region")
                resample(pixels, view, factor, table, out, channels_first=True)
            yield len(rows)


def _stored_images(config: Config, source: Source) -> Batches:
    """Make batches of decoded images, a call of the kernel for each."""
    table, size = _table(config["kind"]), config["batch_size"]
    stored, batch = source.arrays["image"], np.zeros((size, 3, SIDE, SIDE), np.float32)
    first, row_bytes, (height, width, channels) = stored.ctypes.data, stored[0].nbytes, stored.shape[1:]
    cropping, flipping = ps.transforms.RandomResizedCrop(SIDE), ps.transforms.RandomHorizontalFlip()
    for epoch in itertools.count(random.getrandbits(32)):
        places = np.random.default_rng().permutation(len(stored))
        for start in range(0, len(places), size):
            rows = places[start : start + size]
            keys, samples = np.full(len(rows), epoch, np.uint64), rows.astype(np.uint64)
            boxes, _ = cropping.crops(height, width, keys, samples, 0)
            flipped = flipping.flips(keys, samples, 1)
            sources = first + rows * row_bytes
            resample_rows(sources, (height, width, channels), boxes, (SIDE, SIDE), flipped, table, batch[: len(rows)], channels_first=True)
            yield len(rows)


def _words(array: Any) -> Any:
    """Return rows of a mapped array as rows of 64-bit words, which are copied fastest; tokens, which are widened, as they are."""
    rows = np.asarray(array).reshape(len(array), -1)
    return rows if rows.dtype == np.uint16 else rows.view(np.uint64)


def _places(style: str, n: int, size: int) -> Iterator[Any]:
    """Yield the rows of batch after batch: computed by the law of order, many batches at once, or a given permutation."""
    step = max(size, POSITIONS // size * size)
    given = np.random.default_rng(0).permutation(n) if style == "given" else np.array([], np.int64)
    for epoch in itertools.count():
        for first in range(0, n, step):
            last = min(first + step, n)
            computed = style != "given"
            rows = order.rows_at(np.arange(first, last), n=n, seed=0, epoch=epoch, shuffle=True) if computed else given[first:last]
            yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _rows(config: Config, source: Source) -> Batches:
    """Make batches of rows of mapped arrays."""
    arrays = [_words(array) for array in source.arrays.values()]
    batches = [np.zeros((config["batch_size"], array.shape[1]), np.int64 if array.dtype == np.uint16 else array.dtype) for array in arrays]
    for rows in _places(config["style"], len(source), config["batch_size"]):
        for array, batch in zip(arrays, batches, strict=True):
            copy_rows(rows, array, batch)
        yield len(rows)


def _copies(config: Config, source: Source) -> Batches:
    """Copy the bytes of a batch of tokens."""
    batch = take(source, range(config["batch_size"]))["tokens"]
    pieces = np.zeros((PIECES, *batch.shape), batch.dtype)
    for number in itertools.count():
        np.copyto(batch, pieces[number % PIECES])
        yield len(batch)


def batches_of(config: Config) -> Batches:
    """Return what makes a configuration's batches."""
    source = Source(config["source"], config["kind"])
    if config["style"] == "copy":
        return _copies(config, source)
    make: Callable[[Config, Source], Batches] = _images if source.files else _stored_images if config["kind"] == "W1-raw" else _rows
    return make(config, source)


def work(config: Config) -> tuple[float, float, int, float]:
    """Return seconds to the first batch, samples a second, samples and CPU seconds of one process."""
    batches = batches_of(config)
    next(batches)
    first_s = time.time() - config["began"]
    until = time.perf_counter() + config["warm_s"]
    while time.perf_counter() < until:
        next(batches)
    samples, began, cpu_s = 0, time.perf_counter(), time.process_time()
    while (took_s := time.perf_counter() - began) < config["seconds"]:
        samples += next(batches)
    return first_s, samples / took_s, samples, time.process_time() - cpu_s


def main() -> None:
    """Run the configuration on the command line in as many processes as it says, and print what the loop of loaders prints."""
    config = json.loads(sys.argv[1])
    if "make" in config:
        Path(config["make"]).mkdir(parents=True, exist_ok=True)
        print("{}")
        return
    if config["workers"] <= 1:
        found = [work(config)]
    else:
        with multiprocessing.get_context("spawn").Pool(config["workers"]) as pool:
            found = pool.map(work, [config] * config["workers"], chunksize=1)
    told = {
        "first_batch_s": max(one[0] for one in found),
        "samples_per_s": sum(one[1] for one in found),
        "samples": sum(one[2] for one in found),
        "window_cpu_s": sum(one[3] for one in found),
        "window_s": config["seconds"],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
