"""Sources in which a row is a file: an image folder (the label is the folder's name), and files by glob.

A file is read whole, once, by the worker that writes it. What is not readable is set aside by its name. The cost is one open and one read a
row. Refused: taking the label from the order in which folders are found, which changes between file systems; classes are sorted by name.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import BadData, BadRequest
from ..fields import Audio, Bytes, Field, Image, Json, Scalar, Schema, Text
from .assign import Spans
from .locate import SUFFIXES
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Files, Pieces, Source, choose

_CONTENT: dict[str, tuple[str, Field]] = {
    **dict.fromkeys(SUFFIXES["images"], ("image", Image())),
    **dict.fromkeys((".flac", ".wav", ".mp3"), ("audio", Audio())),
    **dict.fromkeys((".txt", ".md", ".text"), ("text", Text())),
    ".json": ("json", Json()),
}
_OTHER: tuple[str, Field] = ("data", Bytes())


class _FileRows(Source):
    """Shared by the sources whose rows are files."""

    def pieces(self, described: Described) -> Pieces:  # noqa: ARG002 - the signature is the contract's
        """Return one piece a file; a file costs at least a block of the disk."""
        numbers = np.arange(len(self.files), dtype=np.int64)
        zeros = np.zeros_like(numbers)
        spans = Spans(file=zeros, start=numbers, stop=numbers + 1, note=zeros)
        return Pieces(spans=spans, sizes=np.maximum(self.files.sizes, 512))

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the files' contents."""
        for start, stop in zip(spans.start.tolist(), spans.stop.tolist(), strict=True):
            numbers: list[int] = []
            contents: list[bytes] = []
            held = 0
            for number in range(start, stop):
                try:
                    data = self.files.path(number).read_bytes()
                except OSError as error:
                    shown = self.files.shown(number)
                    yield Bad(source=shown, key=shown, reason=f"cannot be read: {error.strerror or error}")
                    continue
                if held and (held + len(data) > CHUNK_BYTES or len(contents) >= CHUNK_ROWS):
                    yield self._chunk(numbers, contents, held, described)
                    numbers, contents, held = [], [], 0
                numbers.append(number)
                contents.append(data)
                held += len(data)
            if numbers:
                yield self._chunk(numbers, contents, held, described)

    def _chunk(self, numbers: list[int], contents: list[bytes], held: int, described: Described) -> Chunk:
        columns = {name: self._values(name, numbers, contents, described) for name in described.schema}
        keys = [self.files.shown(number) for number in numbers]
        return Chunk(columns=columns, source=None, rows=np.array(numbers, np.int64), keys=keys, size_bytes=held)

    def _names(self, numbers: list[int]) -> list[bytes]:
        """Return the files' names as bytes: one that is not UTF-8 is set aside as a row."""
        return [self.files.names[number] for number in numbers]

    def _values(self, name: str, numbers: list[int], contents: list[bytes], described: Described) -> Any:
        raise NotImplementedError


class ImageFolder(_FileRows):
    """`SRC/<class>/**/*.jpg`: columns `image` and `label`, and `path` when it is asked for; class names in the metadata."""

    kind = "images"

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return image and label unless others are asked for, with the class names sorted."""
        loose = [name for name in self.files.names if b"/" not in name]
        if loose:
            raise BadRequest(
                f"{self.files.root}: {len(loose)} images lie outside any class folder, the first {loose[0].decode('utf-8', 'backslashreplace')!r}; "
                "move them into one, or convert without labels with --from files (kind='files')"
            )
        classes = _class_names(self.files)
        schema: Schema = {"image": Image(), "label": Scalar("int64"), "path": Text()}
        chosen = choose(schema, ("image", "label") if columns is None else columns)
        metadata = {"class_names": {"label": classes}} if "label" in chosen else {}
        return Described(schema=chosen, metadata=metadata, details={"classes": classes})

    def _values(self, name: str, numbers: list[int], contents: list[bytes], described: Described) -> Any:
        if name == "image":
            return contents
        if name == "path":
            return self._names(numbers)
        labels = {os.fsencode(text): number for number, text in enumerate(described.details["classes"])}
        return [labels[self.files.names[number].split(b"/", 1)[0]] for number in numbers]


def _class_names(files: Files) -> list[str]:
    """Return the names of the class folders, sorted.

    Raises:
        BadData: a name is not UTF-8, or two look the same.
    """
    found = sorted({name.split(b"/", 1)[0] for name in files.names})
    names: list[str] = []
    seen: dict[str, str] = {}
    for raw in found:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            shown = raw.decode("utf-8", "backslashreplace")
            raise BadData(f"the class folder {shown!r} has a name that is not UTF-8; rename it", path=files.root) from None
        plain = unicodedata.normalize("NFC", name)
        if plain in seen:
            raise BadData(f"two class folders have the same name {plain!r}, once composed and once decomposed; merge or rename them", path=files.root)
        seen[plain] = name
        names.append(name)
    return names


class LooseFiles(_FileRows):
    """Any files: columns `path` and, by their suffix, `image`, `audio`, `text`, `json` or `data`."""

    kind = "files"

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the content's column, named after what it is when all files agree, and the path."""
        contents = {_CONTENT.get(os.path.splitext(os.fsdecode(name).lower())[1], _OTHER) for name in self.files.names}  # noqa: PTH122 - names as text: a million of them
        column, field = contents.pop() if len(contents) == 1 else _OTHER
        return Described(schema=choose({column: field, "path": Text()}, columns), details={"column": column})

    def _values(self, name: str, numbers: list[int], contents: list[bytes], described: Described) -> Any:  # noqa: ARG002 - shared signature
        if name == "path":
            return self._names(numbers)
        return contents
