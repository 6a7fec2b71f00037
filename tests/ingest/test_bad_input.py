"""Bad input: each has its clear error, nothing is published beside it, and good rows are never lost with bad ones."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from contracts.raw import image_folder, jpeg, picture, rows_of

import penstock as ps
from penstock.errors import BadData, BadRequest, NotADataset, PenstockError, StorageError
from penstock.ingest.convert import convert


def run(src: Path | str, out: Path, **options: Any) -> Any:
    """Convert in this process."""
    return convert(src, out, workers=0, **options)


def quarantine(out: Path) -> list[dict[str, Any]]:
    """Return what was set aside."""
    (file,) = (out / "_penstock" / "quarantine").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def nothing_published(out: Path) -> bool:
    """Whether no version and no shard is there."""
    return not list(out.glob("_penstock/commits/*")) and not list(out.glob("data/*"))


# --- where nothing can be read ----------------------------------------------------------------------------------------------------------------


def test_missing_source(tmp_path: Path) -> None:
    """A path that is not there is named, and no destination is made."""
    with pytest.raises(NotADataset, match=r"nowhere: no such file or folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without files is named, and no destination is made."""
    (tmp_path / "raw").mkdir()
    with pytest.raises(BadRequest, match=r"raw: the folder is empty"):
        run(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pattern_without_files(tmp_path: Path) -> None:
    """A glob that matches nothing, and a brace pattern with a missing file, are refused by name."""
    with pytest.raises(NotADataset, match="matches no file"):
        run(f"{tmp_path}/*.csv", tmp_path / "out")
    (tmp_path / "a-0.csv").write_text("x\n1\n")
    with pytest.raises(NotADataset, match=r"a-1\.csv does not exist"):
        run(f"{tmp_path}/a-{{0..1}}.csv", tmp_path / "out")


def test_several_kinds_together(tmp_path: Path) -> None:
    """A folder with files of several kinds is refused with the counts, and `kind` chooses."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("x\n1\n")
    (tmp_path / "raw" / "b.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    with pytest.raises(BadRequest, match=r"1 of csv, 1 of jsonl.*--from"):
        run(tmp_path / "raw", tmp_path / "out")
    assert run(tmp_path / "raw", tmp_path / "out", kind="jsonl").rows_out == 2


def test_unknown_and_compressed_files(tmp_path: Path) -> None:
    """Files of no known kind are counted by suffix; compressed ones are to be unpacked."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.xyz").write_bytes(b"x")
    with pytest.raises(BadRequest, match=r"1 x \.xyz.*--from"):
        run(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "a.xyz").rename(tmp_path / "raw" / "a.gz")
    with pytest.raises(BadRequest, match="unpack"):
        run(tmp_path / "raw", tmp_path / "out")


def test_url_source(tmp_path: Path) -> None:
    """A URL is refused by its scheme."""
    with pytest.raises(BadRequest, match="s3"):
        run("s3://bucket/raw", tmp_path / "out")


