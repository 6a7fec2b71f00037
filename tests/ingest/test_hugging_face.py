"""Folders of Hugging Face datasets: what `state.json` names is converted, in that order, and as `Dataset` opens it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.raw import quarantine, rows_of, run, same_rows

import penstock as ps
from penstock.errors import BadData


def folder(root: Path, **state: object) -> Path:
    """Write what `save_to_disk` leaves: three data files, named in an order of their own, and a cache beside them."""
    root.mkdir()
    for name, values in (("b.arrow", [1, 2]), ("a.arrow", [3]), ("c.arrow", [4]), ("cache-1234.arrow", [99])):
        table = pa.table({"x": values})
        with pa.ipc.new_stream(str(root / name), table.schema) as out:
            out.write_table(table)
    named = {"_data_files": [{"filename": name} for name in ("b.arrow", "a.arrow", "c.arrow")], **state}
    (root / "state.json").write_text(json.dumps(named))
    (root / "dataset_info.json").write_text("{}")
    return root


def test_only_the_data_files_are_read_in_their_order(tmp_path: Path) -> None:
    """The files that `state.json` names are converted in its order; a cache beside them is not data."""
    run(folder(tmp_path / "raw"), tmp_path / "out")
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [1, 2, 3, 4]


def test_a_selection_by_index_is_refused(tmp_path: Path) -> None:
    """A folder whose rows are chosen by an index is refused with the remedy, instead of being converted whole."""
    raw = folder(tmp_path / "raw", _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(BadData, match=r"selection of its rows by an index; save it again after flatten_indices"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_of_datasets_convert_as_they_open(tmp_path: Path) -> None:
    """An `Array2D` becomes the same array column as when the folder is opened in place."""
    datasets = importlib.import_module("datasets")
    features = datasets.Features({"grid": datasets.Array2D(shape=(2, 3), dtype="float32"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    values = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    made = datasets.Dataset.from_dict({"grid": list(values), "label": [i % 2 for i in range(10)]}, features=features)
    made.save_to_disk(str(tmp_path / "raw"), num_shards=2)
    run(tmp_path / "raw", tmp_path / "out")
    there = ps.Dataset(str(tmp_path / "raw"))
    assert dict(ps.Dataset(str(tmp_path / "out")).fields) == dict(there.fields)
    assert same_rows(rows_of(tmp_path / "out"), [there[i] for i in range(10)])
    there.close()


def test_an_array_of_another_shape_is_set_aside_alone(tmp_path: Path) -> None:
    """A row whose lists have not the shape that the features tell goes to quarantine by its number, the others stay."""
    rows = [[[float(i), 1.0], [2.0, 3.0]] for i in range(9)]
    rows[4] = [[4.0]]
    told = {"info": {"features": {"grid": {"_type": "Array2D", "shape": [2, 2], "dtype": "float64"}}}}
    kind = pa.list_(pa.list_(pa.float64()))
    schema = pa.schema([pa.field("grid", kind)], metadata={"huggingface": json.dumps(told)})
    pq.write_table(pa.table({"grid": pa.array(rows, kind)}, schema=schema), tmp_path / "t.parquet")
    report = run(tmp_path / "t.parquet", tmp_path / "out", max_bad=1)
    assert (report.rows_out, report.rows_set_aside) == (8, 1)
    (line,) = quarantine(tmp_path / "out")
    assert line["row"] == 4
    assert "shape (2, 2)" in line["reason"]
