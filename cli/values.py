"""One value of a row, as a person or a JSON reader can take it: short, whole in meaning, never megabytes of bytes.

Pure functions of (field, value). An image is described by its header alone; it is not decoded.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import PIL.Image
from rich.filesize import decimal

from ..fields import Array, Field, Image, Json, Scalar, Text, Tokens

MOST_VALUES = 16
"""Numbers of an array that are shown."""

MOST_CHARACTERS = 120
"""Characters of a text that are shown."""


def summary(field: Field, value: Any, names: list[str] | None = None) -> Any:
    """Return a JSON value that says what the row holds; `names` are the class names of a label."""
    if isinstance(field, Scalar):
        named = names is not None and field.dtype != "bool" and float(value).is_integer() and 0 <= value < len(names)
        return {"value": value, "name": names[int(value)]} if named and names is not None else value
    if isinstance(field, (Array, Tokens)):
        flat = np.asarray(value).ravel()
        return {"shape": list(np.shape(value)), "dtype": field.dtype, "first": flat[:MOST_VALUES].tolist()}
    if isinstance(field, (Text, Json)):
        return value
    return _image(value) if isinstance(field, Image) else {"bytes": len(value)}


def _image(value: bytes) -> dict[str, Any]:
    try:
        with PIL.Image.open(io.BytesIO(value)) as image:
            return {"bytes": len(value), "format": (image.format or "").lower(), "width": image.width, "height": image.height, "mode": image.mode}
    except (OSError, PIL.Image.DecompressionBombError) as error:
        return {"bytes": len(value), "error": str(error)}


def line(field: Field, value: Any, names: list[str] | None = None) -> str:
    """Return the value in one line of text."""
    told = summary(field, value, names)
    if isinstance(field, (Text, Json)):
        text = told if isinstance(field, Text) else json.dumps(told, ensure_ascii=False)
        text = " ".join(text.split())
        return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}... ({len(text):,} characters)"
    if not isinstance(told, dict):
        return str(told)
    if "name" in told:
        return f"{told['value']} ({told['name']})"
    if "first" in told:
        numbers = ", ".join(f"{n:g}" if isinstance(n, float) else str(n) for n in told["first"])
        shape = " x ".join(map(str, told["shape"]))
        return f"{told['dtype']} {shape}: {numbers}{', ...' if np.size(value) > MOST_VALUES else ''}"
    size = decimal(told["bytes"])
    if "error" in told:
        return f"{size}, not readable: {told['error']}"
    return f"{told['format']} {told['width']} x {told['height']} {told['mode']}, {size}" if "width" in told else size
