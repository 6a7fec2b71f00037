"""Reads the metadata of an Arrow IPC file without Arrow: where the columns' buffers lie, for the plain layouts that Penstock writes.

A training process that opens a dataset of ours reads no other files, and pyarrow would cost it 30 ms and 40 MB of memory, and each of its workers
as much. The metadata is flatbuffers (https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format): tables whose fields are found through a
vtable of 16-bit places. Nothing in them is trusted: every place is looked up in the metadata's own bytes, every buffer must lie in its record
batch's body, and the body in the file.

Must never: guess. Whatever is out of the ordinary (a type that is not plain, a dictionary, compression, a null, a length that does not fit)
is a `NotPlain`, and the caller has Arrow read the file and say what is wrong with it.
Cost: a file costs its footer once; a record batch about 15 microseconds. Refused: the flatbuffers package, whose generated readers are not part of it.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

_MAGIC = b"ARROW1"
_MOST_FIELDS = 4096
_MOST_DEPTH = 33
_LITTLE, _RECORD_BATCH, _CONTINUES = 0, 3, 0xFFFFFFFF
_INT, _FLOAT, _BINARY, _UTF8, _BOOL, _LIST, _FIXED_LIST = 2, 3, 4, 5, 6, 12, 16
_BLOCK = np.dtype([("offset", "<i8"), ("metadata", "<i4"), ("", "<i4"), ("body", "<i8")])
_PAIRS = np.dtype("<i8")

Memory = npt.NDArray[np.uint8]


class NotPlain(Exception):
    """The file, or this part of it, is not in the plain layout; the text says what was met."""


class Stored(NamedTuple):
    """One column's type as the file has it.

    Attributes:
        name: of the column or of a list's items.
        kind: `bool` and numpy's names of numbers; `binary`, `string`, `list`, or `fixed` for a list of fixed size.
        size: items of a fixed list.
        items: what a list holds, or None.
        description: the text under the key `penstock` of the field's metadata, or None.
    """

    name: str
    kind: str
    size: int
    items: Stored | None
    description: str | None

    @property
    def nodes(self) -> int:
        """How many field nodes a record batch has for it."""
        return 1 + (self.items.nodes if self.items is not None else 0)

    @property
    def buffers(self) -> int:
        """How many buffers a record batch has for it: validity, and by kind offsets and values."""
        own = {"binary": 3, "string": 3, "fixed": 1}.get(self.kind, 2)
        return own + (self.items.buffers if self.items is not None else 0)


class Body(NamedTuple):
    """One record batch.

    Attributes:
        rows: how many it has.
        nodes: `[nodes, 2]` length and nulls of each field node.
        buffers: `[buffers, 2]` place and bytes of each buffer in `memory`; all lie inside it.
        memory: the body, a view of the file.
    """

    rows: int
    nodes: list[list[int]]
    buffers: list[list[int]]
    memory: Memory


@final
class _Table:
    """A table of a flatbuffer."""

    __slots__ = ("_at", "_data", "_left", "_length", "_vtable")

    def __init__(self, data: memoryview, at: int, left: list[int]) -> None:
        self._data = data
        self._at = at
        self._left = left
        self._spend(4)
        self._vtable = at - self._read("<i", at)
        self._length = self._read("<H", self._vtable)

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        """Return the table that a flatbuffer begins with."""
        return cls(data, struct.unpack_from("<I", data)[0], [2 * len(data)])

    def _spend(self, size: int) -> None:
        """Count bytes that are looked at: tables and texts that refer to each other's memory could make a small file take hours."""
        self._left[0] -= size
        if self._left[0] < 0:
            raise NotPlain(f"{len(self._data)} bytes of metadata that are looked at again and again")

    def _read(self, form: str, at: int) -> int:
        if at < 0:  # struct would count from the end
            raise NotPlain(f"a place {at} before the beginning")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _place(self, field: int) -> int:
        """Return where a field lies, or 0 when it is not set."""
        slot = 4 + 2 * field
        set_at = self._read("<H", self._vtable + slot) if slot + 2 <= self._length else 0
        return self._at + set_at if set_at else 0

    def number(self, field: int, form: str, default: int = 0) -> int:
        """Return a scalar."""
        place = self._place(field)
        return self._read(form, place) if place else default

    def has(self, field: int) -> bool:
        """Return whether a field is set."""
        return self._place(field) != 0

    def table(self, field: int) -> _Table:
        """Return a table."""
        place = self._place(field)
        if not place:
            raise NotPlain(f"the table {field} is missing")
        return _Table(self._data, place + self._read("<I", place), self._left)

    def vector(self, field: int, each: int) -> memoryview:
        """Return the bytes of a vector of structs or scalars of `each` bytes; empty when it is not set."""
        place = self._place(field)
        if not place:
            return self._data[:0]
        start = place + self._read("<I", place)
        stop = start + 4 + self._read("<I", start) * each
        if stop > len(self._data):
            raise NotPlain(f"a vector that ends at {stop} of {len(self._data)} bytes")
        self._spend(stop - start)
        return self._data[start + 4 : stop]

    def tables(self, field: int) -> list[_Table]:
        """Return a vector of tables."""
        places = self.vector(field, 4)
        if len(places) > 4 * _MOST_FIELDS:
            raise NotPlain(f"{len(places) // 4} tables")
        if not len(places):
            return []
        first = self._place(field)
        start = first + self._read("<I", first) + 4
        return [_Table(self._data, start + 4 * i + place, self._left) for i, (place,) in enumerate(struct.iter_unpack("<I", places))]

    def text(self, field: int) -> str:
        """Return a string; empty when it is not set."""
        return str(self.vector(field, 1), "utf-8")


