"""Writer: what it takes, what it refuses without taking, how it cuts shards, and that it publishes all or nothing."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.shard_formats import CASES, JPEG, MIXED, NUMBERS, as_table, mixed, numbers, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import AlreadyExists, BadData, BadRequest
from penstock.fields import Array, Bytes, Field, Image, Json, Scalar, Text, Tokens
from penstock.shards import commits
from penstock.shards.dataset import Dataset
from penstock.shards.encoders import encoder_of
from penstock.shards.writer import Writer


def files(root: Path) -> list[str]:
    """Return every file below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) if root.exists() else []


def read(root: Path) -> list[dict[str, Any]]:
    """Return all rows of a dataset."""
    with Dataset(root) as ds:
        return list(ds)


@pytest.mark.parametrize("kind", ["arrow", "tar"])
@pytest.mark.parametrize("name", CASES)
def test_rows_written_are_rows_read(tmp_path: Path, name: str, kind: str) -> None:
    """Both formats give back every value of every field."""
    schema, rows = CASES[name]
    with Writer(tmp_path / "ds", schema, format=kind, metadata={"class_names": {"label": ["a"]}}) as writer:
        for row in rows:
            writer.write(row)
        assert files(tmp_path / "ds" / "data") == []
    found = read(tmp_path / "ds")
    assert len(found) == len(rows)
    for a, b in zip(found, rows, strict=True):
        assert list(a) == list(schema)
        assert all(same(a[key], b[key]) for key in schema)
    assert commits.load(tmp_path / "ds").metadata == {"class_names": {"label": ["a"]}}
    assert writer.manifest == commits.load(tmp_path / "ds")
    assert writer.rows == len(rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard_size=st.integers(1, 9000), cut=st.integers(0, 80))
