"""One small source of every kind, with the rows that it holds: what conversions must give back, as it was and in this order."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

import penstock as ps

from .raw import image_folder, jpeg

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
    datasets = importlib.import_module("datasets")  # takes a second, which other tests need not pay
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
"""For each kind, what writes it into a folder and returns its rows."""
