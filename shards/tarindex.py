"""The index of a tar as a value: where each field of each sample lies, so that a tar can be read in any order. No file is touched here.

Its file is Arrow IPC: `key`, per field `start/<field>` and `size/<field>`, `xxh3` of each sample's span (from its first header to the end of
its last member) when the tar was hashed, and in the metadata the tar's size, what kind of files each field's are, and an XXH3-64 over all of this, which is compared before it is believed.

Must never: point outside its tar, between its blocks, or at the same bytes twice; a file that does is refused before it is used.
Cost: about 12 µs a member to build (the headers and, of images, sounds and arrays, the first bytes); 16 bytes a member plus the key to keep.
Refused: JSON or text (ten times the size, parsed at each opening) and an index inside the tar (foreign tars stay untouched).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ..errors import BadData
from ..fields import Schema
from .tarfault import Sample, row_at_break, row_of_double, unlike
from .tarnames import Facts, facts_of, field_names, split
from .tarscan import BLOCK, Member, Walk

_VERSION = 2
_METADATA = b"penstock.tar"
_CHECKSUM = "checksum"
_MAX_TAR_BYTES = 2**60

Number = TypeVar("Number", np.int64, np.uint64)
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TarIndex:
    """Where the samples of one tar lie.

    Attributes:
        keys: each sample's key.
        starts: per field, where each sample's bytes begin in the tar.
        sizes: per field, how many there are.
        facts: per field, in the order of the first sample, what its rows show.
        hashes: XXH3-64 of each sample's span, or None when the tar was not read.
        tar_bytes: the tar's size.
        tar_mtime_ns: the tar's time, for a foreign tar; None beside a shard of ours.
    """

    keys: pa.StringArray
    starts: dict[str, Places]
    sizes: dict[str, Places]
    facts: dict[str, Facts]
    hashes: npt.NDArray[np.uint64] | None
    tar_bytes: int
    tar_mtime_ns: int | None

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return len(self.keys)

    def schema(self) -> Schema:
        """Return the fields that the facts make likely."""
        return {name: facts.field() for name, facts in self.facts.items()}

    def spans(self) -> tuple[Places, Places]:
        """Return where each sample begins (its first member's header) and ends (its last member's last block)."""
        first = np.min(list(self.starts.values()), axis=0) - BLOCK
        ends = [start + size for start, size in zip(self.starts.values(), self.sizes.values(), strict=True)]
        last = (np.max(ends, axis=0) + BLOCK - 1) // BLOCK * BLOCK
        return first, last

    def check(self) -> None:
        """Refuse an index that points outside its tar, between its blocks, or at the same bytes twice.

        Raises:
            BadData: naming the row.
        """
        if not 0 <= self.tar_bytes <= _MAX_TAR_BYTES:
            raise BadData(f"the index is of a tar of {str(self.tar_bytes)[:40]} bytes; it must have 0 to {_MAX_TAR_BYTES}")
        for name, start in self.starts.items():
            wrong = (start < BLOCK) | (start % BLOCK != 0) | (self.sizes[name] < 0) | (self.sizes[name] > self.tar_bytes - start)
            if wrong.any():
                row = int(np.argmax(wrong))
                place = f"{self.sizes[name][row]} bytes at {start[row]}"
                raise BadData(f"the index points at {place}, outside the tar's {self.tar_bytes} bytes or not at a member", row=row, field=name)
        first, last = self.spans()
        if (first[1:] < last[:-1]).any():
            row = int(np.argmax(first[1:] < last[:-1])) + 1
            raise BadData(f"the index lets samples {row - 1} and {row} share bytes", row=row)
        self._check_fields_apart()

    def _check_fields_apart(self) -> None:
        """Refuse two fields of one sample that share bytes: each begins behind the last block of the one before, and its own header."""
        names = list(self.starts)
        starts = np.stack([self.starts[name] for name in names])
        ends = starts + (np.stack([self.sizes[name] for name in names]) + BLOCK - 1) // BLOCK * BLOCK
        order = np.argsort(starts, axis=0, kind="stable")
        shared = np.take_along_axis(starts, order, 0)[1:] < np.take_along_axis(ends, order, 0)[:-1] + BLOCK
        if shared.any():
            place, row = (int(each[0]) for each in np.nonzero(shared))
            first, second = (names[int(order[place + step, row])] for step in (0, 1))
            raise BadData(f"the index lets columns {first!r} and {second!r} share bytes", row=row, field=second)


def build(data: npt.NDArray[np.uint8], *, hashed: bool, mtime_ns: int | None = None) -> TarIndex:
    """Return the index of a tar's bytes.

    Args:
        data: the whole tar, mapped.
        hashed: also read everything and hash each sample.
        mtime_ns: the tar's time, for a foreign tar.

    Raises:
        BadData: the tar is damaged, a name stands twice, or two samples have unlike fields.
    """
    keys, samples = _samples(data)
    distinct = list(dict.fromkeys(tuple(sample) for sample in samples))
    name_of = field_names(distinct)
    names = _checked_names(keys, samples, distinct, name_of)
    starts: dict[str, list[int]] = {name: [] for name in names}
    sizes: dict[str, list[int]] = {name: [] for name in names}
    facts: dict[str, Facts] = {}
    for row, sample in enumerate(samples):
        for suffix, (start, size) in sample.items():
            name = name_of[suffix]
            starts[name].append(start)
            sizes[name].append(size)
            try:
                found = facts_of(suffix, data[start : start + size])
                before = facts.get(name)
                if before is not found:
                    facts[name] = found if before is None else before.merge(found)
            except BadData as error:
                raise error.at(row=f"{row} ({keys[row]!r})", field=name) from None
    index = TarIndex(
        keys=_text(keys),
        starts={name: np.array(starts[name], np.int64) for name in names},
        sizes={name: np.array(sizes[name], np.int64) for name in names},
        facts={name: facts[name] for name in names},
        hashes=None,
        tar_bytes=len(data),
        tar_mtime_ns=mtime_ns,
    )
    return TarIndex(**{**vars(index), "hashes": sample_hashes(data, index)}) if hashed else index


def differs(index: TarIndex, scanned: TarIndex) -> tuple[str, int | None] | None:
    """Return what an index says otherwise than a scan of its tar: what it is and the first row, where there is one; None when nothing is."""
    if index.facts != scanned.facts or list(index.facts) != list(scanned.facts):
        return "description of the columns", None
    if index.rows != scanned.rows:
        return f"number of samples ({index.rows}, not {scanned.rows})", None
    for row, (said, found) in enumerate(zip(index.keys.to_pylist(), scanned.keys.to_pylist(), strict=True)):
        if said != found:
            return f"key ({said!r}, not {found!r})", row
    for name in index.facts:
        wrong = (index.starts[name] != scanned.starts[name]) | (index.sizes[name] != scanned.sizes[name])
        if wrong.any():
            return f"place of column {name!r}", int(np.argmax(wrong))
    return None


def sample_hashes(data: npt.NDArray[np.uint8], index: TarIndex) -> npt.NDArray[np.uint64]:
    """Return the XXH3-64 of each sample's span; reads the whole tar."""
    spans = zip(*(places.tolist() for places in index.spans()), strict=True)
    return np.array([xxhash.xxh3_64_intdigest(data[first:last].data) for first, last in spans], np.uint64)