def test_tables_and_rows_are_cut_into_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_size: int, cut: int) -> None:
    """Where shards end is a function of the rows, not of how they came."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of tiny shards; only the wall clock misses it
    rows = [{**a, **b} for a, b in zip(numbers(80), mixed(80), strict=True)]
    schema = {**NUMBERS, **MIXED}
    with Writer(tmp_path / "rows", schema, shard_size=shard_size, mode="overwrite") as writer:
        for row in rows:
            writer.write(row)
    with Writer(tmp_path / "tables", schema, shard_size=shard_size, mode="overwrite") as writer:
        table = as_table(rows, schema)
        writer.write_table(table.slice(0, cut))
        writer.write_table(table.slice(cut))
    one, two = commits.load(tmp_path / "rows"), commits.load(tmp_path / "tables")
    assert [(s.rows, s.xxh3, s.block_rows) for s in one.shards] == [(s.rows, s.xxh3, s.block_rows) for s in two.shards]


def test_a_shard_ends_with_the_row_that_fills_it(tmp_path: Path) -> None:
    """Shards are at least as large as asked, but for the last, and at most one row larger."""
    with Writer(tmp_path / "ds", {"b": Bytes()}, shard_size=1000) as writer:
        for _ in range(25):
            writer.write({"b": bytes(96)})
    assert [shard.rows for shard in commits.load(tmp_path / "ds").shards] == [10, 10, 5]
    names = [shard.path for shard in commits.load(tmp_path / "ds").shards]
    assert all(name.startswith(f"data/part-{1:020d}-{i:05d}-") for i, name in enumerate(names))


def test_fields_are_inferred_from_the_first_row(tmp_path: Path) -> None:
    """Every kind of value finds its field; the next row must fit it."""
    row = {"i": 1, "f": 1.5, "b": True, "t": "x", "d": b"y", "j": {"a": [1]}, "a": np.zeros((2, 2), np.float32), "s": np.uint8(3)}
    with Writer(tmp_path / "ds") as writer:
        writer.write(row)
        with pytest.raises(BadData) as caught:
            writer.write({**row, "t": 5})
        assert (caught.value.row, caught.value.field) == (1, "t")
    expected = [Scalar("int64"), Scalar("float64"), Scalar("bool"), Text(), Bytes(), Json(), Array((2, 2), "float32"), Scalar("uint8")]
    assert list(Dataset(tmp_path / "ds").fields.values()) == expected


def test_fields_are_taken_from_the_first_table(tmp_path: Path) -> None:
    """A table's types are the dataset's, foreign ones included."""
    with Writer(tmp_path / "ds") as writer:
        writer.write_table(pa.table({"t": pa.array(["a"], pa.large_string()), "k": pa.array([[1, 2]], pa.large_list(pa.int16()))}))
    assert dict(Dataset(tmp_path / "ds").fields) == {"t": Text(), "k": Tokens("int16")}


def test_an_object_without_a_field_is_refused_with_the_list(tmp_path: Path) -> None:
    """Nothing is pickled; the refusal says what there is."""
    with Writer(tmp_path / "ds") as writer:
        for value in (object(), {1, 2}, 1j, np.array(["x"]), None):
            with pytest.raises(BadData, match=r"Scalar\(dtype\), Array|takes|JSON") as caught:
                writer.write({"x": value})
            assert (caught.value.row, caught.value.field) == (0, "x")
        writer.write({"x": 1})


def test_a_refused_row_is_not_taken_and_the_writer_goes_on(tmp_path: Path) -> None:
    """Unlike columns name the missing and the extra; a bad value names its field; the rows around are written."""
    with Writer(tmp_path / "ds", {"image": Image("jpeg"), "label": Scalar("int8")}) as writer:
        good = {"image": JPEG, "label": 1}
        writer.write(good)
        refused: list[tuple[Any, str]] = [
            ({"image": JPEG}, r"missing \['label'\], extra \[\]"),
            ({**good, "size": 3}, r"missing \[\], extra \['size'\]"),
            ({"image": JPEG, "Label": 1}, r"missing \['label'\], extra \['Label'\]"),
            ({}, r"mapping|missing"),
            ([1, 2], "a row is a mapping"),
            ({"image": b"GIF89a", "label": 1}, "jpeg"),
            ({"image": JPEG, "label": 300}, "would change"),
            ({"image": JPEG, "label": None}, "takes numbers"),
            ({**good, "__key__": "a"}, "extra"),
        ]
        for row, told in refused:
            with pytest.raises(BadData, match=told) as caught:
                writer.write(row)
            assert caught.value.row == 1
        writer.write(good)
    assert read(tmp_path / "ds") == [good, good]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({"n": [1]}), r"missing \['t'\], extra \[\]"),
        (pa.table({"n": [1], "t": ["x"], "u": [1]}), r"extra \['u'\]"),
        (pa.table([pa.array([1]), pa.array(["x"]), pa.array([1])], ["n", "t", "n"]), r"extra \['n', 'n'\]"),
        (pa.table({"n": [1, None], "t": ["x", "y"]}), "null"),
        (pa.table({"n": [1, 2**40], "t": ["x", "y"]}), "cannot be stored"),
        (pa.table({"n": ["a", "b"], "t": ["x", "y"]}), "cannot be stored"),
        (pa.table({"n": [1.5], "t": ["x"]}), "cannot be stored"),
        (pa.table({"n": [1], "t": [{"a": 1}]}), "cannot be stored"),
    ],
    ids=str,
)
def test_a_refused_table_is_not_taken(tmp_path: Path, table: pa.Table, told: str) -> None:
    """A table is taken whole or not at all, and rows are counted from the dataset's first."""
    with Writer(tmp_path / "ds", {"n": Scalar("int32"), "t": Text()}) as writer:
        writer.write_table(pa.table({"n": [7, 8], "t": ["a", "b"]}))
        with pytest.raises(BadData, match=told) as caught:
            writer.write_table(table)
        assert caught.value.row in {None, 3}
    assert [row["n"] for row in read(tmp_path / "ds")] == [7, 8]