def test_no_permission(tmp_path: Path) -> None:
    """A file without read permission is set aside by name; a folder without it is an error. Run as another user, since root may read all."""
    image_folder(tmp_path / "raw", classes=1, each=3)
    (tmp_path / "raw" / "class_0" / "0001.jpg").chmod(0)
    program = (
        "import os; from penstock.ingest.convert import convert; import penstock.ingest.part\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"r = convert({str(tmp_path / 'raw')!r}, {str(tmp_path / 'out')!r}, workers=0, max_bad=1)\n"
        "print(r.rows_out, r.rows_set_aside)"
    )
    if os.geteuid() == 0:
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o777)
        done = subprocess.run([os.sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)  # type: ignore[attr-defined]
        assert done.stdout.split() == ["2", "1"], done.stderr
        assert "Permission denied" in quarantine(tmp_path / "out")[0]["reason"]
        (tmp_path / "raw" / "class_0").chmod(0)
        done = subprocess.run([os.sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)  # type: ignore[attr-defined]
        assert "cannot list the folder: permission denied" in done.stderr


# --- images -----------------------------------------------------------------------------------------------------------------------------------


def bad_images(root: Path) -> dict[str, str]:
    """Write an image folder with one of each kind of damage; return the expected reason of each."""
    image_folder(root, classes=2, each=4)
    good = jpeg(99, height=160, width=160)
    folder = root / "class_0"
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("I am no image at all")
    (folder / "cut.png").write_bytes(picture("png")[:-300])
    (folder / "cut.webp").write_bytes(picture("webp")[:-40])
    (folder / "flip.bmp").write_bytes(picture("bmp"))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return {
        "cut.jpg": "damaged",
        "empty.jpg": "0 bytes",
        "text.jpg": "not an image",
        "cut.png": "does not decode",
        "cut.webp": "could not create decoder",
        "flip.bmp": "--reencode",
        "gone.jpg": "cannot be read",
    }


def test_bad_images_among_good_ones(tmp_path: Path) -> None:
    """Cut, empty, mislabelled and dangling images go to quarantine with a reason each; the good ones are all there."""
    reasons = bad_images(tmp_path / "raw")
    report = run(tmp_path / "raw", tmp_path / "out", max_bad=len(reasons))
    assert (report.rows_in, report.rows_out, report.rows_set_aside) == (8 + len(reasons), 8, len(reasons))
    assert len(rows_of(tmp_path / "out")) == 8
    found = {line["key"].split("/")[1]: line["reason"] for line in quarantine(tmp_path / "out")}
    assert set(found) == set(reasons)
    for name, reason in reasons.items():
        assert reason in found[name], (name, found[name])


def test_too_much_bad_publishes_nothing_and_keeps_the_job(tmp_path: Path) -> None:
    """Above max_bad the error shows first reasons and remedy, nothing is published, the quarantine is kept, and --resume --max-bad goes on."""
    reasons = bad_images(tmp_path / "raw")
    with pytest.raises(
        BadData, match=rf"7 of 15 rows cannot be read.*0\.1%.*nothing was published(.|\n)*class_0/cut\.jpg(.|\n)*--max-bad {len(reasons)}"
    ):
        run(tmp_path / "raw", tmp_path / "out")
    assert nothing_published(tmp_path / "out")
    assert len(quarantine(tmp_path / "out")) == len(reasons)
    with pytest.raises(BadData, match="more than max_bad"):
        run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad=3)
    report = run(tmp_path / "raw", tmp_path / "out", resume=True, max_bad="50%")
    assert report.rows_out == 8
    assert len(quarantine(tmp_path / "out")) == len(reasons)


def test_nothing_readable_fails_whatever_max_bad_says(tmp_path: Path) -> None:
    """A source without one readable row is a mistake, not a dataset of zero rows."""
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(BadData, match="none of the 1 rows can be read"):
        run(tmp_path / "raw", tmp_path / "out", max_bad="100%")


def test_header_check_is_quicker_and_less_strict(tmp_path: Path) -> None:
    """With check='header' an image cut in its data passes, and one without a header does not."""
    reasons = bad_images(tmp_path / "raw")
    report = run(tmp_path / "raw", tmp_path / "out", check="header", max_bad=10)
    kept = {"cut.jpg", "cut.png"}
    assert report.rows_set_aside <= len(reasons) - len(kept)


def test_default_bound_is_a_thousandth(tmp_path: Path) -> None:
    """One bad image in 1,200 is set aside without asking; two are too many."""
    data = jpeg(0)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    for i in range(1199):
        (tmp_path / "raw" / "a" / f"{i:04d}.jpg").write_bytes(data)
    (tmp_path / "raw" / "a" / "bad1.jpg").write_bytes(b"")
    assert run(tmp_path / "raw", tmp_path / "out").rows_set_aside == 1
    (tmp_path / "raw" / "a" / "bad2.jpg").write_bytes(b"")
    with pytest.raises(BadData, match="2 of 1201"):
        run(tmp_path / "raw", tmp_path / "out2")


def test_images_outside_class_folders(tmp_path: Path) -> None:
    """Loose images beside class folders have no label: refused by name."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "raw" / "loose.jpg").write_bytes(jpeg(1))
    with pytest.raises(BadRequest, match=r"1 images lie outside any class folder, the first 'loose\.jpg'"):
        run(tmp_path / "raw", tmp_path / "out")


def test_class_names_that_look_the_same(tmp_path: Path) -> None:
    """Two class folders whose names differ only in Unicode composition are refused, not merged and not doubled."""
    for name in ("caf\u00e9", "cafe\u0301"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(BadData, match="same name"):
        run(tmp_path / "raw", tmp_path / "out")


def test_symlink_loop(tmp_path: Path) -> None:
    """A link to a folder above is refused by name instead of walked for ever; a link to another folder is followed."""
    image_folder(tmp_path / "raw", classes=1, each=2)
    image_folder(tmp_path / "far", classes=1, each=2)
    (tmp_path / "raw" / "class_1").symlink_to(tmp_path / "far" / "class_0")
    assert run(tmp_path / "raw", tmp_path / "ok").rows_out == 4
    (tmp_path / "raw" / "class_0" / "up").symlink_to(tmp_path / "raw")
    with pytest.raises(BadData, match=r"up: a symbolic link that leads back"):
        run(tmp_path / "raw", tmp_path / "out")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """An image with such a name is converted; such a class folder is refused; such a path as a value is set aside."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    folder = os.fsencode(tmp_path / "raw" / "class_0")
    (Path(os.fsdecode(folder + b"/\xff.jpg"))).write_bytes(jpeg(1))
    assert run(tmp_path / "raw", tmp_path / "a", split=["train=1"]).rows_out == 2
    report = run(tmp_path / "raw" / "class_0", tmp_path / "b", max_bad=1)
    assert (report.rows_out, report.rows_set_aside) == (1, 1)
    assert "\\xff.jpg" in quarantine(tmp_path / "b")[0]["key"]
    Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"/\xfe")).mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "raw") + b"/\xfe/1.jpg")).write_bytes(jpeg(1))
    with pytest.raises(BadData, match="not UTF-8; rename it"):
        run(tmp_path / "raw", tmp_path / "c")


