"""One checker for every kind of source: what `describe`, `pieces` and `read` promise, in the same words for folders, tables, text and tars.

`check_source` holds for a healthy source; `check_damage` spoils each of its files in turn and sees that nothing but that file's rows is lost,
that it is lost with a reason, and that no exception but `BadData` or `BadRequest` from `describe` ever comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import BadData, BadRequest, NotADataset
from penstock.fields import schema_from_json, schema_to_json
from penstock.ingest.assign import Spans
from penstock.ingest.locate import Located, locate
from penstock.ingest.normalize import Clean, normalize
from penstock.ingest.plan import open_source
from penstock.ingest.report import Bad
from penstock.ingest.settings import ImageRule
from penstock.ingest.source import CHUNK_ROWS, Chunk, Described, Files, Source

from .raw import same_rows

Rows = list[dict[str, Any]]


def again(found: Located) -> Source:
    """Return the source as a worker opens it: from the table that the plan keeps."""
    return open_source(found.kind, Files.from_table(found.files.root, found.files.to_table()))


def through_json(described: Described) -> Described:
    """Return a description as it comes out of the plan's JSON."""
    schema = schema_from_json(json.loads(json.dumps(schema_to_json(described.schema))))
    return Described(schema=schema, metadata=json.loads(json.dumps(described.metadata)), details=json.loads(json.dumps(described.details)))


def read(source: Source, spans: Spans, described: Described) -> tuple[Rows, list[str], list[Bad]]:
    """Return the rows that a source gives, their keys, and what it sets aside; every chunk keeps the contract."""
    rows: Rows = []
    keys: list[str] = []
    bad: list[Bad] = []
    for chunk in source.read(spans, described):
        if isinstance(chunk, Bad):
            bad.append(chunk)
            continue
        check_chunk(chunk, described)
        for clean in normalize(chunk, described.schema, ImageRule()):
            if isinstance(clean, Clean):
                rows += decoded(clean, described)
                keys += clean.keys
            else:
                bad.append(clean)
    return rows, keys, bad


def check_chunk(chunk: Chunk, described: Described) -> None:
    """A chunk has the described columns in their order, all of one length, few enough rows, and a key and a place for each."""
    assert list(chunk.columns) == list(described.schema)
    assert {len(values) for values in chunk.columns.values()} == {len(chunk.rows)}
    assert 0 < len(chunk.rows) <= CHUNK_ROWS
    assert chunk.rows.dtype == np.int64
    assert chunk.size_bytes >= 0
    assert chunk.keys is None or len(chunk.keys) == len(chunk.rows)
    assert chunk.source is not None or chunk.keys is not None
    for values in chunk.columns.values():
        assert isinstance(values, (list, pa.Array))


def decoded(clean: Clean, described: Described) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch as a dataset would give them."""
    for row in clean.batch.to_pylist():
        yield {name: field.decode(_stored(row[name], field)) for name, field in described.schema.items()}


def _stored(value: Any, field: Any) -> Any:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint8)
    return np.asarray(value, field.dtype).reshape(-1 if field.ragged else field.shape)


def check_source(place: Path, rows: Rows) -> None:
    """A source is described the same each time, cut into runs that cover it once, and read the same whole, by pieces, and in a worker."""
    found = locate(str(place))
    source = open_source(found.kind, found.files)
    described = source.describe(None)
    assert again(found).describe(None) == described == through_json(described)
    assert list(described.schema) == list(rows[0])
    pieces = source.pieces(described)
    assert pieces.bad == ()
    assert len(pieces.spans) == len(pieces.sizes)
    assert (pieces.sizes >= 0).all()
    assert (pieces.spans.start < pieces.spans.stop).all()
    whole, keys, bad = read(again(found), pieces.spans, described)
    assert bad == []
    assert same_rows(whole, rows)
    assert len(set(keys)) == len(keys) == len(rows)
    _check_cuts(found, pieces.spans, through_json(described), rows, keys)
    _check_columns(source, rows)


def _check_cuts(found: Located, spans: Spans, described: Described, rows: Rows, keys: list[str]) -> None:
    """Wherever it is cut, the same rows come under the same keys: in merged runs, one by one, and from one source object or many."""
    one = again(found)
    assert read(one, spans.merged(), described)[:2] == (_Equal(rows), keys)  # type: ignore[comparison-overlap]
    for fresh in (False, True):
        parts = [read(again(found) if fresh else one, spans.take(i, i + 1), described) for i in range(len(spans))]
        assert same_rows([row for part in parts for row in part[0]], rows)
        assert [key for part in parts for key in part[1]] == keys
    middle = len(spans) // 2
    backwards = [read(one, part.merged(), described) for part in (spans.take(middle, len(spans)), spans.take(0, middle))]
    assert same_rows(backwards[1][0] + backwards[0][0], rows)


class _Equal:
    """Equals rows with the same values, arrays included."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and same_rows(other, self.rows)

    __hash__ = None  # type: ignore[assignment]


