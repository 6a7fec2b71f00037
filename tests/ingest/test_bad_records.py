"""Bad records of tars, tables, text and arrays: each has its clear error, and good rows are never lost with bad ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from contracts.raw import jpeg, nothing_published, quarantine, rows_of, run

from penstock.errors import BadData, BadRequest


def small_tar(path: Path, rows: int = 6, *, skip: int | None = None) -> None:
    """Write a tar of images and labels; the sample `skip` has no label."""
    with webdataset.TarWriter(str(path), mtime=0) as out:
        for i in range(rows):
            out.write({"__key__": f"{i:03d}", "jpg": jpeg(i), **({} if i == skip else {"cls": i})})


@pytest.mark.parametrize("at", [0.5, 0.9])
def test_truncated_tar(tmp_path: Path, at: float) -> None:
    """A cut tar fails by default and names the last whole sample's place; accepted, everything before the damage is there."""
    (tmp_path / "raw").mkdir()
    small_tar(tmp_path / "raw" / "a.tar")
    small_tar(tmp_path / "raw" / "b.tar")
    data = (tmp_path / "raw" / "a.tar").read_bytes()
    (tmp_path / "raw" / "a.tar").write_bytes(data[: int(8000 * at)])
    with pytest.raises(BadData, match=r"1 by damaged structure(.|\n)*a\.tar.*(cut short)"):
        run(tmp_path / "raw", tmp_path / "out")
    assert nothing_published(tmp_path / "out")
    report = run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad=1)
    labels = [row["cls"] for row in rows_of(tmp_path / "out")]
    assert labels[-6:] == list(range(6))
    assert labels[:-6] == list(range(len(labels) - 6))
    assert report.rows_in == report.rows_out + 1


def test_tar_sample_with_other_members(tmp_path: Path) -> None:
    """A sample without a member that the first has is set aside by key; with columns= it is kept."""
    small_tar(tmp_path / "a.tar", skip=3)
    report = run(tmp_path / "a.tar", tmp_path / "out", max_bad=1)
    assert report.rows_out == 5
    assert quarantine(tmp_path / "out")[0]["key"] == "003"
    assert run(tmp_path / "a.tar", tmp_path / "out2", columns=["jpg"]).rows_out == 6


def test_tar_with_a_key_twice(tmp_path: Path) -> None:
    """A key that stands at two places of a tar is damaged structure, named."""
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as out:
        for key in ("a", "b", "a", "c"):
            out.write({"__key__": key, "cls": 1})
    with pytest.raises(BadData, match="key 'a' stands at two places"):
        run(tmp_path / "a.tar", tmp_path / "out")


def test_pickle_in_a_tar_stays_bytes(tmp_path: Path) -> None:
    """A `.pyd` member is bytes and is never unpickled; an object array is set aside."""
    bomb = b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "owned") + b"'\ntR."
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as out:
        out.write({"__key__": "a", "pyd": bomb})
    run(tmp_path / "a.tar", tmp_path / "out")
    assert rows_of(tmp_path / "out") == [{"pyd": bomb}]
    assert not (tmp_path / "owned").exists()


def test_cut_arrow_file(tmp_path: Path) -> None:
    """A cut Arrow file fails by default and names the file; beside a good one it can be accepted as lost."""
    (tmp_path / "raw").mkdir()
    table = pa.table({"x": list(range(1000))})
    for name in ("a", "b"):
        with pa.ipc.new_file(str(tmp_path / "raw" / f"{name}.arrow"), table.schema) as out:
            out.write_table(table)
    cut = tmp_path / "raw" / "b.arrow"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(BadData, match=r"b\.arrow"):
        run(tmp_path / "raw", tmp_path / "out")
    assert run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad=1).rows_out == 1000
    with pytest.raises(BadData, match=r"b\.arrow.*damaged"):
        run(cut, tmp_path / "out2")


