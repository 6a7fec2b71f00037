"""Every kind of source comes back through `Dataset` as it was, in the order it was, in both shard formats."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from contracts.raw import jpeg, picture, rows_of, same_rows
from contracts.raw_sources import MAKERS

import penstock as ps
from penstock.ingest.convert import convert


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("shard_format", ["arrow", "tar"])
def test_source_round_trips(tmp_path: Path, kind: str, shard_format: str) -> None:
    """What a source holds is what the dataset holds: values, types, order; nothing is set aside."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = MAKERS[kind](raw)
    report = convert(raw, tmp_path / "out", format=shard_format, workers=0)
    assert (report.rows_in, report.rows_out, report.rows_set_aside, report.quarantine) == (len(rows), len(rows), 0, None)
    assert same_rows(rows_of(tmp_path / "out"), rows)
    assert not list((tmp_path / "out" / "_penstock").glob("jobs*"))


@pytest.mark.parametrize("kind", MAKERS)
def test_shuffled_source_holds_the_same_rows_in_another_order(tmp_path: Path, kind: str) -> None:
    """A shuffled conversion is a permutation, the same for the same seed and another for another."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = MAKERS[kind](raw)
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert(raw, tmp_path / name, shuffle=seed, workers=0)
        found[name] = rows_of(tmp_path / name)
    assert same_rows(found["a"], found["b"])
    assert not same_rows(found["a"], rows)
    assert not same_rows(found["a"], found["c"])
    assert sorted(map(str, found["a"])) == sorted(map(str, rows)) == sorted(map(str, found["c"]))


def test_image_folder_keeps_its_class_names(tmp_path: Path) -> None:
    """Labels number the class folders in the order of their names, which stand in the metadata."""
    for name in ("zebra", "ant", "bee"):
        (tmp_path / "raw" / name / "deep").mkdir(parents=True)
        (tmp_path / "raw" / name / "deep" / "1.jpeg").write_bytes(jpeg(len(name)))
        (tmp_path / "raw" / name / "2.PNG").write_bytes(picture("png"))
    (tmp_path / "raw" / ".DS_Store").write_bytes(b"x")
    convert(tmp_path / "raw", tmp_path / "out", workers=0)
    dataset = ps.Dataset(str(tmp_path / "out"))
    assert dataset.metadata["class_names"] == {"label": ["ant", "bee", "zebra"]}
    assert [row["label"] for row in rows_of(tmp_path / "out")] == [0, 0, 1, 1, 2, 2]


def test_hugging_face_class_names_are_kept(tmp_path: Path) -> None:
    """The names of a `ClassLabel` become the dataset's class names, and encoded images become an image column."""
    (tmp_path / "raw").mkdir()
    MAKERS["hf"](tmp_path / "raw")
    convert(tmp_path / "raw", tmp_path / "out", workers=0)
    dataset = ps.Dataset(str(tmp_path / "out"))
    assert dataset.metadata["class_names"] == {"label": ["cat", "dog"]}
    assert dataset.fields["image"] == ps.Image()


def test_binary_columns_of_images_become_images(tmp_path: Path) -> None:
    """A Parquet column whose values are encoded images is an image column; other bytes stay bytes."""
    pq.write_table(pa.table({"a": [jpeg(1), jpeg(2)], "b": [b"x", b"y"]}), tmp_path / "t.parquet")
    convert(tmp_path / "t.parquet", tmp_path / "out", workers=0)
    assert dict(ps.Dataset(str(tmp_path / "out")).fields) == {"a": ps.Image(), "b": ps.Bytes()}


@pytest.mark.parametrize(("suffix", "column", "data"), [("txt", "text", b"hello \xc3\xa9"), ("json", "json", b'{"a":1}'), ("dat", "data", b"\0\1")])
def test_files_by_glob(tmp_path: Path, suffix: str, column: str, data: bytes) -> None:
    """Files named by a glob become rows of their content and path, the column named after what they are."""
    (tmp_path / "raw").mkdir()
    for i in range(3):
        (tmp_path / "raw" / f"{i}.{suffix}").write_bytes(data)
    convert(f"{tmp_path}/raw/*.{suffix}", tmp_path / "out", kind="files", workers=0)
    rows = rows_of(tmp_path / "out")
    assert [row["path"] for row in rows] == [f"{i}.{suffix}" for i in range(3)]
    assert list(rows[0]) == [column, "path"]


def test_brace_pattern_names_files_in_its_order(tmp_path: Path) -> None:
    """A brace pattern takes exactly the files it stands for."""
    for i in range(5):
        (tmp_path / f"p-{i:03d}.csv").write_text(f"x\n{i}\n")
    convert(f"{tmp_path}/p-{{003..001}}.csv", tmp_path / "out", workers=0)
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [3, 2, 1]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "npz", "tar", "images"])
def test_columns_keeps_only_what_was_asked(tmp_path: Path, kind: str) -> None:
    """`columns=` leaves the others out of the dataset."""
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = MAKERS[kind](raw)
    wanted = list(rows[0])[-1]
    convert(raw, tmp_path / "out", columns=[wanted], workers=0)
    assert same_rows(rows_of(tmp_path / "out"), [{wanted: row[wanted]} for row in rows])


def test_csv_types_are_inferred_over_the_whole_file(tmp_path: Path) -> None:
    """A column that is whole numbers at first and fractions later is a number column; one that ends in words is text."""
    lines = ["a,b,c"] + [f"{i},{i},{i}" for i in range(2000)] + ["1,2.5,word"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    convert(tmp_path / "t.csv", tmp_path / "out", workers=0)
    assert dict(ps.Dataset(str(tmp_path / "out")).fields) == {"a": ps.Scalar("int64"), "b": ps.Scalar("float64"), "c": ps.Text()}


def test_tab_separated_and_byte_order_mark(tmp_path: Path) -> None:
    """A `.tsv` with a byte order mark reads like any other."""
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbfa\tb\n1\tx,y\n")
    convert(tmp_path / "t.tsv", tmp_path / "out", workers=0)
    assert rows_of(tmp_path / "out") == [{"a": 1, "b": "x,y"}]


def test_large_text_is_cut_at_records(tmp_path: Path) -> None:
    """A CSV of several parts with line breaks in its values loses and doubles nothing."""
    rows = [(i, "x" * 50 + ("\nquoted, line" if i % 7 == 0 else "")) for i in range(120_000)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    report = convert(tmp_path / "t.csv", tmp_path / "out", workers=0)
    assert report.shards > 1
    dataset = ps.Dataset(str(tmp_path / "out"))
    assert [dataset[i]["id"] for i in range(0, len(dataset), 1000)] == list(range(0, 120_000, 1000))
    assert len(dataset) == 120_000
    assert dataset[7 * 17_000]["text"] == rows[7 * 17_000][1]


def test_one_large_tar_keeps_all_cores_busy(tmp_path: Path) -> None:
    """A single tar is cut between samples, so that it makes several parts."""
    with webdataset.TarWriter(str(tmp_path / "t.tar"), mtime=0) as out:
        for i in range(40):
            out.write({"__key__": f"{i:03d}", "bin": bytes(256 * 1024), "cls": i})
    report = convert(tmp_path / "t.tar", tmp_path / "out", workers=0)
    assert report.shards > 1
    assert [row["cls"] for row in rows_of(tmp_path / "out")] == list(range(40))
