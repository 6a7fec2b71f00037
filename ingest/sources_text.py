"""Sources whose rows are records of text files: cut at records, parsed by pyarrow, narrowed down to the record when something is wrong.

A run is parsed at once; when that fails, the records that look wrong are parsed alone and what is left is halved, and halved again, until the record
at fault stands alone and is named by its line. So the error of a record is the parser's own, and good records cost nothing for it. Refused: a second, slower parser for damaged files, which would not agree with the first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from ..errors import BadData, StorageError
from ..shards.storage import map_file
from .assign import Spans
from .records import NEWLINE, Memory, Records, find_all, records, stray_quote
from .report import Bad
from .source import CHUNK_BYTES, Chunk, Described, Pieces, Source, gather, lost
from .windows import count_lines, count_records, is_regular, walk_cuts, walk_samples

PIECE_BYTES = 2**20
"""Text is cut in runs of about so many bytes."""

_LOOK_BYTES = 4 * 2**20
BOM = b"\xef\xbb\xbf"
"""What some editors put in front of UTF-8."""

_MAX_PARSE_BYTES = 2**31 - 2**20


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A run of a file that is being read.

    Attributes:
        source: the file.
        data: the run's bytes.
        found: its records.
        line: the line on which it begins, counted from 0.
        described: the source.
    """

    source: str
    data: Memory
    found: Records
    line: int
    described: Described


