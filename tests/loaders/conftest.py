"""Datasets that the loader's tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image as Pillow

import penstock as ps


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    """Return 1,003 rows of every kind of column, in several shards of several blocks."""
    path = tmp_path_factory.mktemp("rows") / "out"
    rng = np.random.default_rng(0)
    fields = {
        "x": ps.Array((32,), "float32"),
        "label": ps.Scalar("int64"),
        "flag": ps.Scalar("bool"),
        "text": ps.Text(),
        "tokens": ps.Tokens("uint16"),
        "meta": ps.Json(),
    }
    with ps.Writer(path, fields=fields, shard_size="40KB") as writer:
        for i in range(1003):
            tokens = rng.integers(0, 60000, i % 40).astype(np.uint16)
            writer.write(
                {"x": rng.random(32, np.float32), "label": i, "flag": i % 3 == 0, "text": f"row {i} " * (i % 9), "tokens": tokens, "meta": {"i": i}}
            )
    return ps.Dataset(path)


@pytest.fixture(scope="session")
def jpeg() -> Callable[[int, int, int], bytes]:
    """Return a maker of photo-like JPEGs: (seed, height, width) to bytes."""

    def make(seed: int, height: int, width: int) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
        smooth = np.asarray(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BICUBIC))
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(smooth), quality=90))

    return make


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[[int, int, int], bytes]) -> ps.Dataset:
    """Return 75 JPEG and PNG images of differing sizes with a label."""
    path = tmp_path_factory.mktemp("images") / "out"
    with ps.Writer(path, fields={"image": ps.Image("any"), "label": ps.Scalar("int64")}, shard_size="60KB") as writer:
        for i in range(75):
            data = jpeg(i, 40 + i, 90 - i // 2)
            if i % 10 == 0:
                file = io.BytesIO()
                Pillow.open(io.BytesIO(data)).save(file, "PNG")
                data = file.getvalue()
            writer.write({"image": data, "label": i})
    return ps.Dataset(path)


@pytest.fixture
def small(tmp_path: Path) -> ps.Dataset:
    """Return 23 rows of a number."""
    with ps.Writer(tmp_path / "small", fields={"n": ps.Scalar("int32")}) as writer:
        for i in range(23):
            writer.write({"n": i})
    return ps.Dataset(tmp_path / "small")