def test_values_of_a_table_are_checked_as_those_of_a_row(tmp_path: Path) -> None:
    """An image that is none, text that is not UTF-8 and JSON that does not parse are found in tables too, with their row."""
    bad_text = pa.Array.from_buffers(pa.string(), 1, [None, pa.array(["ab"]).buffers()[1], pa.py_buffer(b"\xff\xfe")])
    fields: list[tuple[Field, pa.Array]] = [
        (Image("jpeg"), pa.array([JPEG, b"GIF89a"], pa.binary())),
        (Json(), pa.array(["{}", "{"])),
        (Text(), pa.concat_arrays([pa.array(["ok"]), bad_text])),
    ]
    for field, array in fields:
        with Writer(tmp_path / "ds", {"v": field}) as writer:
            with pytest.raises(BadData) as caught:
                writer.write_table(pa.table([array], ["v"]))
            assert (caught.value.row, caught.value.field) == (1, "v")
            writer.abort()


def test_an_exception_inside_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """Also the folder that the writer made is gone."""
    writer = Writer(tmp_path / "ds", {"n": Scalar()}, shard_size=10)

    def interrupted() -> None:
        with writer:
            for i in range(100):
                writer.write({"n": i})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "ds").exists()
    with pytest.raises(BadRequest, match="closed"):
        writer.write({"n": 1})
    with pytest.raises(BadRequest, match="closed"):
        writer.write_table(pa.table({"n": [1]}))
    writer.close()
    assert not (tmp_path / "ds").exists()


def test_an_aborted_append_leaves_the_dataset_as_it_was(tmp_path: Path) -> None:
    """Files of the version that stands are not touched."""
    with Writer(tmp_path / "ds") as writer:
        writer.write({"n": 1})
    before = files(tmp_path / "ds")

    def failing() -> None:
        with Writer(tmp_path / "ds", mode="append") as writer:
            writer.write({"n": 2})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert files(tmp_path / "ds") == before