class TextSource(Source):
    """Shared by the sources whose rows are records of text files."""

    delimiter: int | None

    @abstractmethod
    def parse(self, data: Memory, described: Described) -> pa.Table:
        """Return the rows of a run of records.

        Raises:
            pa.ArrowException, BadData: something in it is wrong.
        """

    @abstractmethod
    def _judge(self, record: bytes, error: Exception, described: Described) -> tuple[str, bool]:
        """Return why a single record cannot be a row, and whether its structure is at fault."""

    @abstractmethod
    def _suspect(self, record: bytes, described: Described) -> bool:
        """Whether a quick look says that a record is wrong. Only decides what is parsed alone first, never what is refused."""

    @abstractmethod
    def _header(self, number: int, data: Memory, described: Described | None) -> int:
        """Return where the records of a file begin.

        Raises:
            BadData: the file has other columns than the first.
        """

    def pieces(self, described: Described) -> Pieces:
        """Return runs of whole records; `note` is the line on which a run begins."""
        return gather(self._runs(number, described) for number in range(len(self.files)))

    def _runs(self, number: int, described: Described) -> list[tuple[int, int, int, int]] | Bad:
        try:
            data = map_file(self.files.path(number))
        except StorageError as error:
            return lost(self.files, number, error)
        try:
            begin = self._header(number, data, described)
        except BadData as error:
            return lost(self.files, number, error, rows=_count(data, self.delimiter, heads=1))
        lines = count_lines(data[:begin])
        runs = walk_cuts(data[begin:], PIECE_BYTES, delimiter=self.delimiter)
        whole = [(0, len(data) - begin, 0)]
        return [(start + begin, stop + begin, line + lines, stop - start) for start, stop, line in (whole if runs is None else runs)]

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the records of the runs."""
        for number, start, stop, line in spans.to_json():
            try:
                data = map_file(self.files.path(number))[start:stop]
            except StorageError as error:
                yield lost(self.files, number, error)
                continue
            unruly = len(data) > _MAX_PARSE_BYTES and not is_regular(data, self.delimiter)  # will not be parsed, so not held either
            found = None if unruly else records(data, delimiter=self.delimiter)
            if found is None:
                yield from self._unruly(number, data, line, described)
                continue
            place = _Place(source=self.files.shown(number), data=data, found=found, line=line, described=described)
            for run in _portions(found):
                yield from self._narrow(place, run)

    def _narrow(self, place: _Place, run: tuple[int, int], *, looked: bool = False) -> Iterator[Chunk | Bad]:
        """Yield the records [low, high) as one chunk, or narrow them down until what is wrong stands alone."""
        low, high = run
        found, described = place.found, place.described
        rows = found.lines[low:high] + place.line + 1
        part = place.data[int(found.starts[low]) : int(found.ends[high - 1])]
        try:
            table = self.parse(part, described)
            if table.num_rows != high - low:
                raise BadData(f"{high - low} records were parsed into {table.num_rows} rows")  # noqa: TRY301 - the same remedy as for a parser's error
        except (pa.ArrowException, BadData, UnicodeDecodeError) as error:
            if high - low > 1:
                for inner in self._halves(run) if looked else self._around_suspects(place, run):
                    yield from self._narrow(place, inner, looked=True)
                return
            reason, structure = self._judge(part.tobytes(), error, described)
            at = int(rows[0])
            yield Bad(source=place.source, key=f"{place.source}#{at}", row=at, reason=f"line {at}: {reason}", structure=structure)
            return
        columns = {name: table[name].combine_chunks() for name in described.schema}
        yield Chunk(columns=columns, source=place.source, rows=rows, keys=None, size_bytes=len(part))

    @staticmethod
    def _halves(run: tuple[int, int]) -> list[tuple[int, int]]:
        middle = (run[0] + run[1]) // 2
        return [(run[0], middle), (middle, run[1])]

    def _around_suspects(self, place: _Place, run: tuple[int, int]) -> list[tuple[int, int]]:
        """Return each record that looks wrong alone, and the runs between them."""
        found = place.found
        runs: list[tuple[int, int]] = []
        low = run[0]
        for at in range(*run):
            if self._suspect(place.data[int(found.starts[at]) : int(found.ends[at])].tobytes(), place.described):
                runs += [(low, at), (at, at + 1)]
                low = at + 1
        runs.append((low, run[1]))
        runs = [one for one in runs if one[0] < one[1]]
        return runs if len(runs) > 1 else self._halves(run)

    def _unruly(self, number: int, data: Memory, line: int, described: Described) -> Iterator[Chunk | Bad]:
        """Yield a file whose quotes do not stand around whole values, at once; rows are counted, since their lines cannot be told."""
        if self.delimiter is not None and (stray := stray_quote(data, self.delimiter)) is not None:
            at, fault = stray
            row = line + count_lines(data[:at]) + 1
            error = BadData(f"line {row}: the quote that opens here {fault}, so the records behind it cannot be told; close or double it")
            yield lost(self.files, number, error, rows=_count(data, self.delimiter), row=row)
            return
        try:
            if len(data) > _MAX_PARSE_BYTES:
                raise BadData(f"{len(data)} bytes with quotes inside unquoted values cannot be cut into records; quote such values")  # noqa: TRY301 - as above
            table = self.parse(data, described)
        except (pa.ArrowException, BadData, UnicodeDecodeError) as error:
            yield lost(self.files, number, error, rows=_count(data, self.delimiter))
            return
        columns = {name: table[name].combine_chunks() for name in described.schema}
        rows = np.arange(line + 1, line + 1 + table.num_rows, dtype=np.int64)
        yield Chunk(columns=columns, source=self.files.shown(number), rows=rows, keys=None, size_bytes=len(data))


def _portions(found: Records) -> list[tuple[int, int]]:
    """Return (first record, last record + 1) of portions of a few MB."""
    bounds = [0]
    while bounds[-1] < len(found):
        limit = int(found.starts[bounds[-1]]) + CHUNK_BYTES
        bounds.append(max(int(np.searchsorted(found.ends, limit, side="right")), bounds[-1] + 1))
    return list(pairwise(bounds))


def _count(data: Memory, delimiter: int | None, *, heads: int = 0) -> int:
    """Return how many records text has that is lost whole, its header left out; lines where records cannot be told apart. At least 1."""
    return max(count_records(data, delimiter=delimiter) - heads, 1)


def samples(data: Memory, delimiter: int | None) -> list[Memory]:
    """Return whole records of the beginning, the middle and the end, or all when the file is small or cannot be cut."""
    if len(data) <= 3 * _LOOK_BYTES:
        return [data]
    found = walk_samples(data, (0, len(data) // 2, len(data) - _LOOK_BYTES), _LOOK_BYTES, delimiter=delimiter)
    if found is None and len(data) > _MAX_PARSE_BYTES:
        head = data[:_LOOK_BYTES]  # the whole is refused when it is read
        breaks = find_all(head, NEWLINE)
        return [head[: int(breaks[-1]) + 1] if len(breaks) else head]
    return [data] if found is None else found
