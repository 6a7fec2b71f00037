"""Raw chunks to rows: good rows cost one pass, each bad row stands alone with the writer's own reason, and order and numbers stay right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.raw import jpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.fields import Bytes, Image, Json, Scalar, Schema, Text, Tokens
from penstock.ingest import normalize as module
from penstock.ingest.normalize import Clean, normalize
from penstock.ingest.report import Bad
from penstock.ingest.settings import ImageRule
from penstock.ingest.source import Chunk

RULE = ImageRule()


def chunk(first: int = 0, keys: list[str] | None = None, **columns: Any) -> Chunk:
    """Return a chunk of a file `f` whose rows count from `first`."""
    rows = len(next(iter(columns.values())))
    return Chunk(columns=columns, source="f", rows=np.arange(first, first + rows, dtype=np.int64), keys=keys, size_bytes=1)


def parts(given_: Chunk, schema: Schema, rule: ImageRule = RULE) -> tuple[list[tuple[int, Any]], list[Bad]]:
    """Return the index in the chunk and the values of each row that is kept, and what is set aside."""
    kept: list[tuple[int, Any]] = []
    bad: list[Bad] = []
    for one in normalize(given_, schema, rule):
        if isinstance(one, Bad):
            bad.append(one)
        else:
            assert one.batch.num_rows == len(one.kept) == len(one.keys)
            kept += zip(one.kept.tolist(), one.batch.to_pylist(), strict=True)
    return kept, bad


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=4).map(str.encode), st.just(b"\xff"), st.just(None)), min_size=1, max_size=40))
def test_exactly_the_bad_rows_are_set_aside(values: list[bytes | None]) -> None:
    """Whatever mixture of text, bytes that are no text, and nulls comes, each row is kept in its place or named with its number, once."""
    kept, bad = parts(chunk(100, t=pa.array(values, pa.large_binary())), {"t": Text()})
    wanted = {}
    for index, value in enumerate(values):
        if value is not None and value != b"\xff":
            wanted[index] = value.decode()
    assert {index: row["t"] for index, row in kept} == wanted
    assert [index for index, _ in kept] == sorted(wanted)
    assert sorted(one.row for one in bad if one.row is not None) == [100 + index for index in range(len(values)) if index not in wanted]
    for one in bad:
        assert one.key == f"f#{one.row}"
        assert not one.structure
        assert one.reason.startswith("t: ")


@pytest.mark.parametrize(
    ("schema", "columns", "reason"),
    [
        ({"x": Scalar("int8")}, {"x": pa.array([1, 300])}, "x: int64 values cannot be stored as"),
        ({"x": Scalar("int64")}, {"x": pa.array([1, None])}, "x: the value is null; every row needs one"),
        ({"j": Json()}, {"j": [b"{}", b"{"]}, "j: the value is not json"),
        ({"t": Text()}, {"t": [b"a", b"\xff"]}, "t: "),
        ({"k": Tokens("int32")}, {"k": pa.array([[1], [2**40]])}, "k: "),
        ({"i": Image()}, {"i": [jpeg(1), b"no"]}, r"i: the 2 bytes, beginning b'no', are not an image"),
        ({"i": Image()}, {"i": pa.array([jpeg(1), None])}, "i: the value is null"),
    ],
)
def test_reason_names_the_column(schema: Schema, columns: dict[str, Any], reason: str) -> None:
    """Of two rows the second is at fault: the first is kept, and the reason begins with the column and says what is wrong."""
    kept, bad = parts(chunk(**columns), schema)
    assert [index for index, _ in kept] == [0]
    assert [one.row for one in bad] == [1]
    assert bad[0].reason.startswith(reason.replace("\\", ""))


def test_row_that_is_wrong_twice_is_one_row() -> None:
    """Two bad columns of one row are one line, with the first column's reason; rows_in stays right."""
    kept, bad = parts(chunk(a=[b"no", jpeg(1)], b=[b"no", jpeg(2)]), {"a": Image(), "b": Image()})
    assert len(kept) == len(bad) == 1
    assert bad[0].reason.startswith("a: ")


def test_good_chunk_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk without fault is judged once, whole; one bad row of 64 costs two more tries for each halving, not 64."""
    calls: list[int] = []
    real = module.canonical  # type: ignore[attr-defined]

    def counted(batch: pa.RecordBatch, schema: Schema) -> Any:
        calls.append(batch.num_rows)
        return real(batch, schema)

    monkeypatch.setattr(module, "canonical", counted)
    parts(chunk(x=pa.array(range(64))), {"x": Scalar("int64")})
    assert calls == [64]
    calls.clear()
    values = [b"x"] * 64
    values[40] = b"\xff"
    kept, bad = parts(chunk(t=pa.array(values, pa.large_binary())), {"t": Text()})
    assert (len(kept), len(bad)) == (63, 1)
    assert len(calls) == 1 + 2 * 6


def test_fault_without_a_row_is_found_by_halves() -> None:
    """When the error names no row the chunk is halved until the row stands alone."""
    values = pa.array([1] * 100 + [2**40] + [3] * 27)
    kept, bad = parts(chunk(x=values), {"x": Scalar("int32")})
    assert [one.row for one in bad] == [100]
    assert len(kept) == 127


def test_keys_of_the_source_are_kept() -> None:
    """Where the source gives keys, rows and reasons carry them; where it does not, they are the file and the number."""
    made = list(normalize(chunk(keys=["a", "b", "c"], t=[b"x", b"\xff", b"z"]), {"t": Text()}, RULE))
    assert [one.keys for one in made if isinstance(one, Clean)] == [["a"], ["c"]]
    assert [one.key for one in made if isinstance(one, Bad)] == ["b"]


def test_nothing_left_is_no_batch() -> None:
    """A chunk whose every row is refused gives reasons and no empty batch."""
    kept, bad = parts(chunk(i=[b"no", b""]), {"i": Image()})
    assert kept == []
    assert len(bad) == 2


def test_scaled_images_replace_the_raw_ones() -> None:
    """With a rule that changes images the batch holds what the rule made, and other columns go along."""
    kept, bad = parts(chunk(i=[jpeg(1, 48, 64), jpeg(2, 8, 8)], b=[b"1", b"2"]), {"i": Image(), "b": Bytes()}, ImageRule(resize_short=8))
    assert not bad
    assert kept[0][1]["i"] != jpeg(1, 48, 64)
    assert kept[1][1]["i"] == jpeg(2, 8, 8)
    assert [row["b"] for _, row in kept] == [b"1", b"2"]