def _stored(field: _Table, depth: int = 0) -> Stored:
    """Return a field of a schema."""
    kind, items = field.number(2, "<B"), field.tables(5)
    if field.has(4) or depth > _MOST_DEPTH:
        raise NotPlain("a dictionary, or lists too deep")
    described = None
    for pair in field.tables(6):
        key = pair.text(0)
        if key.startswith("ARROW:extension"):
            raise NotPlain("an extension type")
        described = pair.text(1) if key == "penstock" else described
    size = 0
    if kind == _INT:
        name = ("int" if field.table(3).number(1, "<B") else "uint") + str(field.table(3).number(0, "<i"))
    elif kind == _FLOAT:
        name = f"float{(16, 32, 64)[field.table(3).number(0, '<H')]}"
    elif kind == _FIXED_LIST:
        name, size = "fixed", field.table(3).number(0, "<i")
    else:
        name = {_BINARY: "binary", _UTF8: "string", _BOOL: "bool", _LIST: "list"}.get(kind, "")
    if not name or size < 0 or len(items) != (kind in (_LIST, _FIXED_LIST)):
        raise NotPlain(f"type {kind} with {len(items)} children")
    return Stored(field.text(0), name, size, _stored(items[0], depth + 1) if items else None, described)


@final
class PlainFile:
    """An Arrow IPC file of plain columns.

    Attributes:
        columns: what it holds, in order.
        count: how many record batches it has.
    """

    def __init__(self, memory: Memory) -> None:
        """Read the footer of a mapped file.

        Raises:
            NotPlain: it is not such a file.
        """
        self._memory = memory
        try:
            footer = _Table.root(self._footer())
            schema = footer.table(1)
            if schema.number(0, "<h") != _LITTLE or len(footer.vector(2, 24)):
                raise NotPlain("big-endian numbers, or dictionaries")
            self.columns = [_stored(field) for field in schema.tables(1)]
            blocks = np.frombuffer(footer.vector(3, _BLOCK.itemsize), _BLOCK)
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise NotPlain(str(error)) from None
        self.count = len(blocks)
        self._places = list(zip(blocks["offset"].tolist(), blocks["metadata"].tolist(), blocks["body"].tolist(), strict=True))

    def _footer(self) -> memoryview:
        memory = self._memory
        end = len(memory) - len(_MAGIC) - 4
        if end < 8 or bytes(memory[: len(_MAGIC)]) != _MAGIC or bytes(memory[end + 4 :]) != _MAGIC:
            raise NotPlain("no Arrow file")
        size = int(memory[end : end + 4].view("<i4")[0])
        if not 0 < size <= end - 8:
            raise NotPlain(f"a footer of {size} bytes")
        return memory[end - size : end].data

    def body(self, number: int) -> Body:
        """Return record batch `number`.

        Raises:
            NotPlain: its message is damaged, or its buffers are compressed.
        """
        offset, metadata_bytes, body_bytes = self._places[number]
        start = offset + metadata_bytes
        if offset < 8 or metadata_bytes < 8 or body_bytes < 0 or start + body_bytes > len(self._memory):
            raise NotPlain(f"record batch {number} at {offset}, {metadata_bytes} and {body_bytes} bytes")
        try:
            return self._parsed(self._memory[offset:start].data, self._memory[start : start + body_bytes])
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise NotPlain(str(error)) from None

    @staticmethod
    def _parsed(data: memoryview, memory: Memory) -> Body:
        continues, size = struct.unpack_from("<II", data)
        message = _Table.root(data[8 : 8 + size])
        batch = message.table(2)
        if size + 8 != len(data) or message.number(3, "<q") != len(memory):
            raise NotPlain(f"a message of {size} bytes in {len(data) - 8}, whose body is not that of {len(memory)} bytes")
        if continues != _CONTINUES or message.number(1, "<B") != _RECORD_BATCH or batch.has(3):
            raise NotPlain("no plain record batch")
        nodes = np.frombuffer(batch.vector(1, 16), _PAIRS).reshape(-1, 2)
        buffers = np.frombuffer(batch.vector(2, 16), _PAIRS).reshape(-1, 2)
        if int(buffers.min(initial=0)) < 0 or int(nodes.min(initial=0)) < 0 or int(buffers.max(initial=0)) > len(memory):
            raise NotPlain("a buffer before or behind the body")
        if int(buffers.sum(axis=1).max(initial=0)) > len(memory) or (buffers[:, 0] & 7).any():
            raise NotPlain("a buffer that ends behind the body, or begins at no multiple of 8")
        return Body(batch.number(0, "<q"), nodes.tolist(), buffers.tolist(), memory)


