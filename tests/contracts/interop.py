"""Rows that every foreign library is shown, and that every foreign library writes for us."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from penstock.fields import Array, Bytes, Image, Json, Scalar, Schema, Text, Tokens
from penstock.shards.writer import Writer

ROWS = 30

SCHEMA: Schema = {
    "image": Image("jpeg"),
    "label": Scalar("int64"),
    "weight": Scalar("float32"),
    "on": Scalar("bool"),
    "vector": Array((4,), "float32"),
    "grid": Array((2, 3), "float32"),
    "tokens": Tokens("int32"),
    "caption": Text(),
    "note": Json(),
    "raw": Bytes(),
}
"""One column of each kind that all of the libraries know."""


def jpeg(number: int) -> bytes:
    """Return a small real JPEG."""
    stream = io.BytesIO()
    Pillow.fromarray(np.full((8, 8, 3), number * 8, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def row(number: int) -> dict[str, Any]:
    """Return row `number`."""
    return {
        "image": jpeg(number),
        "label": number % 3,
        "weight": float(np.float32(number / 7)),
        "on": number % 2 == 0,
        "vector": np.full(4, number, np.float32),
        "grid": np.full((2, 3), number, np.float32),
        "tokens": np.arange(number % 4, dtype=np.int32),
        "caption": f"é {number}",
        "note": {"n": number},
        "raw": bytes([number]) * (number % 3),
    }


def write_ours(root: Path, format: str, schema: Schema = SCHEMA, **options: Any) -> list[Path]:  # noqa: A002 (Writer's own word)
    """Write the rows with our writer and return the shards, in order."""
    with Writer(root, schema, format=format, **options) as writer:
        for number in range(ROWS):
            writer.write({name: value for name, value in row(number).items() if name in schema})
    return sorted((root / "data").glob(f"*.{format}"))


def plain(value: Any) -> Any:
    """Return a value as plain Python, so that libraries can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def as_stored(number: int) -> dict[str, Any]:
    """Return row `number` as a library sees it that does not know our fields: arrays are lists, JSON is text."""
    return {name: SCHEMA[name].encode(value) if name == "note" else plain(value) for name, value in row(number).items()}