def test_modes(tmp_path: Path) -> None:
    """Create refuses a dataset at once, append continues it in its columns, overwrite begins anew."""
    path = tmp_path / "ds"
    with Writer(path, mode="append") as writer:
        writer.write({"n": 1})
    with pytest.raises(AlreadyExists, match=r"mode='append' or mode='overwrite'"):
        Writer(path, {"n": Scalar()})
    with pytest.raises(BadRequest, match="'n' is"):
        Writer(path, {"n": Scalar("int8")}, mode="append")
    with Writer(path, mode="append") as writer:
        writer.write({"n": 2})
    with Writer(path, mode="overwrite") as writer:
        writer.write({"t": "x"})
    assert [list(Dataset(path, version=v)) for v in (1, 2, 3)] == [[{"n": 1}], [{"n": 1}, {"n": 2}], [{"t": "x"}]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "w"}, "mode: 'w'"),
        ({"format": "parquet"}, "format: 'parquet'"),
        ({"shard_size": "big"}, "shard_size: 'big'"),
        ({"fields": {}}, "fields"),
        ({"fields": {"x": Image}}, "not a field"),
        ({"fields": {"x": "int64"}}, r"'int64'.*Scalar\(dtype\)"),
        ({"fields": {"": Scalar()}}, "name"),
        ({"fields": [Scalar()]}, "mapping"),
        ({"metadata": {"x": 1j}}, "metadata"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_and_nothing_is_made(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    """The refusal comes before the folder."""
    with pytest.raises(BadRequest, match=told):
        Writer(tmp_path / "ds", **options)
    assert not (tmp_path / "ds").exists()


def test_nothing_written(tmp_path: Path) -> None:
    """With fields it is an empty dataset; without, there is nothing to publish."""
    with Writer(tmp_path / "a", {"n": Scalar()}):
        pass
    assert len(Dataset(tmp_path / "a")) == 0
    with pytest.raises(BadRequest, match="no row was written"), Writer(tmp_path / "b"):
        pass
    assert not (tmp_path / "b").exists()


def test_a_url_is_refused() -> None:
    """Only local files today."""
    with pytest.raises(BadRequest, match="s3"):
        Writer("s3://bucket/ds")


def test_a_writer_that_is_forgotten_warns(tmp_path: Path) -> None:
    """Who opens, closes; the warning says that nothing was published."""
    writer = Writer(tmp_path / "ds", {"n": Scalar()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        writer.__del__()
    writer.abort()
    assert "nothing was published" in str(caught[0].message)


FIELDS: list[Field] = [
    *(Scalar(d) for d in ("bool", "int8", "uint8", "int64", "uint64", "float16", "float32", "float64")),
    *(Array((2,), d) for d in ("bool", "int32", "float32")),
    *(Tokens(d) for d in ("uint16", "int64")),
    Text(),
    Json(),
    Bytes(),
]

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from(
        [np.int8(3), np.float32(2.5), np.bool_(True), np.zeros(2, np.float32), np.zeros(2, ">f4"), np.zeros(2, np.int32), np.arange(4)[::2]]
    ),
    st.sampled_from([np.zeros((2, 1), np.float32), np.zeros(0, np.int64), np.array(5), [1, 2], (1.5, 2.5), {"a": 1}]),
)


@settings(max_examples=400)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_the_fast_encoder_equals_the_slow_one(field: Field, value: Any) -> None:
    """For every field and value, the same result or the same refusal."""

    def outcome(encode: Any) -> Any:
        try:
            made = encode(value)
        except BadData as error:
            return str(error)
        return (
            (type(made), np.asarray(made).dtype, np.asarray(made).shape, np.asarray(made).tobytes()) if not isinstance(made, (str, bytes)) else made
        )

    assert outcome(encoder_of(field)) == outcome(field.encode)


def test_class_names_of_an_append_continue_those_that_are_there(tmp_path: Path) -> None:
    """A writer refuses at once what its commit would refuse, and takes names behind those that are there."""
    with Writer(tmp_path / "ds", {"label": Scalar()}, metadata={"class_names": {"label": ["cat"]}}) as writer:
        writer.write({"label": 0})
    with pytest.raises(BadRequest, match="a label's number would mean two things"):
        Writer(tmp_path / "ds", mode="append", metadata={"class_names": {"label": ["dog", "cat"]}})
    with Writer(tmp_path / "ds", mode="append", metadata={"class_names": {"label": ["cat", "dog"]}}) as writer:
        writer.write({"label": 1})
    assert commits.load(tmp_path / "ds").metadata == {"class_names": {"label": ["cat", "dog"]}}


def test_a_writer_signs_its_commit(tmp_path: Path) -> None:
    """Each commit has a job of its own, by which its writer knows it again after an interrupt."""
    for mode in ("create", "append"):
        with Writer(tmp_path / "ds", {"label": Scalar()}, mode=mode) as writer:
            writer.write({"label": 0})
    jobs = {commits.read_commit(tmp_path / "ds", version).job for version in (1, 2)}
    assert len(jobs) == 2
    assert all(job is not None and job.startswith("writer.") for job in jobs)


@pytest.mark.parametrize("size", [1, 10_000, 100_000])
def test_small_rows_in_a_tar_keep_the_shard_size(tmp_path: Path, size: int) -> None:
    """A tar's headers count: no file passes the size by more than a row, the end marker and padding, and tables are cut as rows are."""
    rows = [{"i": i, "t": f"{i:05d}"} for i in range(150)]
    fields = {"i": Scalar("int64"), "t": Text()}
    with Writer(tmp_path / "rows", fields, format="tar", shard_size=size) as writer:
        for row in rows:
            writer.write(row)
    with Writer(tmp_path / "tables", fields, format="tar", shard_size=size) as writer:
        writer.write_table(pa.Table.from_pylist(rows))
    shards, tables = (commits.load(tmp_path / name).shards for name in ("rows", "tables"))
    assert [(shard.rows, shard.xxh3) for shard in shards] == [(shard.rows, shard.xxh3) for shard in tables]
    assert max(shard.bytes for shard in shards) <= size + 2048 + 1024 + 10_240
    assert len(shards) == -(-150 // -(-size // 2048))
