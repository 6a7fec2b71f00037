"""WebDataset tars as a source: a sample's members become one row, under the names that `shards/tarnames.py` gives them.

Tars are mapped and walked by their headers; no index is written beside them. A tar is cut between samples when the source has few tars, so
that one large tar keeps all cores busy, and taken whole otherwise, so that planning never walks thousands of tars. A tar that was cut short
gives the samples before the damage and one line in the quarantine. Nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BadData, StorageError
from ..fields import Audio, Field, Image, Schema
from ..shards.arrow_columns import array_of
from ..shards.columns import FixedColumn, RaggedColumn
from ..shards.storage import map_file
from ..shards.tar import parser
from ..shards.tarnames import Facts, facts_of, field_names, group_of, split
from ..shards.tarscan import BLOCK, Member, members
from .assign import Spans
from .report import Bad
from .source import CHUNK_BYTES, CHUNK_ROWS, Chunk, Described, Pieces, Source, choose, explained, lost

FEW_TARS = 64
"""With fewer tars than this, each is walked and can be cut between samples."""

_LOOK = 64
_WIDE: dict[type[Field], Field] = {Image: Image(), Audio: Audio()}

Memory = npt.NDArray[np.uint8]


class Sample(NamedTuple):
    """One sample: where each of its members lies, and where the last one ends."""

    key: str
    members: dict[str, tuple[int, int]]
    stop: int


def samples(data: Memory, *, whole: bool = True) -> Iterator[Sample]:
    """Yield the samples of a tar.

    Args:
        data: the tar's bytes, or those of a run cut between two samples.
        whole: whether they are a whole tar, which has an end marker; a run ends with its last member.

    Raises:
        BadData: the tar is damaged, or a member or a key stands twice. The sample that is being gathered then is lost.
    """
    seen: set[str] = set()
    key, found, stop = "", dict[str, tuple[int, int]](), 0
    for member in _members(data, whole=whole):
        if (parts := split(member.name)) is None:
            continue
        if found and parts[0] != key:
            yield Sample(key, found, stop)
            found = {}
        key, suffix = parts
        if not found and key in seen:
            raise BadData(f"key {key!r} stands at two places of the tar; a sample's members must be neighbours (tar --sort=name)")
        if suffix in found:
            raise BadData(f"member {member.name!r} stands twice")
        seen.add(key)
        found[suffix] = (member.start, member.size_bytes)
        stop = member.start + (member.size_bytes + BLOCK - 1) // BLOCK * BLOCK
    if found:
        yield Sample(key, found, stop)


def _members(data: Memory, *, whole: bool) -> Iterator[Member]:
    for member in members(data.data):
        yield member
        if not whole and member.start + (member.size_bytes + BLOCK - 1) // BLOCK * BLOCK == len(data):
            return


class TarSource(Source):
    """WebDataset tars: one column a suffix."""

    kind = "tar"

    def describe(self, columns: tuple[str, ...] | None) -> Described:
        """Return the fields that the first samples of the first readable tar show."""
        error: BadData | StorageError | None = None
        for number in range(len(self.files)):
            first: list[tuple[Memory, Sample]] = []
            try:
                data = map_file(self.files.path(number))
                first.extend((data, sample) for sample in islice(samples(data), _LOOK))  # keeps what came before an error
            except (BadData, StorageError) as damage:
                error = damage
            if first:
                return _described(first, columns)
        if isinstance(error, StorageError):
            raise explained(error, self.files.path(0), "")
        reason = "no tar holds a sample" if error is None else error.reason
        raise BadData(f"{reason}; members are named <key>.<field>.<extension>, such as 000001.jpg", path=self.files.path(0))

    def pieces(self, described: Described) -> Pieces:  # noqa: ARG002 - the signature is the contract's
        """Return one piece a sample, or one a tar when there are many."""
        table: list[tuple[int, int, int, int]] = []
        bad: list[Bad] = []
        for number in range(len(self.files)):
            if len(self.files) >= FEW_TARS:
                table.append((number, 0, int(self.files.sizes[number]), 0))
                continue
            at = row = 0
            try:
                for row, sample in enumerate(samples(map_file(self.files.path(number))), 1):
                    table.append((number, at, sample.stop, row - 1))
                    at = sample.stop
            except (BadData, StorageError) as error:
                bad.append(lost(self.files, number, error, row=row))
                continue
            if not row:
                bad.append(lost(self.files, number, BadData("the tar holds no sample"), rows=1))
        spans = Spans.from_json(table)
        return Pieces(spans=spans, sizes=spans.stop - spans.start, bad=tuple(bad))

    def read(self, spans: Spans, described: Described) -> Iterator[Chunk | Bad]:
        """Yield the samples of each run."""
        for number, start, stop, first in spans.to_json():
            reader = _TarRows(self, number, described)
            row = first
            try:
                data = map_file(self.files.path(number))
                for row, sample in enumerate(samples(data[start:stop], whole=stop - start == len(data)), first):
                    yield from reader.take(row, sample, start)
            except (BadData, StorageError) as error:
                yield from reader.rest()
                yield lost(self.files, number, error, row=row + 1)
                continue
            yield from reader.rest()


def _described(first: list[tuple[Memory, Sample]], columns: tuple[str, ...] | None) -> Described:
    suffixes = tuple(first[0][1].members)
    names = field_names([suffixes])
    facts: dict[str, Facts] = {}
    for data, sample in first:
        for suffix, (start, size) in sample.members.items():
            if suffix in names:
                try:
                    found = facts_of(suffix, data[start : start + size])
                except BadData:
                    continue  # a damaged array among the first: reading will set it aside
                facts[suffix] = facts[suffix].merge(found) if suffix in facts else found
    schema: Schema = {}
    for suffix in suffixes:
        if suffix not in facts:
            raise BadData(f"no readable .{suffix} among the first {len(first)} samples; leave it out with columns=", field=names[suffix])
        field = facts[suffix].field()
        schema[names[suffix]] = _WIDE.get(type(field), field)
    chosen = choose(schema, columns)
    return Described(schema=chosen, details={"suffixes": {suffix: name for suffix, name in names.items() if name in chosen}, "all": columns is None})


class _TarRows:
    """Gathers samples of one run into chunks."""

    def __init__(self, source: TarSource, number: int, described: Described) -> None:
        self._source = source.files.shown(number)
        self._data = map_file(source.files.path(number))
        self._schema = described.schema
        self._suffixes: dict[str, str] = described.details["suffixes"]
        self._strict: bool = described.details["all"]
        self._parse = {suffix: parser(self._schema[name], group_of(suffix)) for suffix, name in self._suffixes.items()}
        self._clear()

    def _clear(self) -> None:
        self._rows: list[int] = []
        self._keys: list[str] = []
        self._values: dict[str, list[Any]] = {name: [] for name in self._schema}
        self._held = 0

    def take(self, row: int, sample: Sample, start: int) -> Iterator[Chunk | Bad]:
        """Take one sample; yield what is full, and the sample itself when it cannot be a row."""
        try:
            values = self._row(sample, start)
        except BadData as error:
            yield Bad(source=self._source, key=sample.key, row=row, reason=f"{error.field}: {error.reason}" if error.field else error.reason)
            return
        size = sum(size for _, size in sample.members.values())
        if self._rows and (self._held + size > CHUNK_BYTES or len(self._rows) >= CHUNK_ROWS):
            yield from self.rest()
        self._rows.append(row)
        self._keys.append(sample.key)
        for name, value in values.items():
            self._values[name].append(value)
        self._held += size

    def _row(self, sample: Sample, start: int) -> dict[str, Any]:
        found, wanted = sample.members, self._suffixes
        missing = sorted(set(wanted) - set(found))
        extra = sorted(set(found) - set(wanted)) if self._strict else []
        if missing or extra:
            raise BadData(f"the sample has other members than the first: missing {missing}, extra {extra}; columns= can leave some out")
        values = {}
        for suffix, name in wanted.items():
            place, size = found[suffix]
            raw = self._data[start + place : start + place + size]
            try:
                parse = self._parse[suffix]
                values[name] = raw.tobytes() if parse is None else parse(raw)
            except BadData as error:
                raise error.at(field=name) from None
        return values

    def rest(self) -> Iterator[Chunk]:
        """Yield what has gathered, if anything."""
        if self._rows:
            columns = {name: self._column(field, self._values[name]) for name, field in self._schema.items()}
            yield Chunk(columns=columns, source=self._source, rows=np.array(self._rows, np.int64), keys=self._keys, size_bytes=self._held)
        self._clear()

    @staticmethod
    def _column(field: Field, values: list[Any]) -> Any:
        if isinstance(values[0], bytes):
            return values
        if not field.ragged:
            return array_of(FixedColumn(values=np.stack(values)), field)
        ends = np.cumsum([len(value) for value in values])
        return array_of(RaggedColumn(starts=np.concatenate([[0], ends[:-1]]), ends=ends, values=np.concatenate(values)), field)
