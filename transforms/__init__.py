"""Pure functions on samples and batches: ops, the chain that checks and fuses them, random numbers, kernels.

The public ops are handed out on first use, so that importing this package brings neither numba nor Pillow.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Cast": "arrays",
    "CenterCrop": "image",
    "ColorJitter": "color",
    "CutMix": "mixing",
    "Decode": "image",
    "From": "tokens",
    "Grayscale": "color",
    "Map": "map",
    "MaskLabels": "tokens",
    "MaskTokens": "tokens",
    "MixUp": "mixing",
    "Normalize": "arrays",
    "Op": "base",
    "Pad": "arrays",
    "RandomCrop": "image",
    "RandomErasing": "erasing",
    "RandomHorizontalFlip": "image",
    "RandomResizedCrop": "image",
    "Resize": "image",
    "ShiftLabels": "tokens",
    "ToDtype": "arrays",
    "ToLayout": "arrays",
}

__all__ = [  # noqa: PLE0604 - the table above is the list; a second copy would part from it
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its ops are {', '.join(_HOMES)}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
