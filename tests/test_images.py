"""The generated image set is what the demo and the benchmarks rely on: labelled, photo-like, and the same for the same seed."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import images

ROOT = Path(__file__).resolve().parent.parent


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_bytes_depend_on_the_seed_alone(tmp_path: Path) -> None:
    """One process and two make the same files; another seed makes others."""
    images.generate(tmp_path / "one", 60, seed=3, processes=1)
    images.generate(tmp_path / "two", 60, seed=3, processes=2)
    images.generate(tmp_path / "other", 60, seed=4, processes=2)
    one = contents(tmp_path / "one")
    assert len(one) == 60
    assert one == contents(tmp_path / "two")
    assert not set(one.values()) & set(contents(tmp_path / "other").values())


def test_a_longer_set_begins_with_the_shorter(tmp_path: Path) -> None:
    """An image depends on its number, not on the count, so a set can be made longer without changing what is there."""
    images.generate(tmp_path / "short", 8, processes=1)
    images.generate(tmp_path / "long", 16, processes=1)
    assert contents(tmp_path / "short").items() <= contents(tmp_path / "long").items()


def test_classes_are_even_and_named_by_folder(tmp_path: Path) -> None:
    """Every class has its folder and the same number of images, in the order of the sorted names."""
    images.generate(tmp_path, 32, processes=1)
    assert Counter(path.parent.name for path in tmp_path.rglob("*.jpg")) == dict.fromkeys(images.CLASSES, 4)
    assert list(images.CLASSES) == sorted(images.CLASSES)


@pytest.mark.parametrize("index", range(16))
def test_an_image_is_photo_like(index: int) -> None:
    """Sides lie within bounds, and the JPEG has the detail of a photograph rather than of a drawing."""
    name, image, quality = images.make_image(0, index)
    assert name == list(images.CLASSES)[index % 8]
    assert all(images.SIDE_PX[0] <= side <= images.SIDE_PX[1] for side in image.size)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    bits_per_pixel = 8 * len(data.getvalue()) / (image.width * image.height)
    assert bits_per_pixel > 0.4
    assert np.asarray(image.convert("L")).std() > 8


def test_background_stays_inside_the_photograph() -> None:
    """No background reaches over the photograph's edge, where the affine transform would paint pure black."""
    for index in range(200):
        rng = np.random.default_rng([9, index])
        pixels = np.asarray(images._background(rng, 400, 200 + index))
        assert (pixels.max(axis=2) == 0).mean() < 0.02


def test_the_program_says_what_it_made(tmp_path: Path) -> None:
    """`python -m benchmarks.images` writes the set and reports count, classes, bytes and time."""
    command = [sys.executable, "-m", "benchmarks.images", str(tmp_path / "set"), "--count", "10", "--seed", "1", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT)
    assert done.stdout.startswith("10 images of 8 classes, ")
    assert len(contents(tmp_path / "set")) == 10
