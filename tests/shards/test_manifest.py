"""Shards, commits and manifests as values: valid when built, equal through JSON, and closed to hostile text."""

from __future__ import annotations

import contextlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from penstock import order
from penstock.errors import BadData, BadRequest
from penstock.fields import Array, Image, Scalar, Schema, Tokens, schema_to_json
from penstock.shards import manifest as module
from penstock.shards.manifest import (
    FORMATS,
    MAX_METADATA_BYTES,
    OPERATIONS,
    Commit,
    Manifest,
    Shard,
    check_metadata,
    check_path,
    parse_json,
    parse_size,
)

SCHEMA: Schema = {"image": Image("jpeg"), "x": Array((2, 3), "int8"), "label": Scalar("int64"), "tokens": Tokens("uint16")}


def shard(**changed: Any) -> Shard:
    """Return a sound shard, changed."""
    return Shard(**{"path": "data/a.arrow", "format": "arrow", "rows": 5, "bytes": 100, "xxh3": "0123456789abcdef", "block_rows": 2, **changed})


def commit(**changed: Any) -> Commit:
    """Return a sound commit, changed."""
    sound = {
        "version": 1,
        "parent": None,
        "time": "2025-01-31T12:00:00Z",
        "operation": "create",
        "schema": SCHEMA,
        "metadata": {},
        "added": (shard(),),
    }
    return Commit(**{**sound, **changed})


@pytest.mark.parametrize(
    ("size", "expected"),
    [(5, 5), ("5", 5), ("128MB", 128_000_000), ("64MiB", 2**26), ("1.5 gb", 1_500_000_000), ("2k", 2000), ("1TiB", 2**40), ("7B", 7)],
)
def test_sizes_are_understood(size: str | int, expected: int) -> None:
    """Decimal units are powers of 1000, those with an i powers of 1024."""
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "MB", "-5", "5 potatoes", 0, -1, "0", True, None, 2.5, "9" * 40, "1e9"])
def test_a_size_that_is_none_is_refused_with_its_value(size: Any) -> None:
    """The refusal names the argument and the value."""
    with pytest.raises(BadRequest, match="shard_size"):
        parse_size(size)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"path": path}
            for path in ("../x", "/x", "a/../x", "", "a//x", "./x", "a\0", "a\n", "x" * 5000, "_penstock/commits/1.json", None, 5, "\ud800")
        ),
        *({"format": kind} for kind in ("csv", "", None, ["arrow"])),
        *({name: number} for name in ("rows", "bytes", "block_rows") for number in (-1, 2**62, 1.0, "5", None, True)),
        *({"xxh3": digest} for digest in ("", "0123456789ABCDEF", "0" * 15, "0" * 17, 5, "0123456789abcdef\n")),
    ],
    ids=str,
)
def test_an_unsound_shard_cannot_be_built(changed: dict[str, Any]) -> None:
    """A path outside, an unknown format, an absurd number or a wrong hash is refused."""
    with pytest.raises(BadData):
        shard(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 0, "parent": None},
        {"version": 2, "parent": None},
        {"version": 2, "parent": 2},
        {"version": 2, "parent": 0},
        {"version": "1"},
        {"version": 2**63, "parent": 1},
        {"time": "yesterday"},
        {"time": "2025-01-31 12:00:00"},
        {"time": None},
        {"operation": "destroy"},
        {"schema": {}},
        {"added": (shard(), shard())},
        {"removed": ("data/a.arrow",)},
        {"removed": ("x", "x")},
        {"removed": ("../x",)},
        {"job": ""},
        {"job": 5},
        {"job": "x" * 300},
        {"format_version": 2},
        {"format_version": None},
    ],
    ids=str,
)
def test_an_unsound_commit_cannot_be_built(changed: dict[str, Any]) -> None:
    """A number out of range, an unknown operation or a shard that stands twice is refused."""
    with pytest.raises(BadData):
        commit(**changed)


def test_a_commit_survives_json() -> None:
    """What is written is what is read, text outside ASCII and odd metadata included."""
    made = commit(
        version=7,
        parent=6,
        operation="append",
        metadata={"class_names": {"label": ["Katze", "犬"]}, "n": None},
        added=(shard(), shard(path="é.tar", format="tar", xxh3=None, block_rows=0)),
        removed=("data/old.arrow",),
        job="job-1",
        offset={"partition 0": 17},
    )
    assert Commit.from_json(made.to_json()) == made
    assert Commit.from_json(made.to_json()).to_json() == made.to_json()


_PATHS = st.lists(st.from_regex(r"[a-z0-9é]{1,8}(/[a-z0-9]{1,8}){0,2}", fullmatch=True), unique=True, max_size=5)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")), lambda inner: st.lists(inner, max_size=3), max_leaves=8
)