def take(body: Body, stored: Stored, node: int, buffer: int, dtype: str) -> Any:
    """Return the views of one column: an array of numbers, or `(offsets, values)` of runs.

    Args:
        body: the record batch.
        stored: the column's type.
        node: number of the column's first field node.
        buffer: number of its first buffer.
        dtype: numpy name of an element.

    Raises:
        NotPlain: there is a null, or the lengths and buffers do not fit each other.
    """
    length = body.rows
    while stored.kind == "fixed" and stored.items is not None:
        _expect(body, node, length)
        length *= stored.size
        stored, node, buffer = stored.items, node + 1, buffer + 1
    _expect(body, node, length)
    if stored.kind not in ("list", "binary", "string"):
        return _numbers(body, buffer + 1, length, dtype)
    offsets = _numbers(body, buffer + 1, length + 1, "int32") if length else np.zeros(1, np.int32)
    if stored.kind != "list":
        return offsets, _numbers(body, buffer + 2, body.buffers[buffer + 2][1], "uint8")
    count = body.nodes[node + 1][0]
    _expect(body, node + 1, count)
    return offsets, _numbers(body, buffer + 3, count, dtype)


def _expect(body: Body, node: int, length: int) -> None:
    if body.nodes[node] != [length, 0]:
        raise NotPlain(f"a column of {body.nodes[node]} values and nulls where {length} values were expected")


def _numbers(body: Body, buffer: int, count: int, dtype: str) -> npt.NDArray[Any]:
    place, size = body.buffers[buffer]
    if dtype == "bool":
        if (count + 7) // 8 > size:
            raise NotPlain(f"{count} truth values in {size} bytes")
        packed = body.memory[place : place + (count + 7) // 8]
        return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)
    wanted = count * np.dtype(dtype).itemsize
    if wanted > size:
        raise NotPlain(f"{count} values of {dtype} in {size} bytes")
    return body.memory[place : place + wanted].view(dtype)
