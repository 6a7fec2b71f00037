"""JSON Lines as a source: one object a line.

Columns and types are inferred from the beginning, the middle and the end of the first file: numbers, truth values, text, runs of numbers; anything
nested is kept as JSON. A column that fewer than half of those records have is none; records that have it are damaged structure. pyarrow's parser reads
the lines when every column is plain; Python's, ten times slower, when a column is nested or only some columns are wanted. pyarrow takes documents
from wherever they stand, so that each line holds exactly one is checked here; and it dies of a run that begins with `null`. Refused: pyarrow's own inference, which turns text that looks like a date into a timestamp.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.json

from ..errors import BadData, StorageError
from ..fields import Json, Scalar, Schema, Text, Tokens
from ..shards.arrow_types import field_to_arrow
from ..shards.storage import map_file
from .records import SPACE, Memory
from .source import Described, choose
from .sources_text import BOM, TextSource, samples

_OBJECT = re.compile(rb"[ \t\r\n]*\{")
_EDGE = re.compile(rb"\}[ \t\r]*\n[ \t\r\n]*\{")
"""A line break between two documents: inside one no brace opens right behind one that closes."""


class JsonlSource(TextSource):
    """One JSON object a line."""

    kind: ClassVar[str] = "jsonl"
    delimiter: int | None = None

    def _header(self, number: int, data: Memory, described: Described | None) -> int:
        del number, described
        return len(BOM) if data[:3].tobytes() == BOM else 0

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the columns of the first file that has a record, with types inferred from what its values are."""
        seen: dict[str, Counter[str]] = {}
        damage = "the source holds no record"
        for number in range(len(self.files)):
            try:
                data = map_file(self.files.path(number))
            except StorageError as error:
                damage = error.message
                continue
            for part in samples(data[self._header(number, data, None) :], None):
                damage = _look(part, seen) or damage
            if seen:
                break
        if not seen:
            raise BadData(damage, path=self.files.path(0))
        most = max(kinds.total() for kinds in seen.values())
        usual = {name: set(kinds) for name, kinds in seen.items() if 2 * kinds.total() >= most or (columns is not None and name in columns)}
        schema: Schema = {name: _json_field(kinds) for name, kinds in usual.items() if kinds != {"null"} or columns is not None}
        return Described(schema=choose(schema, columns), details={"names": list(usual), "all": columns is None})

    def parse(self, data: Memory, described: Described) -> pa.Table:
        """Return the rows of whole lines; pyarrow's parser when it can tell everything, Python's for nested values."""
        text = data.tobytes()
        text.decode()  # pyarrow does not look whether text is UTF-8
        if any(isinstance(field, Json) for field in described.schema.values()) or not described.details["all"]:
            return _parse_lines(data, described)
        if not _OBJECT.match(text):
            raise BadData("a line does not begin with an object")
        wanted = pa.schema([pa.field(name, field_to_arrow(name, field).type) for name, field in described.schema.items()])
        table = pa.json.read_json(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="error"),
        )
        if any(column.null_count for column in table.columns):
            raise BadData("a value is null or missing")
        if table.num_rows != _documents_apart(text, table.num_rows):
            raise BadData(f"{table.num_rows} documents do not stand on lines of their own")
        return table

    def _suspect(self, record: bytes, described: Described) -> bool:
        try:
            _row(json.loads(record), described)
        except (ValueError, RecursionError, BadData):
            return True
        return False

    def _judge(self, record: bytes, error: Exception, described: Described) -> tuple[str, bool]:
        try:
            value = json.loads(record)
        except (ValueError, RecursionError) as damage:
            if isinstance(damage, json.JSONDecodeError) and damage.msg == "Extra data":
                return f"more than one JSON document, the next at character {damage.pos + 1}; write one object a line: {record[:80]!r}", True
            return f"not JSON: {damage}: {record[:80]!r}", True
        if not isinstance(value, dict):
            kind = "null" if value is None else type(value).__name__
            return f"a JSON {kind} where an object was expected; write one object a line: {record[:80]!r}", True
        missing = [name for name in described.schema if name not in value]
        extra = [name for name in value if name not in described.details["names"]] if described.details["all"] else []
        if missing or extra:
            return f"other columns than the first records: missing {missing}, extra {extra}", True
        if nulls := [name for name in described.schema if value[name] is None]:
            return f"{', '.join(map(repr, nulls))} is null", False
        return (str(error).splitlines() or ["cannot be read"])[0], False


def _documents_apart(text: bytes, rows: int) -> int:
    """Return how many documents of whole JSON text line breaks tell apart; `rows`, what is hoped for, says when the quick count is enough."""
    apart = 1 + text.count(b"}\n{") + text.count(b"}\r\n{")
    return apart if apart == rows else 1 + sum(1 for _ in _EDGE.finditer(text))


def _look(part: Memory, seen: dict[str, Counter[str]]) -> str | None:
    """Add the kinds of the values of some records; return what is wrong when there is none."""
    damage = None
    for line in part.tobytes().split(b"\n"):
        try:
            value = json.loads(line) if line.strip(SPACE) else None
        except (ValueError, RecursionError) as error:
            damage = f"not JSON Lines: {error}: {line[:80]!r}"
            continue
        if isinstance(value, dict):
            for name, of in value.items():
                seen.setdefault(name, Counter())[_kind(of)] += 1
        elif value is not None:
            damage = f"a JSON {type(value).__name__} where an object was expected; write one object a line"
    return damage


def _kind(value: Any) -> str:
    if isinstance(value, list):
        kinds = {_kind(item) for item in value}
        return "ints" if kinds <= {"int"} else "floats" if kinds <= {"int", "float"} else "json"
    names: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "text", type(None): "null"}
    return names.get(type(value), "json")


def _json_field(kinds: set[str]) -> Scalar | Text | Json | Tokens:
    kinds = kinds - {"null"}
    fields: list[tuple[set[str], Any]] = [
        ({"bool"}, Scalar("bool")),
        ({"int"}, Scalar("int64")),
        ({"int", "float"}, Scalar("float64")),
        ({"text"}, Text()),
        ({"ints"}, Tokens("int64")),
        ({"ints", "floats"}, Tokens("float64")),
    ]
    return next((field for within, field in fields if kinds and kinds <= within), Json())


def _parse_lines(data: Memory, described: Described) -> pa.Table:
    """Return the rows of whole lines by Python's parser."""
    values: dict[str, list[Any]] = {name: [] for name in described.schema}
    for line in data.tobytes().split(b"\n"):
        if not line.strip(SPACE):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"not JSON: {error}") from None
        for name, value in _row(row, described).items():
            values[name].append(value)
    return pa.table(
        [pa.array(values[name], field_to_arrow(name, field).type) for name, field in described.schema.items()], names=list(described.schema)
    )


def _row(row: Any, described: Described) -> dict[str, Any]:
    """Return the encoded values of a parsed line.

    Raises:
        BadData: it is not an object with the columns, or a value is not what its column holds.
    """
    if not isinstance(row, dict) or (described.details["all"] and len(row) > len(described.details["names"])):
        raise BadData("not an object, or one with other columns")
    if described.details["all"] and (extra := [name for name in row if name not in described.details["names"]]):
        raise BadData(f"other columns: {extra}")
    values = {}
    for name, field in described.schema.items():
        if row.get(name) is None:
            raise BadData(f"{name!r} is null or missing")
        values[name] = field.encode(row[name])
    return values
