"""Every kind of source comes back through `Dataset` as it was, in the order it was, in both shard formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from contracts.raw import image_folder, jpeg, picture, rows_of, same_rows

import penstock as ps
from penstock.ingest.convert import convert

Rows = list[dict[str, Any]]


def _images(root: Path) -> Rows:
    made = image_folder(root)
    return [{"image": data, "label": int(name[6])} for name, data in made.items()]


def _files(root: Path) -> Rows:
    made = {f"{i:02d}.jpg": jpeg(i) for i in range(6)}
    for name, data in made.items():
        (root / name).write_bytes(data)
    return [{"image": data, "path": name} for name, data in made.items()]


def _tar(root: Path) -> Rows:
    rows: Rows = []
    for shard in range(2):
        with webdataset.TarWriter(str(root / f"s-{shard:03d}.tar"), mtime=0) as out:
            for i in range(5):
                number = shard * 5 + i
                vector = np.arange(4, dtype=np.float32) + number
                row = {"cls": number % 3, "jpg": jpeg(number), "json": {"n": [number]}, "npy": vector, "txt": f"sample é {number}"}
                out.write({"__key__": f"{number:05d}", **row, "jpg": row["jpg"], "json": row["json"]})
                rows.append(row)
    return rows


def _table() -> tuple[pa.Table, Rows]:
    rng = np.random.default_rng(0)
    rows: Rows = [
        {
            "id": i,
            "score": float(rng.random()),
            "good": bool(i % 2),
            "text": f"row {i} ü",
            "blob": bytes([i % 256, 0, 255]),
            "tokens": rng.integers(0, 9, i % 4).astype(np.int32),
            "vector": rng.random(3).astype(np.float32),
        }
        for i in range(300)
    ]
    kinds = {"tokens": pa.list_(pa.int32()), "vector": pa.list_(pa.float32(), 3), "text": pa.large_string()}
    columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
    return pa.table(columns), rows


def _parquet(root: Path) -> Rows:
    table, rows = _table()
    pq.write_table(table.slice(0, 200), root / "a.parquet", row_group_size=64)
    pq.write_table(table.slice(200), root / "b.parquet")
    return rows


def _arrow(root: Path) -> Rows:
    table, rows = _table()
    with pa.ipc.new_file(str(root / "a.arrow"), table.schema) as out:
        out.write_table(table.slice(0, 200), max_chunksize=37)
    with pa.ipc.new_stream(str(root / "b.arrow"), table.schema) as out:
        out.write_table(table.slice(200), max_chunksize=37)
    return rows


def _csv(root: Path) -> Rows:
    rows: Rows = [
        {"id": i, "x": i / 4, "ok": i % 2 == 0, "text": f'says "{i}",\nthen more' if i % 5 == 0 else f"t{i}", "day": "2024-01-02"} for i in range(50)
    ]
    for name, part in (("a.csv", rows[:20]), ("b.csv", rows[20:])):
        with (root / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows([{**row, "ok": str(row["ok"]).lower()} for row in part])
    return rows


def _jsonl(root: Path) -> Rows:
    rows: Rows = [{"id": i, "x": i / 4, "text": f"é {i}", "ids": np.arange(i % 3, dtype=np.int64), "when": "2024-01-02T03:04:05"} for i in range(50)]
    for name, part in (("a.jsonl", rows[:20]), ("b.jsonl", rows[20:])):
        lines = [json.dumps({**row, "ids": row["ids"].tolist()}, ensure_ascii=False) for row in part]
        (root / name).write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return rows


def _nested_jsonl(root: Path) -> Rows:
    rows: Rows = [{"id": i, "meta": {"tags": ["a", {"deep": i}]}} for i in range(20)]
    (root / "a.ndjson").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return rows


def _npy(root: Path) -> Rows:
    data = np.random.default_rng(0).random((40, 3, 2)).astype(">f4")
    np.save(root / "a.npy", data[:25])
    np.save(root / "b.npy", np.asfortranarray(data[25:]))
    return [{"data": row} for row in data.astype("<f4")]


def _npz(root: Path) -> Rows:
    x, y = np.arange(60, dtype=np.float16).reshape(20, 3), np.arange(20, dtype=np.uint8)
    np.savez(root / "a.npz", x=x, y=y)
    return [{"x": x[i], "y": int(y[i])} for i in range(20)]


def _penstock(root: Path) -> Rows:
    rows: Rows = [{"id": i, "text": f"é{i}", "image": jpeg(i), "vector": np.full(2, i, np.float32)} for i in range(30)]
    fields = {"id": ps.Scalar("int64"), "text": ps.Text(), "image": ps.Image("jpeg"), "vector": ps.Array((2,), "float32")}
    with ps.Writer(str(root), fields, shard_size=4000) as writer:
        for row in rows:
            writer.write(row)
    return rows


def _hf(root: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")})
    rows: Rows = [{"image": jpeg(i), "label": i % 2, "text": f"t{i}"} for i in range(12)]
    stored = [{**row, "image": {"bytes": row["image"], "path": None}} for row in rows]
    datasets.Dataset.from_list(stored, features=features).save_to_disk(str(root), num_shards=2)
    return rows


MAKERS: dict[str, Callable[[Path], Rows]] = {
    "images": _images,
    "files": _files,
    "tar": _tar,
    "parquet": _parquet,
    "arrow": _arrow,
    "csv": _csv,
    "jsonl": _jsonl,
    "nested jsonl": _nested_jsonl,
    "npy": _npy,
    "npz": _npz,
    "hf": _hf,
    "penstock": _penstock,
}


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
    _hf(tmp_path / "raw")
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
