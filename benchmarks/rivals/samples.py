"""What a sample of each workload is, for rivals' programs: rows of the source, a row as bytes and back, and what the training step wants of it.

Nothing but numpy is imported here, and what decodes images only when a workload has images, so that a program for rows is not late by that.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 2049
"""Tokens of a sample of W3."""

BATCH = {"W1": 256, "W1-u8": 256, "W1-raw": 256, "W2": 256, "W3": 8, "W4": 1024}
"""Samples of a batch."""

Sample = dict[str, Any]
"""A row: arrays, encoded bytes and the label, by name."""

SHAPES: dict[str, tuple[str, tuple[int, ...], str]] = {
    "W1-raw": ("image", (256, 256, 3), "uint8"),
    "W2": ("x", (12 * 1024,), "uint8"),
    "W3": ("tokens", (WINDOW,), "uint16"),
    "W4": ("x", (32,), "float32"),
}
"""Name, shape and dtype of the array of each workload that stores one."""


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    """Return a file as an array; as a plain one, since `numpy.memmap` costs some microseconds at every index."""
    return np.asarray(np.load(path, mmap_mode="r"))


class Source:
    """The rows of a workload's source folder.

    Attributes:
        kind: the workload.
        rows: how many there are.
        arrays: the memory-mapped arrays by name; empty for W1.
        files: the JPEG files of W1 in the order of their numbers.
    """

    def __init__(self, folder: str | Path, kind: str) -> None:
        """Map the arrays, or list the files."""
        self.kind = kind
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.files: list[Path] = []
        folder = Path(folder)
        if kind in ("W1", "W1-u8"):
            self.files = sorted(folder.glob("*/*.jpg"), key=lambda path: path.name)
            self._classes = {name: number for number, name in enumerate(sorted({path.parent.name for path in self.files}))}
            self.rows = len(self.files)
            return
        name = SHAPES[kind][0]
        array = _mapped(folder / f"{name}.npy")
        if kind == "W3":
            array = array[: len(array) // WINDOW * WINDOW].reshape(-1, WINDOW)
        else:
            self.arrays["label"] = _mapped(folder / "label.npy")
        self.arrays = {name: array, **self.arrays}
        self.rows = len(array)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.rows

    def __getitem__(self, index: int) -> Sample:
        """Return a row: its array as a view of the file, or its encoded bytes; and its label."""
        if self.files:
            file = self.files[index]
            return {"image": file.read_bytes(), "label": self._classes[file.parent.name]}
        return {name: int(array[index]) if name == "label" else array[index] for name, array in self.arrays.items()}

    def __iter__(self) -> Iterator[Sample]:
        """Yield every row in order."""
        return (self[index] for index in range(self.rows))


def pack(sample: Sample) -> bytes:
    """Return a row as bytes: the label, if it has one, in eight, then the array or the encoded image."""
    head = int(sample["label"]).to_bytes(8, "little") if "label" in sample else b""
    value = next(iter(sample.values()))
    return head + (value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes())


def unpack(kind: str, data: bytes) -> Sample:
    """Return the row that `pack` wrote, its array a view of the bytes."""
    if kind in ("W1", "W1-u8"):
        return {"image": data[8:], "label": int.from_bytes(data[:8], "little")}
    name, shape, dtype = SHAPES[kind]
    head = 0 if kind == "W3" else 8
    sample: Sample = {name: np.frombuffer(data, dtype, offset=head).reshape(shape)}
    return {**sample, "label": int.from_bytes(data[:8], "little")} if head else sample


@functools.cache
def finisher(kind: str) -> Callable[[Sample], Sample]:
    """Return the function that makes a training sample of a row, in numpy: images augmented, tokens as int64, rows as they are."""
    if kind.startswith("W1"):
        augment = importlib.import_module(".pixels", __package__).augment
        normalise = kind != "W1-u8"
        return lambda sample: {"image": augment(sample["image"], normalise=normalise), "label": sample["label"]}
    if kind == "W3":
        return lambda sample: {"tokens": sample["tokens"].astype(np.int64)}
    return lambda sample: sample


def take(source: Source, rows: Sequence[int], *, by_take: bool = False) -> Mapping[str, Any]:
    """Return a batch of rows of an array workload: one fancy index a column, as numpy users write it; tokens as int64.

    Args:
        source: the rows.
        rows: which of them.
        by_take: whether `numpy.take` does it, which fewer write and which is faster for narrow rows.
    """
    batch = {name: np.take(array, rows, axis=0) if by_take else array[rows] for name, array in source.arrays.items()}
    return {name: array.astype(np.int64) for name, array in batch.items()} if source.kind == "W3" else batch


def collate(samples: Sequence[Sample]) -> Mapping[str, Any]:
    """Return samples stacked into one array a column, for loaders that bring no collation of their own."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
