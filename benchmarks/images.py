"""Make a labelled set of photo-like JPEG files in class folders, the same bytes for the same seed.

Each image is a crop of one of scikit-learn's two photographs, turned, scaled and relit, so that decoding it costs what a photograph's decoding
costs; over it lies one of eight translucent shapes, the class, in a colour that leans to the class without giving it away. A small network
learns that in two or three epochs. Nothing is downloaded. Image `i` depends on (seed, i) alone, never on the number of processes.

    python -m benchmarks.images OUT --count 3000 --seed 0

Cost: about 4 ms of one core an image.
"""

from __future__ import annotations

import argparse
import colorsys
import functools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

Point = tuple[float, float]
Shape = Callable[[ImageDraw.ImageDraw, float, float, float, float], None]

SIDE_PX = (200, 400)
"""The least and the greatest length of a side."""
CHUNK = 50
"""Images a task makes: long enough to hide the cost of a task, short enough to keep both processes busy to the end."""


def _around(x: float, y: float, radii: Sequence[float], turn: float) -> list[Point]:
    """Return corners at equal angles around a centre, at the given distances in turn."""
    angles = (turn + 2 * math.pi * k / len(radii) for k in range(len(radii)))
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, _turn: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, _turn: float) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), outline=255, width=max(4, int(r / 3)))


def _square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    draw.polygon(_around(x, y, [r] * 4, turn), fill=255)


def _triangle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    draw.polygon(_around(x, y, [r] * 3, turn), fill=255)


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    draw.polygon(_around(x, y, [r, r * 0.4] * 5, turn), fill=255)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    for a in (turn, turn + math.pi / 2):
        dx, dy = r * math.cos(a), r * math.sin(a)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=int(r / 2.5))


def _stripes(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    across, along = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
    for k in (-0.8, -0.27, 0.27, 0.8):
        cx, cy = x + k * r * across[0], y + k * r * across[1]
        draw.line((cx - r * along[0], cy - r * along[1], cx + r * along[0], cy + r * along[1]), fill=255, width=int(r / 4))


def _dots(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, turn: float) -> None:
    for cx, cy in [(x, y), *_around(x, y, [r * 0.75] * 6, turn)]:
        _disc(draw, cx, cy, r / 4, turn)


CLASSES: dict[str, Shape] = {
    "cross": _cross,
    "disc": _disc,
    "dots": _dots,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "stripes": _stripes,
    "triangle": _triangle,
}
"""The shape drawn for each class, in the order of the labels (that of the sorted folder names)."""


@functools.cache
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(photograph) for photograph in load_sample_images().images)


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a turned and scaled piece of a photograph; the piece is made smaller where it would reach over the edge."""
    photograph = _photographs()[rng.integers(len(_photographs()))]
    turn, zoom = rng.uniform(-0.4, 0.4), rng.uniform(0.4, 1.0)
    reach = zoom * math.hypot(width, height) / 2
    scale = min(1.0, (min(photograph.size) - 2) / (2 * reach))
    reach, zoom = reach * scale, zoom * scale
    cx, cy = (rng.uniform(reach, side - reach) for side in photograph.size)
    a, b = zoom * math.cos(turn), zoom * math.sin(turn)
    matrix = (a, b, cx - a * width / 2 - b * height / 2, -b, a, cy + b * width / 2 - a * height / 2)
    return photograph.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _relit(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Return the image with another brightness and contrast in each channel."""
    gains, offsets = rng.uniform(0.6, 1.1, 3) * rng.uniform(0.8, 1.1), rng.uniform(-15, 15, 3)
    table = np.clip(np.arange(256)[None] * gains[:, None] + offsets[:, None], 0, 255).astype(int)
    return image.point(table.ravel().tolist())


def make_image(seed: int, index: int) -> tuple[str, Image.Image, int]:
    """Return the class, the pixels and the JPEG quality of image `index`."""
    rng = np.random.default_rng([seed, index])
    number = index % len(CLASSES)
    name = list(CLASSES)[number]
    width, height = (int(n) for n in rng.integers(SIDE_PX[0], SIDE_PX[1] + 1, 2))
    image = _relit(rng, _background(rng, width, height))
    side = min(width, height)
    mask = Image.new("L", image.size)
    x, y = width / 2 + rng.uniform(-0.1, 0.1) * side, height / 2 + rng.uniform(-0.1, 0.1) * side
    CLASSES[name](ImageDraw.Draw(mask), x, y, rng.uniform(0.3, 0.42) * side, rng.uniform(0, 2 * math.pi))
    hue = (number / len(CLASSES) + rng.normal(0, 0.06)) % 1
    colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, rng.uniform(0.7, 1), rng.uniform(0.7, 1)))
    strength = rng.uniform(0.6, 0.85)
    image.paste(Image.new("RGB", image.size, colour), mask=mask.point([int(v * strength) for v in range(256)]))
    return name, image, int(rng.integers(80, 96))


def file_name(index: int) -> str:
    """Return the name of image `index` in its class folder: its number is in it."""
    return f"{index:06d}.jpg"


def _make_chunk(out: str, seed: int, start: int, stop: int) -> int:
    total_bytes = 0
    for index in range(start, stop):
        name, image, quality = make_image(seed, index)
        path = Path(out) / name / file_name(index)
        image.save(path, "JPEG", quality=quality)
        total_bytes += path.stat().st_size
    return total_bytes


def generate(out: Path, count: int, seed: int = 0, processes: int = 2) -> int:
    """Write images `0..count` under `out` and return their bytes; the bytes do not depend on `processes`."""
    for name in CLASSES:
        (out / name).mkdir(parents=True, exist_ok=True)
    starts = range(0, count, CHUNK)
    stops = [min(start + CHUNK, count) for start in starts]
    tasks = ([str(out)] * len(starts), [seed] * len(starts), starts, stops)
    if processes == 1:
        return sum(map(_make_chunk, *tasks))
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(_make_chunk, *tasks))


def main() -> None:
    """Make the set that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.images", description="Make a labelled photo-like image set: JPEG files in class folders."
    )
    parser.add_argument("out", type=Path, help="folder that gets one folder per class")
    parser.add_argument("--count", type=int, default=3000, help="images in all, the classes in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    start = time.perf_counter()
    total_bytes = generate(asked.out, asked.count, asked.seed, asked.processes)
    print(f"{asked.count} images of {len(CLASSES)} classes, {total_bytes / 1e6:.1f} MB, in {asked.out} after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