@given(
    paths=_PATHS,
    rows=st.integers(0, 2**48),
    version=st.integers(2, 2**62),
    offset=_JSON,
    operation=st.sampled_from(OPERATIONS),
    kind=st.sampled_from(FORMATS),
)
def test_any_commit_survives_json(paths: list[str], rows: int, version: int, offset: Any, operation: str, kind: str) -> None:
    """Every sound commit equals itself through JSON, and equal commits give equal bytes."""
    added = tuple(shard(path=path, rows=rows, format=kind) for path in paths)
    made = commit(version=version, parent=version - 1, offset=offset, operation=operation, added=added)
    assert Commit.from_json(made.to_json()) == made
    assert Commit.from_json(made.to_json()).to_json() == made.to_json()


@given(st.binary(max_size=200))
def test_no_bytes_get_past_the_parser(data: bytes) -> None:
    """Arbitrary bytes are refused as bad data, never with another error."""
    with pytest.raises(BadData):
        Commit.from_json(data)


@given(key=st.sampled_from(sorted(json.loads(commit().to_json()))), value=_JSON | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_no_value_in_any_key_gets_past_the_parser(key: str, value: Any) -> None:
    """Whatever stands in a key, the result is a sound commit or a refusal."""
    given = json.loads(commit().to_json())
    given[key] = value
    with contextlib.suppress(BadData):
        assert isinstance(Commit.from_json(json.dumps(given).encode()), Commit)


def test_a_missing_key_is_named() -> None:
    """Each key of a commit and of a shard is needed."""
    whole = json.loads(commit().to_json())
    for key in set(whole) - {"format_version"}:
        with pytest.raises(BadData, match=key):
            Commit.from_json(json.dumps({k: v for k, v in whole.items() if k != key}).encode())
    for key in whole["added"][0]:
        less = {**whole, "added": [{k: v for k, v in whole["added"][0].items() if k != key}]}
        with pytest.raises(BadData, match=key):
            Commit.from_json(json.dumps(less).encode())


def test_an_unknown_key_is_passed_over_and_a_newer_format_is_not() -> None:
    """A newer Penstock may add notes; a change of meaning comes with a new format version, which is refused with the remedy."""
    whole = json.loads(commit().to_json())
    assert Commit.from_json(json.dumps({**whole, "note": "hello"}).encode()) == commit()
    with pytest.raises(BadData, match="upgrade"):
        Commit.from_json(json.dumps({**whole, "format_version": 2}).encode())


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": -Infinity}', "[" * 100_000, "9" * 5000, "", "{", "\xff"])
def test_json_that_readers_disagree_on_is_refused(text: str) -> None:
    """Twin keys, numbers that JSON has not, and bombs are bad data."""
    with pytest.raises(BadData):
        parse_json(text.encode("latin-1"))


@pytest.mark.parametrize("metadata", [5, {1: 2}, {"a": object()}, {"a": float("nan")}, {"a": {1, 2}}, None])
def test_metadata_is_json_or_refused(metadata: Any) -> None:
    """What JSON cannot say is not kept."""
    with pytest.raises(BadRequest, match="metadata"):
        check_metadata(metadata)


def test_metadata_is_copied_and_capped() -> None:
    """A later change of the caller's dict does not reach the dataset, and a book is not metadata."""
    given = {"names": ["a"]}
    kept = check_metadata(given)
    given["names"].append("b")
    assert kept == {"names": ["a"]}
    with pytest.raises(BadRequest, match="column"):
        check_metadata({"text": "x" * MAX_METADATA_BYTES})


def test_check_path_accepts_what_people_use() -> None:
    """Folders, spaces, dots inside names and text outside ASCII are fine."""
    for path in ("a", "data/part-0.arrow", "año/train 1.tar", "..a", "a..b/c", "x.tar.idx"):
        assert check_path(path) == path


_PART = st.sampled_from(["a", "..", ".", "", "...", "a.b", "_penstock", "_penstockx", "\n", "é", " ", ".a"])


@given(st.lists(_PART, max_size=4))
def test_check_path_refuses_exactly_what_leaves_the_dataset(parts: list[str]) -> None:
    """The one pattern that looks at a path agrees with its rules, part by part."""
    path = "/".join(parts)
    fine = bool(parts) and not any(part in {"", ".", ".."} or "\n" in part for part in parts) and parts[0] != "_penstock"
    if fine:
        assert check_path(path) == path
    else:
        with pytest.raises(BadData):
            check_path(path)


def manifest(*shards: Shard, **changed: Any) -> Manifest:
    """Return a manifest of the shards."""
    return Manifest(**{"root": "/r", "version": 1, "schema": SCHEMA, "shards": shards, **changed})


def test_starts_are_where_each_shard_begins() -> None:
    """Rows add up over shards, empty ones included."""
    made = manifest(shard(path="a", rows=3), shard(path="b", rows=0), shard(path="c", rows=4))
    assert made.starts.tolist() == [0, 3, 3, 7]
    assert made.starts.dtype == np.int64
    assert (made.rows, made.bytes) == (7, 300)
    assert manifest().rows == 0


def test_a_manifest_refuses_a_shard_twice() -> None:
    """The same file twice would deliver its rows twice."""
    with pytest.raises(BadData, match="twice"):
        manifest(shard(), shard(rows=1))


def test_the_digest_names_the_data_and_not_the_place() -> None:
    """Columns, shards and their order count; root, version, metadata and rows per block do not."""
    a, b = shard(path="a"), shard(path="b")
    base = manifest(a, b)
    assert len(base.digest) == 32
    assert manifest(a, b, root="/elsewhere", version=9, metadata={"x": 1}).digest == base.digest
    stamped = [manifest(a, b, stamps=stamps).digest for stamps in ((), (1, 2), (1, 3), (12,))]
    assert stamped[0] == base.digest
    assert len(set(stamped)) == 4
    others = [
        manifest(b, a),
        manifest(a),
        manifest(a, shard(path="b", rows=4)),
        manifest(a, shard(path="b", xxh3=None)),
        manifest(a, shard(path="b", bytes=9)),
        manifest(a, b, schema={"label": Scalar("int32")}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == len(others) + 1


@given(
    st.lists(st.tuples(st.text(min_size=1), st.integers(0, 2**48), st.integers(0, 2**60), st.none() | st.just("0123456789abcdef")), max_size=30),
    st.lists(st.integers(-(2**63), 2**64), max_size=3),
)
def test_the_digest_is_that_of_the_shards_as_json(told: list[tuple[str, int, int, str | None]], stamps: list[int]) -> None:
    """Whatever paths hold, the digest is the hash of the schema and of each shard as the json module writes them, one behind the other."""
    shards, seen = [], set()
    for path, rows, size, xxh3 in told:
        with contextlib.suppress(BadData):  # no path that a shard may have
            shards.append(shard(path=path, rows=rows, bytes=size, xxh3=xxh3, format=FORMATS[rows % 3]))
            if path in seen:
                shards.pop()
            seen.add(path)
    hasher = xxhash.xxh3_128(json.dumps(schema_to_json(SCHEMA), ensure_ascii=False).encode())
    for one in shards:
        hasher.update(json.dumps([one.path, one.format, one.rows, one.bytes, one.xxh3], ensure_ascii=False).encode())
    for stamp in stamps:
        hasher.update(b"%d " % stamp)
    assert manifest(*shards, stamps=tuple(stamps)).digest == hasher.hexdigest()


def test_the_digest_of_more_shards_than_are_hashed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In how many pieces the text is hashed changes nothing, and the digest of a given list is frozen."""
    many = [shard(path=f'"{number}\\ ä', rows=number, xxh3=None if number % 2 else "0123456789abcdef") for number in range(10)]
    whole = manifest(*many)
    assert whole.digest == "648ffaaf4aa6a22e8c3e242efdb6d0c7"
    monkeypatch.setattr(module, "_HASHED", 3)
    assert manifest(*many).digest == whole.digest


def test_more_rows_than_an_order_can_number_are_refused() -> None:
    """Shards whose rows add up to more than 2**62 are refused with the sum, and just as many are not; both limits are one."""
    assert module.MAX_TOTAL_ROWS == order.MAX_ROWS
    most = [shard(path=str(number), rows=2**48) for number in range(2**14)]
    assert manifest(*most).rows == 2**62
    with pytest.raises(BadData, match="4611686018427387905 rows are more than the 4611686018427387904"):
        manifest(*most, shard(path="one more", rows=1))
    with pytest.raises(BadData, match="divide them into datasets"):
        manifest(*most, *(shard(path=f"more {number}", rows=2**48) for number in range(2**14, 2**16)))


def test_what_is_asked_of_all_shards_is_made_with_the_manifest() -> None:
    """Rows per block, sizes and the digest are there once it is built, and no shard is asked for them again."""
    made = manifest(shard(path="a", block_rows=3, bytes=7), shard(path="b", block_rows=0, bytes=8))
    assert made.block_rows.tolist() == [3, 0]
    assert made.block_rows.dtype == np.int64
    assert made.bytes == 15
    assert made.formats == {"arrow"}
    assert manifest(shard(path="a"), shard(path="b", format="tar")).formats == {"arrow", "tar"}
    object.__setattr__(made, "shards", ())
    assert (made.rows, made.bytes, made.digest) == (10, 15, manifest(shard(path="a", bytes=7), shard(path="b", bytes=8)).digest)
    assert (manifest().starts.tolist(), manifest().block_rows.tolist()) == ([0], [])
    assert manifest().block_rows.dtype == np.int64


def test_a_manifest_can_be_pickled_and_compared() -> None:
    """It is a value: it crosses processes and equals its copy, and both know what was made of all shards."""
    made = manifest(shard())
    copied = pickle.loads(pickle.dumps(made))
    assert copied == made == manifest(shard())
    assert (copied.digest, copied.rows) == (made.digest, made.rows)


def test_values_cannot_be_changed() -> None:
    """A shard, a commit and a manifest are frozen."""
    for value in (shard(), commit(), manifest()):
        with pytest.raises(AttributeError):
            value.version = 5  # type: ignore[union-attr, misc]
