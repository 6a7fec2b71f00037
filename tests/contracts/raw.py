"""Raw data for conversion tests, and what a conversion left: small images in class folders, and a tree of files by content."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

import penstock as ps
from penstock.ingest.convert import convert


def jpeg(seed: int, height: int = 24, width: int = 32, quality: int = 90) -> bytes:
    """Return a noisy JPEG, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    pixels = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    made: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420")
    return made


def picture(encoding: str, mode: str = "RGB", size: tuple[int, int] = (32, 24), **options: Any) -> bytes:
    """Return an image that Pillow wrote."""
    out = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(out, encoding, **options)
    return out.getvalue()


def image_folder(root: Path, classes: int = 3, each: int = 5, **options: int) -> dict[str, bytes]:
    """Write `root/class_<c>/<i>.jpg`; return what was written by relative path, in order."""
    made = {}
    for c in range(classes):
        for i in range(each):
            name = f"class_{c}/{i:04d}.jpg"
            made[name] = jpeg(c * 1000 + i, **options)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(made[name])
    return made


def tree(root: Path) -> dict[str, str]:
    """Return the content hash of every file below a folder, and a mark for every folder, by relative path."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def rows_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Return all rows of a dataset."""
    dataset = ps.Dataset(str(path), **options)
    try:
        return [dataset[i] for i in range(len(dataset))]
    finally:
        dataset.close()


def same_rows(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    """Whether two lists of rows hold the same values, arrays included."""
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if list(one) != list(other):
            return False
        for name, value in one.items():
            given = other[name]
            same = np.array_equal(value, given) and value.dtype == given.dtype if isinstance(value, np.ndarray) else value == given
            if not same:
                return False
    return True


def run(src: Path | str, out: Path, **options: Any) -> Any:
    """Convert in this process."""
    return convert(src, out, workers=0, **options)


def quarantine(out: Path) -> list[dict[str, Any]]:
    """Return what was set aside."""
    (file,) = (out / "_penstock" / "quarantine").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def nothing_published(out: Path) -> bool:
    """Whether no version and no shard is there."""
    return not list(out.glob("_penstock/commits/*")) and not list(out.glob("data/*"))