# --- tars -------------------------------------------------------------------------------------------------------------------------------------


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


# --- tables -----------------------------------------------------------------------------------------------------------------------------------


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


# --- text -------------------------------------------------------------------------------------------------------------------------------------


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


# --- arrays -----------------------------------------------------------------------------------------------------------------------------------


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


# --- the destination --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_full_disk(tmp_path: Path, small_disk: Path, workers: int) -> None:
    """A full disk is said in plain words, nothing is published, and after making room --resume finishes."""
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((400_000, 2)))
    with pytest.raises(StorageError, match="the disk is full"):
        convert(tmp_path / "a.npy", small_disk / "out", workers=workers, shard_size=500_000)
    assert nothing_published(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    report = convert(tmp_path / "a.npy", small_disk / "out", workers=workers, shard_size=500_000, resume=True)
    assert report.rows_out == 400_000
    assert len(ps.Dataset(str(small_disk / "out"))) == 400_000


def test_destination_that_is_a_file(tmp_path: Path) -> None:
    """A file where the dataset should go is refused."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    (tmp_path / "out").write_text("x")
    with pytest.raises(PenstockError, match="is a file"):
        run(tmp_path / "raw", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "zip"}, "format: 'zip'"),
        ({"shard_size": "many"}, "shard_size: 'many'"),
        ({"workers": -1}, "workers: -1"),
        ({"reencode": "gif"}, "reencode: 'gif'"),
        ({"reencode": "jpeg:0"}, "quality 0"),
        ({"resize_short": 0}, "resize_short: 0"),
        ({"max_bad": "lots"}, "max_bad: 'lots'"),
        ({"max_bad": -1}, "max_bad: -1"),
        ({"check": "twice"}, "check: 'twice'"),
        ({"kind": "zip"}, "kind: 'zip'"),
        ({"split": {"a": 2}}, "split: fraction 2"),
        ({"split_key": "x"}, "split_key: 'x' has no meaning"),
        ({"split": {"a": 1}, "split_key": "image"}, "split_key: 'image' is not a column of numbers"),
        ({"columns": []}, "must name one or more"),
    ],
)
def test_arguments_that_cannot_work(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    """Each wrong argument is refused by name and value before anything is written."""
    image_folder(tmp_path / "raw", classes=1, each=1)
    with pytest.raises(BadRequest, match=reason):
        convert(tmp_path / "raw", tmp_path / "out", **{"workers": 0, **options})
    assert not (tmp_path / "out").exists()


def test_image_options_without_images(tmp_path: Path) -> None:
    """Scaling a source without images is refused."""
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(BadRequest, match="need a column of images"):
        run(tmp_path / "t.csv", tmp_path / "out", resize_short=100)
