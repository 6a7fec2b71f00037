"""How kernels are compiled here, and whether they have been.

numba keeps machine code on disk (beside the source, or in the user's cache folder where that is not writable), keyed by the source file. The first
process on a machine compiles for some seconds; every later one loads in milliseconds. So that a caller can say "compiling" and let one process do
it before many start, `cached` looks at the folder without compiling, and `compilations` counts afterwards.

numba sees a change of the file a kernel stands in, not of the files it calls: after editing `vectors.py`, delete `__pycache__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Compiled = TypeVar("Compiled", bound=Callable[..., object])

Kernel = Callable[..., Any]
"""A function that `compiled` has wrapped."""


def compiled(function: Compiled) -> Compiled:
    """Compile with numba on the first call; keep the machine code on disk, release the GIL, and keep IEEE arithmetic as written."""
    return cast(Compiled, numba.njit(cache=True, nogil=True, fastmath=False)(function))


def compilations(kernels: Iterable[Kernel]) -> int:
    """Return how often this process had to compile them, not counting machine code found on disk."""
    dispatchers: Any = kernels
    return sum(sum(kernel.stats.cache_misses.values()) for kernel in dispatchers)


def cached(kernels: Iterable[Kernel]) -> bool:
    """Return whether machine code of each lies on disk and is not older than its source; looks at the folder only."""
    return all(_on_disk(kernel) for kernel in kernels)


def _on_disk(kernel: Any) -> bool:
    source = Path(inspect.getfile(kernel.py_func))
    wanted = source.stat().st_mtime
    found = Path(kernel.stats.cache_path).glob(f"{source.stem}.{kernel.py_func.__qualname__}-*.nbi")
    return any(index.stat().st_mtime >= wanted for index in found)