def test_cut_arrow_stream(tmp_path: Path) -> None:
    """A stream without its end marker was cut, also when the cut is between two batches."""
    table = pa.table({"x": list(range(1000))})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as out:
        out.write_table(table)
    (tmp_path / "a.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-8])
    with pytest.raises(BadData, match="end marker"):
        run(tmp_path / "a.arrow", tmp_path / "out")


def test_damaged_parquet_row_group(tmp_path: Path) -> None:
    """A row group whose pages are damaged is lost with its number of rows; the others are there."""
    table = pa.table({"x": np.random.default_rng(0).integers(0, 10**9, 3000)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000, compression="zstd", use_dictionary=False)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    middle = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(1).column(0).data_page_offset
    data[middle : middle + 200] = bytes(200)
    (tmp_path / "t.parquet").write_bytes(bytes(data))
    with pytest.raises(BadData, match="damaged structure"):
        run(tmp_path / "t.parquet", tmp_path / "out")
    report = run(tmp_path / "t.parquet", tmp_path / "out", resume=True, max_bad="50%")
    assert report.rows_out == 2000
    assert report.rows_in == 3000


def test_unsupported_types_are_named_together(tmp_path: Path) -> None:
    """Columns that no field holds are named all at once, with the --columns that leaves them out; that works."""
    columns = {"id": [1], "when": pa.array([0], pa.timestamp("us")), "price": pa.array([None], pa.decimal128(5, 2)), "s": [{"a": 1}]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(BadData, match=r"'when' \(timestamp\[us\]\), 'price' \(decimal128\(5, 2\)\), 's' .*--columns id"):
        run(tmp_path / "t.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "t.parquet", tmp_path / "out", columns=["id"]).rows_out == 1
    with pytest.raises(BadRequest, match="'nope' not in the source; it has 'id'"):
        run(tmp_path / "t.parquet", tmp_path / "out2", columns=["nope"])


def test_nulls_are_set_aside_row_by_row(tmp_path: Path) -> None:
    """Rows with a null in a kept column are set aside with their number; the others are there."""
    pq.write_table(pa.table({"x": [1, None, 3, 4], "t": ["a", "b", None, "d"], "v": [[1], [2], [3], [None]]}), tmp_path / "t.parquet")
    report = run(tmp_path / "t.parquet", tmp_path / "out", max_bad=3)
    assert [row["x"] for row in rows_of(tmp_path / "out")] == [1]
    assert [(line["row"], line["key"]) for line in quarantine(tmp_path / "out")] == [(1, "t.parquet#1"), (2, "t.parquet#2"), (3, "t.parquet#3")]
    assert report.rows_set_aside == 3


def test_files_with_other_columns(tmp_path: Path) -> None:
    """A Parquet file whose columns are not those of the first is named with the difference."""
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "raw" / "a.parquet")
    pq.write_table(pa.table({"x": ["text"]}), tmp_path / "raw" / "b.parquet")
    with pytest.raises(BadData, match=r"b\.parquet.*column 'x' is Text"):
        run(tmp_path / "raw", tmp_path / "out")


def test_csv_rows_with_unlike_columns(tmp_path: Path) -> None:
    """Lines with other numbers of values are named by file and line, also behind a value with line breaks; the rest can be kept."""
    (tmp_path / "t.csv").write_text('a,b\n1,x\n2,"y\nyy"\n3\n4,z,extra\n5,w\n')
    with pytest.raises(BadData, match=r"t\.csv, row 5: line 5: 1 values where the header names 2(.|\n)*line 6: 3 values"):
        run(tmp_path / "t.csv", tmp_path / "out")
    run(tmp_path / "t.csv", tmp_path / "out", resume=True, max_bad=2)
    assert rows_of(tmp_path / "out") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y\nyy"}, {"a": 5, "b": "w"}]


def test_csv_value_of_another_type(tmp_path: Path) -> None:
    """A word in a number column, unseen when types were inferred, sets its line aside and no other."""
    lines = ["a,b"] + [f"{i},{i}" for i in range(3_000_000 // 10)]
    body = "\n".join(lines)
    cut = len(body) // 3
    place = body.index("\n", cut)
    text = body * 6
    text = "a,b\n" + ("\n".join(lines[1:]) + "\n") * 6
    place = text.index("\n", len(text) // 3) + 1
    (tmp_path / "t.csv").write_text(text[:place] + "oops,1\n" + text[place:])
    report = run(tmp_path / "t.csv", tmp_path / "out")
    (line,) = quarantine(tmp_path / "out")
    assert report.rows_set_aside == 1
    assert line["row"] == text[:place].count("\n") + 1
    assert "oops" in line["reason"]


def test_csv_without_text(tmp_path: Path) -> None:
    """An empty CSV, one without a header, and one with a name twice are refused."""
    for text, reason in (("", "without a header"), ("a,a\n1,2\n", "twice")):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(BadData, match=reason):
            run(tmp_path / "t.csv", tmp_path / "out")
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(BadData, match="holds no rows"):
        run(tmp_path / "t.csv", tmp_path / "out")


def test_stray_quotes_do_not_swallow_lines(tmp_path: Path) -> None:
    """A quote inside an unquoted value is a character like any other."""
    (tmp_path / "t.csv").write_text('a,b\n1,5" pipe\n2,6" pipe\n3,x\n')
    run(tmp_path / "t.csv", tmp_path / "out")
    assert [row["b"] for row in rows_of(tmp_path / "out")] == ['5" pipe', '6" pipe', "x"]


@pytest.mark.parametrize(
    ("line", "reason", "structure"),
    [
        ('{"a": 1, "b": "x"', "not JSON", True),
        ("[1, 2]", "a JSON list where an object", True),
        ('{"a": 1}', r"missing \['b'\]", True),
        ('{"a": 1, "b": "x", "c": 3}', r"extra \['c'\]", True),
        ('{"a": null, "b": "x"}', "'a' is null", False),
        ('{"a": 99999999999999999999, "b": "x"}', "", False),
    ],
)
def test_jsonl_bad_lines(tmp_path: Path, line: str, reason: str, structure: bool) -> None:
    """A bad line is named by file and number with what is wrong; whether it is structure decides what the default bound allows."""
    good = [json.dumps({"a": i, "b": "x"}) for i in range(100_000)]
    text = "\n".join([*good[:50_000], "", line, *good[50_000:]])
    (tmp_path / "t.jsonl").write_text(text + "\n")
    if structure:
        with pytest.raises(BadData, match=rf"t\.jsonl, row 50002: line 50002: .*{reason}"):
            run(tmp_path / "t.jsonl", tmp_path / "out")
    else:
        assert run(tmp_path / "t.jsonl", tmp_path / "out").rows_set_aside == 1
        (found,) = quarantine(tmp_path / "out")
        assert found["row"] == 50_002
        assert reason in found["reason"]


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """A line that is not UTF-8 is set aside; the others are there."""
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,x\n2,\xff\n3,y\n")
    assert run(tmp_path / "t.csv", tmp_path / "out", max_bad=1).rows_out == 2
    (tmp_path / "t.jsonl").write_bytes(b'{"a": "x"}\n{"a": "\xff"}\n')
    assert run(tmp_path / "t.jsonl", tmp_path / "out2", max_bad=1).rows_out == 1


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    """An object array in .npy or .npz would need unpickling: refused, never loaded."""
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(BadData, match="never unpickles"):
            run(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [({"x": np.zeros(3), "y": np.zeros(4)}, "differ in rows"), ({"x": np.float64(1)}, "no rows"), ({"x": np.zeros(3, "M8[s]")}, "no field type")],
)
def test_arrays_that_are_no_rows(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    """Arrays of unlike lengths, a single number, and dtypes that no field holds are refused with what there is."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadData, match=reason):
        run(tmp_path / "a.npz", tmp_path / "out")


def test_cut_npy(tmp_path: Path) -> None:
    """A cut .npy is named."""
    np.save(tmp_path / "a.npy", np.zeros((100, 10)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    with pytest.raises(BadData, match=r"a\.npy"):
        run(tmp_path / "a.npy", tmp_path / "out")
