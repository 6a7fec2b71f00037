"""CSV (and tab separated) files as a source. Types are inferred from the beginning, the middle and the end of the first file.

A value is a whole number, a number, a truth value, or text; dates stay text, since no field holds them. A record with another number of
values than the header is damaged structure and is named by its line. Refused: files without a header line, whose columns would have no names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ..errors import BadData, StorageError
from ..fields import Scalar, Schema, Text
from ..shards.arrow_types import field_to_arrow
from ..shards.storage import map_file
from .records import Memory, records, stray_quote
from .source import Described, choose
from .sources_text import BOM, TextSource, samples

_ABSENT = [text for text in pa.csv.ConvertOptions().null_values if text.strip("-").lower() != "nan"]
"""What stands for an absent value in a column of numbers. `nan` does not: a column of numbers holds it."""

_WHOLE = re.compile(r"[+-]?[0-9]{19,}")
"""A whole number that int64 may not hold. As a float64 two of them could become one, so such a column is text."""

_HEADER_LINES = 100
"""A header's names hold fewer line breaks."""

_LOOKS: dict[str, Callable[[str], object]] = {"int64": int, "float64": float, "bool": str}


class CsvSource(TextSource):
    """Comma or tab separated values with a header line, UTF-8."""

    kind: ClassVar[str] = "csv"

    @property
    def delimiter(self) -> int:  # type: ignore[override]
        """The byte between values: a tab when the first file is a `.tsv`."""
        return 9 if self.files.names[0].lower().endswith(b".tsv") else 44

    def _names(self, data: Memory) -> tuple[list[str], int]:
        """Return the header's names and where the records begin."""
        skip = len(BOM) if data[:3].tobytes() == BOM else 0
        first = data[skip : skip + 2**20]
        head = records(first, delimiter=self.delimiter) or records(first, delimiter=self.delimiter, quotes=False)
        if head is None or not len(head):
            raise BadData(f"a CSV file of {len(data)} bytes without a header line")
        start = skip + int(head.starts[0])
        ends = (skip + int(end) for end in head.ends[:_HEADER_LINES])  # of lines, where quotes further down are not regular
        stop = next((end for end in ends if stray_quote(data[start:end], self.delimiter) is None), None)
        if stop is None:
            raise BadData("line 1: a quote that opens in the header is never closed, so its names cannot be told; close it")
        try:
            names = next(csv.reader(io.StringIO(data[start:stop].tobytes().decode()), delimiter=chr(self.delimiter)))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadData(f"line 1: the header cannot be read: {error}") from None
        if len(set(names)) != len(names) or "" in names:
            raise BadData(f"line 1: the header {names} has a name twice or an empty one; is it a header? Every CSV file needs one")
        return names, stop

    def _header(self, number: int, data: Memory, described: Described | None) -> int:
        names, begin = self._names(data)
        if described is not None and names != described.details["names"]:
            raise BadData(f"line 1: columns {names}, unlike {described.details['names']} of the first file; convert such files apart")
        del number
        return begin

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the columns of the first readable file, with inferred types."""
        data, names, begin = self._first()
        choose(dict.fromkeys(names, Text()), columns)
        kinds: dict[str, set[pa.DataType]] = {name: set() for name in names}
        for part in samples(data[begin:], self.delimiter):
            for field in self._infer(part, names):
                kinds[field.name].add(field.type)
        schema: Schema = {name: _csv_field(kinds[name]) for name in names}
        return Described(schema=choose(schema, columns), details={"names": names})

    def _first(self) -> tuple[Memory, list[str], int]:
        damage: Exception | None = None
        for number in range(len(self.files)):
            try:
                data = map_file(self.files.path(number))
                return data, *self._names(data)
            except (BadData, StorageError) as error:
                damage = damage or (error.at(path=self.files.path(number)) if isinstance(error, BadData) else error)
        raise damage or BadData("the source has no file")

    def _infer(self, part: Memory, names: list[str]) -> list[pa.Field]:
        """Return the types of a few MB; records that cannot be parsed are passed over here and named when they are read."""
        parsing = pa.csv.ParseOptions(delimiter=chr(self.delimiter), newlines_in_values=True, invalid_row_handler=lambda _: "skip")
        reading = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(part), 1) + 1)
        try:
            text = pa.BufferReader(part.tobytes())
            table = pa.csv.read_csv(text, reading, parsing, pa.csv.ConvertOptions(null_values=_ABSENT))
            wide = [f.name for f in table.schema if pa.types.is_floating(f.type) and (np.abs(table[f.name].to_numpy()) >= 2.0**63).any()]
            if not wide:
                return list(table.schema)
            text.seek(0)
            kept = pa.csv.read_csv(text, reading, parsing, pa.csv.ConvertOptions(include_columns=wide, column_types=dict.fromkeys(wide, pa.string())))
            whole = {name for name in wide if any(_WHOLE.fullmatch(value) for value in kept[name].to_pylist())}
            return [pa.field(f.name, pa.string()) if f.name in whole else f for f in table.schema]
        except pa.ArrowException:
            return [pa.field(name, pa.string()) for name in names]  # such as text that is not UTF-8: the rows will say so

    def parse(self, data: Memory, described: Described) -> pa.Table:
        """Return the rows of whole records."""
        kinds = {name: field_to_arrow(name, field).type for name, field in described.schema.items()}
        return pa.csv.read_csv(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pa.csv.ReadOptions(column_names=described.details["names"], use_threads=False, block_size=len(data) + 1),
            parse_options=pa.csv.ParseOptions(delimiter=chr(self.delimiter), newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=kinds, include_columns=list(kinds), null_values=_ABSENT),
        )

    def _suspect(self, record: bytes, described: Described) -> bool:
        names = described.details["names"]
        try:
            values = next(csv.reader(io.StringIO(record.decode(), newline=""), delimiter=chr(self.delimiter)), [])
            for name, value in zip(names, values, strict=True):
                if isinstance(field := described.schema.get(name), Scalar):
                    _LOOKS[field.dtype](value)
        except (ValueError, csv.Error):
            return True
        return False

    def _judge(self, record: bytes, error: Exception, described: Described) -> tuple[str, bool]:
        names = described.details["names"]
        try:
            found = len(next(csv.reader(io.StringIO(record.decode()), delimiter=chr(self.delimiter)), []))
        except (UnicodeDecodeError, csv.Error):
            return f"not UTF-8 text or not CSV: {record[:60]!r}", False
        if found != len(names):
            return f"{found} values where the header names {len(names)} columns: {record[:80]!r}", True
        return f"{str(error).splitlines()[0]}: {record[:80]!r}", False


def _csv_field(kinds: set[pa.DataType]) -> Scalar | Text:
    """Return the narrowest of whole number, number, truth value and text that holds what was seen."""
    seen = {str(kind) for kind in kinds if not pa.types.is_null(kind)}
    if seen == {"int64"}:
        return Scalar("int64")
    if seen and seen <= {"int64", "double"}:
        return Scalar("float64")
    return Scalar("bool") if seen == {"bool"} else Text()
