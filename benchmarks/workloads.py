"""Makes the data of the side-by-side table: one folder per workload and scale, the same bytes for the same scale, made once.

- W1: photo-like JPEGs around 500 x 375 (one in four upright), quality 90, near 100 KB each, in a folder per class. Default 6,000.
- W1-raw: the same, decoded, resized and cropped to 256 x 256: `image.npy`, `label.npy`.
- W2: 20,000 rows of 12 KiB uint8 and a label: `x.npy`, `label.npy`.
- W3: 200 million uint16 tokens: `tokens.npy`, and where documents end (lengths log-normal): `ends.npy`. A sample is a window of 2,049.
- W4: 2,000,000 rows of 32 float32 and a label: `x.npy`, `label.npy`.

W1-u8 reads W1's data. A folder is complete when `.done` stands in it; anything else is made anew. What each loader reads is made from here into
folders beside this one, by `table`, each by its own program. Cost at scale 1: about three minutes, 2.7 GB.

    python -m benchmarks.workloads DIR --workloads W1,W4 --scale 0.1
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from . import images
from .rivals.samples import WINDOW

ROWS = {"W1": 6_000, "W1-raw": 6_000, "W2": 20_000, "W3": 200_000_000, "W4": 2_000_000}
"""Samples of each workload at scale 1; of W3 tokens."""

STORED = {"W1": "W1", "W1-u8": "W1", "W1-raw": "W1-raw", "W2": "W2", "W3": "W3", "W4": "W4"}
"""The data that each workload reads."""

LEAST = {"W1": 64, "W1-raw": 64, "W2": 64, "W3": 64 * WINDOW, "W4": 64}
"""No scale makes fewer."""

SIDE = 256
"""Pixels of a side of an image of W1-raw."""

GRAIN = 15.0
"""Standard deviation of the grain laid over a photograph, in steps of 255: an enlarged photograph without it compresses to half of 100 KB."""

VERSION = 1
"""Raised when the bytes change, so that old folders are made anew."""

CHUNK = 50


def rows_of(stored: str, scale: float) -> int:
    """Return how many samples (of W3: tokens) a scale has."""
    return max(LEAST[stored], round(ROWS[stored] * scale))


def photograph(index: int) -> Image.Image:
    """Return image `index` of W1 as pixels."""
    rng = np.random.default_rng([1, index])
    width, height = (int(np.clip(rng.normal(mean, mean * 0.04), mean * 0.88, mean * 1.12)) for mean in (500, 375))
    size = (height, width) if index % 4 == 3 else (width, height)
    pixels = np.asarray(images._relit(rng, images._background(rng, *size))).astype(np.float32)  # noqa: SLF001 (the same generator's parts)
    pixels += rng.normal(0, GRAIN, (*pixels.shape[:2], 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def label_of(index: int) -> int:
    """Return the class of image `index`."""
    return index % len(images.CLASSES)


def _write_photographs(out: str, start: int, stop: int) -> None:
    names = list(images.CLASSES)
    for index in range(start, stop):
        photograph(index).save(Path(out) / names[label_of(index)] / images.file_name(index), "JPEG", quality=90)


def _write_decoded(out: str, start: int, stop: int) -> None:
    decoded = np.load(Path(out) / "image.npy", mmap_mode="r+")
    for index in range(start, stop):
        decoded[index] = np.asarray(ImageOps.fit(photograph(index), (SIDE, SIDE), Image.Resampling.BILINEAR))
    decoded.flush()


def _in_chunks(function: Callable[[str, int, int], None], out: Path, count: int) -> None:
    """Have two processes carry out the function over all images."""
    starts = range(0, count, CHUNK)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(function, [str(out)] * len(starts), starts, [min(start + CHUNK, count) for start in starts]))


def _photographs(out: Path, count: int) -> None:
    for name in images.CLASSES:
        (out / name).mkdir()
    _in_chunks(_write_photographs, out, count)


def _decoded(out: Path, count: int) -> None:
    np.lib.format.open_memmap(out / "image.npy", "w+", np.uint8, (count, SIDE, SIDE, 3)).flush()
    np.save(out / "label.npy", np.array([label_of(index) for index in range(count)]))
    _in_chunks(_write_decoded, out, count)


def _arrays(out: Path, count: int) -> None:
    np.save(out / "x.npy", np.random.default_rng(2).integers(0, 256, (count, 12 * 1024), np.uint8))
    np.save(out / "label.npy", np.arange(count))


def _tokens(out: Path, count: int) -> None:
    rng = np.random.default_rng(3)
    np.save(out / "tokens.npy", rng.integers(0, 50_257, count, np.uint16))
    lengths = np.maximum(rng.lognormal(6.0, 1.2, count // 200 + 16), 1).astype(np.int64)
    ends = np.cumsum(lengths)
    np.save(out / "ends.npy", np.append(ends[ends < count], count))


def _rows(out: Path, count: int) -> None:
    np.save(out / "x.npy", np.random.default_rng(4).random((count, 32), np.float32))
    np.save(out / "label.npy", np.arange(count))


MAKERS: dict[str, Callable[[Path, int], None]] = {"W1": _photographs, "W1-raw": _decoded, "W2": _arrays, "W3": _tokens, "W4": _rows}
"""What writes each workload's source into an empty folder."""


def made(folder: Path, stamp: str, make: Callable[[Path], None]) -> Path:
    """Return the folder, made by `make` unless one with the same stamp is complete."""
    done = folder / ".done"
    if done.exists() and done.read_text(encoding="utf-8") == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    done.write_text(stamp, encoding="utf-8")
    return folder


def source(data: Path, workload: str, scale: float) -> Path:
    """Return the folder of a workload's source, made if need be."""
    stored = STORED[workload]
    count = rows_of(stored, scale)
    return made(data / f"{stored}-{count}" / "source", f"{VERSION} {count}", lambda out: MAKERS[stored](out, count))


def main() -> None:
    """Make the data that the command line asks for."""
    parser = argparse.ArgumentParser(description="Make the data of the side-by-side table.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--workloads", default=",".join(STORED))
    parser.add_argument("--scale", type=float, default=1.0)
    asked = parser.parse_args()
    for workload in asked.workloads.split(","):
        folder = source(asked.data, workload, asked.scale)
        print(f"{workload}: {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:,.0f} MB in {folder}")


if __name__ == "__main__":
    main()