def _check_columns(source: Source, rows: Rows) -> None:
    """Each column can be had alone, in the source's order whatever the order asked for, and one that is not there is refused with those that are."""
    names = list(rows[0])
    for chosen in [(name,) for name in names] + [tuple(reversed(names))]:
        described = source.describe(chosen)
        assert list(described.schema) == [name for name in names if name in chosen]
        found, _, bad = read(source, source.pieces(described).spans, described)
        assert bad == []
        assert same_rows(found, [{name: row[name] for name in names if name in chosen} for row in rows])
    with pytest.raises(BadRequest, match=rf"columns: 'nowhere' not in the source; it has .*'{names[0]}'"):
        source.describe((names[0], "nowhere"))


SPOILED: dict[str, bytes | None] = {"emptied": b"", "garbage": b"\x00\xffgarbage\x01" * 40, "gone": None, "cut": b"cut"}
"""What becomes of a file; `cut` keeps its first half, `gone` leaves a link that leads nowhere."""


def spoil(path: Path, how: str) -> None:
    """Damage a file."""
    data = path.read_bytes()
    path.unlink()
    if how == "gone":
        path.symlink_to("nowhere-at-all")
    else:
        path.write_bytes(data[: len(data) // 2] if how == "cut" else SPOILED[how] or b"")


def check_damage(place: Path, rows: Rows, how: str) -> None:
    """With any one file spoiled, rows of the other files are all there, and what is lost is named with its file and a reason."""
    files = sorted(path for path in place.rglob("*") if path.is_file() and not path.name.endswith(".json"))
    for victim in files:
        kept = victim.read_bytes()
        spoil(victim, how)
        try:
            _check_rest(place, victim, rows, len(files))
        finally:
            victim.unlink()
            victim.write_bytes(kept)


def _check_rest(place: Path, victim: Path, rows: Rows, files: int) -> None:
    try:
        found = locate(str(place))
        source = open_source(found.kind, found.files)
        described = source.describe(None)
    except (BadData, BadRequest, NotADataset) as error:
        assert files == 1, f"one bad file of {files} stops the source: {error}"  # noqa: PT017 - what is allowed depends on the source
        return
    pieces = source.pieces(described)
    left, _, bad = read(source, pieces.spans, described)
    bad += pieces.bad
    assert all(one.reason.strip() for one in bad)
    for one in bad:
        assert victim.name in one.source, one
        assert one.rows >= 1
        json.dumps(one.to_json())
    kept = [row for row in left if any(same_rows([row], [other]) for other in rows)]
    torn = found.kind == "csv"  # text that was cut is text: neither the value nor the end of the file can tell
    assert len(left) - len(kept) <= torn, "a row that the source never held"
    blank = found.kind == "jsonl" and victim.exists() and not victim.stat().st_size  # no lines are no records
    assert len(left) == len(rows) or bad or blank or torn, "rows are gone and nobody says so"