def _samples(data: npt.NDArray[np.uint8]) -> tuple[list[str], list[Sample]]:
    """Return the keys, and per key the members by suffix."""
    keys: list[str] = []
    samples: list[Sample] = []
    seen: set[str] = set()
    walk = Walk(data.data)
    for name, start, size in _told(walk, keys, samples):
        if (found := split(name)) is None:
            continue
        key, suffix = found
        if not keys or key != keys[-1]:
            if key in seen:
                reason = f"key {key!r} stands at two places; a sample's members must be neighbours (tar --sort=name)"
                raise BadData(reason, row=row_of_double(samples))
            seen.add(key)
            keys.append(key)
            samples.append({})
        if suffix in samples[-1]:
            raise BadData(f"member {name!r} stands twice", row=row_of_double(samples))
        samples[-1][suffix] = (start, size)
    if not keys:
        raise BadData(f"the tar of {len(data)} bytes holds no sample; members are named <key>.<field>.<extension>, such as 000001.jpg")
    return keys, samples


def _told(walk: Walk, keys: list[str], samples: list[Sample]) -> Iterator[Member]:
    """Yield a walk's members; damage that ends it is told with the row at fault, if one is, and with what is whole before it."""
    try:
        yield from walk
    except BadData as error:
        row = row_at_break(keys, samples, walk.header())
        if row is None and keys:
            good = f"the last sample found, {keys[-1]!r} (row {len(keys) - 1}), ends before that, so no row is named"
        else:
            good = f"the last whole sample is {keys[row - 1]!r} (row {row - 1})" if row else "no sample before it is whole"
        raise BadData(f"{error.reason}; {good}", row=row) from None


def _checked_names(keys: list[str], samples: list[Sample], distinct: list[tuple[str, ...]], name_of: Mapping[str, str]) -> list[str]:
    """Return the first sample's fields, if all samples have the same."""
    names = [name_of[suffix] for suffix in distinct[0]]
    if all({name_of[suffix] for suffix in suffixes} == set(names) for suffixes in distinct):
        return names
    row, pattern, certain = unlike(samples, name_of)
    found, wanted = ({name_of[suffix] for suffix in samples[number]} for number in (row, pattern))
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    raise BadData(
        f"sample {keys[row]!r} has other fields than {'the first' if not pattern else 'most'}, {keys[pattern]!r}: missing {missing}, extra {extra}; "
        "all samples of a dataset have the same",
        row=row if certain else None,
    )


