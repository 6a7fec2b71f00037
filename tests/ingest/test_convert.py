"""Conversions as a whole: the report adds up whatever is asked, splits and shuffles are what they say, and options mean the same together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.raw import image_folder, quarantine, rows_of, run, tree
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import AlreadyExists, BadRequest
from penstock.ingest.convert import convert

Values = st.lists(st.one_of(st.integers(-9, 9), st.none()), min_size=1, max_size=60)


def write(path: Path, values: list[int | None], group: int = 7) -> None:
    """Write a Parquet file of numbers with nulls among them."""
    pq.write_table(pa.table({"n": pa.array(values, pa.int64()), "i": range(len(values))}), path, row_group_size=group)


@settings(deadline=None, max_examples=12)
@given(
    values=Values,
    fractions=st.lists(st.sampled_from([0.1, 0.25, 0.4]), max_size=2),
    shuffle=st.none() | st.integers(-3, 3),
    shard_format=st.sampled_from(["arrow", "tar"]),
)
def test_report_adds_up(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], fractions: list[float], shuffle: int | None, shard_format: str
) -> None:
    """Rows in are rows out, set aside and left out; each number is what lies on disk; no row is doubled and none is lost without a line."""
    folder = tmp_path_factory.mktemp("sum")
    write(folder / "t.parquet", values)
    good = [index for index, value in enumerate(values) if value is not None]
    if not good:
        return
    split = {f"s{number}": fraction for number, fraction in enumerate(fractions)} or None
    report = run(folder / "t.parquet", folder / "out", split=split, shuffle=shuffle, format=shard_format, max_bad="100%")
    assert report.rows_in == len(values) == report.rows_out + report.rows_set_aside + report.rows_left_out
    assert report.rows_set_aside == len(values) - len(good)
    found = {name: rows_of(folder / "out" / name if name else folder / "out") for name in (split or {"": 1})}
    assert {name: len(rows) for name, rows in found.items()} == {name: of.rows for name, of in report.splits.items()}
    out = [row["i"] for rows in found.values() for row in rows]
    assert len(out) == report.rows_out == len(set(out))
    assert set(out) <= set(good)
    assert split or sorted(out) == good
    if shuffle is None:
        assert all([row["i"] for row in rows] == sorted(row["i"] for row in rows) for rows in found.values())
    aside = [line["row"] for line in quarantine(folder / "out")] if report.quarantine else []
    assert sorted(aside) == [index for index, value in enumerate(values) if value is None]
    shards = [path for path in (folder / "out").rglob(f"*.{shard_format}") if path.parent.name == "data"]
    assert sum(path.stat().st_size for path in shards) == report.bytes_out
    assert len(shards) == report.shards


def test_split_without_a_row_is_an_empty_dataset(tmp_path: Path) -> None:
    """A split that no row falls into is published all the same, with its columns and no rows."""
    write(tmp_path / "t.parquet", [1])
    report = run(tmp_path / "t.parquet", tmp_path / "out", split={"a": 0.5, "b": 0.5})
    assert sorted(of.rows for of in report.splits.values()) == [0, 1]
    for name in "ab":
        assert list(ps.Dataset(str(tmp_path / "out" / name)).fields) == ["n", "i"]


def test_splits_of_a_shuffled_and_a_plain_conversion_agree(tmp_path: Path) -> None:
    """Which split a row is in depends on its key alone: not on shuffling, format, shard size or workers."""
    write(tmp_path / "t.parquet", list(range(500)))
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "shuffled": {"shuffle": 3},
        "tar": {"format": "tar"},
        "small": {"shard_size": 3000},
        "workers": {"workers": 2},
    }
    sides = {}
    for name, option in options.items():
        convert(tmp_path / "t.parquet", tmp_path / name, split=["a=30%", "b=70%"], **{"workers": 0, **option})
        sides[name] = {row["i"] for row in rows_of(tmp_path / name / "a")}
    assert all(side == sides["plain"] for side in sides.values())
    assert 100 < len(sides["plain"]) < 200


def test_shuffle_mixes_over_the_whole(tmp_path: Path) -> None:
    """Rows from far ends become neighbours: each tenth of the result holds rows of each tenth of the source."""
    write(tmp_path / "t.parquet", list(range(2000)), group=100)
    run(tmp_path / "t.parquet", tmp_path / "out", shuffle=11, shard_size=20_000)
    order = np.array([row["i"] for row in rows_of(tmp_path / "out")])
    assert sorted(order) == list(range(2000))
    for tenth in np.split(order // 200, 10):
        assert set(tenth.tolist()) == set(range(10))
    assert len(ps.Dataset(str(tmp_path / "out")).manifest.shards) > 1


def test_columns_of_an_image_folder(tmp_path: Path) -> None:
    """Each set of columns can be kept, in the source's order; class names go only with the label."""
    made = image_folder(tmp_path / "raw")
    for number, chosen in enumerate((["label"], ["path", "image"], ["label", "image", "path"])):
        run(tmp_path / "raw", tmp_path / f"{number}", columns=chosen)
        dataset = ps.Dataset(str(tmp_path / f"{number}"))
        assert list(dataset.fields) == [name for name in ("image", "label", "path") if name in chosen]
        assert ("class_names" in dataset.metadata) is ("label" in chosen)
        if "path" in chosen:
            assert [row["path"] for row in rows_of(tmp_path / f"{number}")] == list(made)
    with pytest.raises(BadRequest, match="columns: 'size' not in the source; it has 'image', 'label', 'path'"):
        run(tmp_path / "raw", tmp_path / "none", columns=["size"])