def _text(values: list[str]) -> pa.StringArray:
    """Return an Arrow array without `pyarrow.array`, which imports pandas (a second) where it is installed."""
    encoded = [value.encode() for value in values]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(each) for each in encoded], out=offsets[1:])
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def _numbers(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _note(index: TarIndex) -> dict[str, Any]:
    """Return what stands in the metadata, but for the checksum."""
    return {
        "version": _VERSION,
        "tar_bytes": index.tar_bytes,
        "tar_mtime_ns": index.tar_mtime_ns,
        "fields": [{"name": n, "group": f.group, "encodings": f.encodings, "arrays": f.arrays} for n, f in index.facts.items()],
    }


def checksum(index: TarIndex) -> str:
    """Return the XXH3-64 of all that an index says, 16 hex digits: of its note as JSON, then its keys' lengths and bytes, then its numbers."""
    hasher = xxhash.xxh3_64(json.dumps(_note(index)).encode())
    keys = [key.encode() for key in index.keys.to_pylist()]
    hasher.update(np.array([len(key) for key in keys], np.int64).tobytes())
    hasher.update(b"".join(keys))
    for name in index.facts:
        hasher.update(index.starts[name].tobytes())
        hasher.update(index.sizes[name].tobytes())
    hasher.update(b"" if index.hashes is None else index.hashes.tobytes())
    return hasher.hexdigest()


def to_bytes(index: TarIndex) -> bytes:
    """Return the file of an index; equal indexes give equal bytes."""
    note = {**_note(index), _CHECKSUM: checksum(index)}
    columns: dict[str, Any] = {"key": index.keys}
    for name in index.facts:
        columns[f"start/{name}"] = _numbers(index.starts[name], pa.int64())
        columns[f"size/{name}"] = _numbers(index.sizes[name], pa.int64())
    if index.hashes is not None:
        columns["xxh3"] = _numbers(index.hashes, pa.uint64())
    table = pa.Table.from_arrays(list(columns.values()), names=list(columns)).replace_schema_metadata({_METADATA: json.dumps(note)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, index.rows))
    return bytes(sink.getvalue())


def from_bytes(data: npt.NDArray[np.uint8]) -> TarIndex:
    """Return the index that a file holds; it is checked before it is believed.

    Raises:
        BadData: the file is not an index, not what was written, or one that points outside its tar.
    """
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        note = json.loads((table.schema.metadata or {})[_METADATA])
        index = _from_table(table.combine_chunks(), note)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise error if isinstance(error, BadData) else BadData(f"the file is not an index of a tar: {str(error)[:200]}") from None
    if (found := checksum(index)) != note.get(_CHECKSUM):
        raise BadData(f"the index has checksum {found} where {str(note.get(_CHECKSUM))[:40]} was written: it is damaged")
    index.check()
    return index


def _from_table(table: pa.Table, note: Mapping[str, Any]) -> TarIndex:
    if note["version"] != _VERSION:
        raise BadData(f"the index has version {str(note['version'])[:40]!r}, not {_VERSION}; delete it and it is built again")
    facts = {
        entry["name"]: Facts(
            group=str(entry["group"]),
            encodings=tuple(map(str, entry["encodings"])),
            arrays=tuple((str(dtype), tuple(map(int, shape))) for dtype, shape in entry["arrays"]),
        )
        for entry in note["fields"]
    }
    if not facts:
        raise BadData(f"the index of {table.num_rows} samples names no field")
    return TarIndex(
        keys=_keys(table),
        starts={name: _values(table, f"start/{name}", np.int64) for name in facts},
        sizes={name: _values(table, f"size/{name}", np.int64) for name in facts},
        facts=facts,
        hashes=_values(table, "xxh3", np.uint64) if "xxh3" in table.column_names else None,
        tar_bytes=int(note["tar_bytes"]),
        tar_mtime_ns=None if note["tar_mtime_ns"] is None else int(note["tar_mtime_ns"]),
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if array.null_count:
        raise BadData(f"the index has {array.null_count} empty places")
    return array


def _keys(table: pa.Table) -> pa.StringArray:
    array = _one_chunk(table.column("key"))
    if array.type != pa.string():
        raise BadData(f"column 'key' of the index holds {array.type}")
    return array


def _values(table: pa.Table, name: str, dtype: type[Number]) -> npt.NDArray[Number]:
    """Return a column of numbers as a view; `Array.to_numpy` would import pandas."""
    array = _one_chunk(table.column(name))
    if array.type != pa.from_numpy_dtype(dtype):
        raise BadData(f"column {name!r} of the index holds {array.type}")
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)] if len(array) else np.empty(0, dtype)