def test_each_source_as_what_it_is_not(tmp_path: Path) -> None:
    """`--from files` takes any folder as files; `--from jsonl` reads files of any name; what does not fit is refused by kind."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.log").write_text('{"a": 1}\n{"a": 2}\n')
    assert run(tmp_path / "raw" / "x.log", tmp_path / "a", kind="jsonl").rows_out == 2
    assert run(tmp_path / "raw", tmp_path / "b", kind="files").rows_out == 1
    assert rows_of(tmp_path / "b")[0]["path"] == "x.log"
    with pytest.raises(Exception, match="damaged, cut short, or not parquet"):
        run(tmp_path / "raw" / "x.log", tmp_path / "c", kind="parquet")
    with pytest.raises(Exception, match="is not a dataset"):
        run(tmp_path / "raw", tmp_path / "d", kind="penstock")


def test_append_of_a_grown_format(tmp_path: Path) -> None:
    """Tar shards can be appended to Arrow shards and the other way round: one dataset, all rows, in order."""
    write(tmp_path / "a.parquet", [1, 2])
    write(tmp_path / "b.parquet", [3])
    run(tmp_path / "a.parquet", tmp_path / "out")
    report = run(tmp_path / "b.parquet", tmp_path / "out", append=True, format="tar")
    assert [row["n"] for row in rows_of(tmp_path / "out")] == [1, 2, 3]
    assert (report.splits[""].version, report.rows_out) == (2, 1)
    assert Counter(shard.format for shard in ps.Dataset(str(tmp_path / "out")).manifest.shards) == {"arrow": 1, "tar": 1}


def test_same_append_twice_adds_twice(tmp_path: Path) -> None:
    """An append that is asked for again is done again: only `--resume` means that it should not be."""
    write(tmp_path / "t.parquet", [1])
    for version in (1, 2, 3):
        assert run(tmp_path / "t.parquet", tmp_path / "out", append=True).splits[""].version == version
    assert run(tmp_path / "t.parquet", tmp_path / "out", resume=True).seconds == 0
    assert [row["n"] for row in rows_of(tmp_path / "out")] == [1, 1, 1]


def test_overwrite_of_splits(tmp_path: Path) -> None:
    """Overwriting a split destination makes a new version of each, and the old ones can still be read."""
    write(tmp_path / "a.parquet", list(range(50)))
    write(tmp_path / "b.parquet", list(range(100, 120)))
    for name, overwrite in (("a", False), ("b", True)):
        run(tmp_path / f"{name}.parquet", tmp_path / "out", split={"x": 0.5, "y": 0.5}, overwrite=overwrite)
    new = [row["n"] for name in "xy" for row in rows_of(tmp_path / "out" / name)]
    old = [row["n"] for name in "xy" for row in rows_of(tmp_path / "out" / name, version=1)]
    assert sorted(new) == list(range(100, 120))
    assert sorted(old) == list(range(50))


def test_one_split_that_stands_is_not_overwritten(tmp_path: Path) -> None:
    """When only one of the splits exists the conversion is refused by that one's path, and appending fills both."""
    write(tmp_path / "t.parquet", list(range(40)))
    run(tmp_path / "t.parquet", tmp_path / "out" / "x")
    before = tree(tmp_path / "out")
    with pytest.raises(AlreadyExists, match=r"out/x already holds version 1 with 40 rows"):
        run(tmp_path / "t.parquet", tmp_path / "out", split={"x": 0.5, "y": 0.5})
    assert tree(tmp_path / "out") == before
    run(tmp_path / "t.parquet", tmp_path / "out", split={"x": 0.5, "y": 0.5}, append=True)
    assert len(rows_of(tmp_path / "out" / "x")) + len(rows_of(tmp_path / "out" / "y")) == 80


def test_quarantine_is_lines_of_json_in_the_source_s_order(tmp_path: Path) -> None:
    """Each line says source, key, row, reason, kind of fault and rows lost; the file's name is the job's, and the report names it."""
    write(tmp_path / "t.parquet", [1, None, 2, None])
    report = run(tmp_path / "t.parquet", tmp_path / "out", max_bad=2)
    assert report.quarantine == str(tmp_path / "out" / "_penstock" / "quarantine" / f"{report.job}.jsonl")
    lines = [json.loads(line) for line in Path(report.quarantine).read_text().splitlines()]
    assert [line["row"] for line in lines] == [1, 3]
    assert {"source", "key", "reason", "row", "structure", "rows"} <= set(lines[0])


def test_report_of_a_finished_conversion_whose_report_is_gone(tmp_path: Path) -> None:
    """`--resume` then says what the dataset holds, and what nobody knows any more is nought."""
    write(tmp_path / "t.parquet", [1, None, 2])
    first = run(tmp_path / "t.parquet", tmp_path / "out", max_bad=1)
    next((tmp_path / "out" / "_penstock" / "reports").iterdir()).unlink()
    again = run(tmp_path / "t.parquet", tmp_path / "out", max_bad=1, resume=True)
    assert (again.rows_out, again.bytes_out, again.shards, again.splits) == (first.rows_out, first.bytes_out, first.shards, first.splits)
    assert (again.rows_set_aside, again.bytes_in, again.quarantine) == (0, 0, None)
