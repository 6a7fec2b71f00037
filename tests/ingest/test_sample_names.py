"""Keys that stand twice: no row is lost, one key is in one split, and two rows never become one sample of a tar."""

from __future__ import annotations

import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import quarantine, rows_of, run
from contracts.tars import write_tar
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadData
from penstock.ingest.convert import convert
from penstock.ingest.permuted import SecondStage
from penstock.shards.verify import verify

SPLIT = {"split": {"a": 0.5, "b": 0.5}}


@pytest.mark.parametrize("options", [*itertools.product([{}, SPLIT], [{}, {"format": "tar"}], [{}, {"shuffle": 1}])], ids=str)
def test_samples_of_one_key_in_two_tars(tmp_path: Path, options: tuple[dict[str, Any], ...]) -> None:
    """Both samples are kept, in one split because the key is one, under names that are a shard's own."""
    for tar in "ab":
        write_tar(tmp_path / f"{tar}.tar", [(f"{key}.txt", f"{key} of {tar}".encode()) for key in "uvwxyz"])
    merged = {name: value for given_ in options for name, value in given_.items()}
    out = tmp_path / "out"
    run(str(tmp_path / "*.tar"), out, **merged)
    roots = [out / name for name in merged.get("split", {"": 1})]
    found = [[row["txt"] for row in rows_of(root)] for root in roots]
    assert sorted(itertools.chain(*found)) == sorted(f"{key} of {tar}" for key in "uvwxyz" for tar in "ab")
    keys = [{text[0] for text in texts} for texts in found]
    assert sum(map(len, keys)) == 6
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar_file:
            names = tar_file.getnames()
        assert len(set(names)) == len(names)


def table(tmp_path: Path, keys: list[str]) -> Path:
    """Return a CSV that names its samples."""
    (tmp_path / "k.csv").write_text("__key__,v\n" + "".join(f"{key},{number}\n" for number, key in enumerate(keys)))
    return tmp_path / "k.csv"


def test_repeated_name_is_set_aside_with_both_places(tmp_path: Path) -> None:
    """The second row of a name is refused by default and set aside when allowed, naming both rows and what to do; arrow shards keep both."""
    source = table(tmp_path, ["k1", "k2", "k1"])
    reason = r"k\.csv, row 4: __key__ 'k1' is also that of k\.csv#2: .*make the keys differ, or leave __key__ out"
    with pytest.raises(BadData, match=reason):
        run(source, tmp_path / "out", format="tar")
    report = run(source, tmp_path / "out", format="tar", max_bad=1, overwrite=True)
    assert (report.rows_in, report.rows_out, report.rows_set_aside) == (3, 2, 1)
    assert quarantine(tmp_path / "out")[0]["key"] == "k.csv#4"
    assert [row["v"] for row in rows_of(tmp_path / "out")] == [0, 1]
    assert run(source, tmp_path / "arrow").rows_out == 3
    assert run(source, tmp_path / "other", format="tar", columns=["v"]).rows_out == 3


def test_equal_names_in_two_splits_are_two_samples(tmp_path: Path) -> None:
    """Rows that go to different datasets may have one name, and those left out of every split count for none."""
    source = table(tmp_path, ["k"] * 40)
    report = run(source, tmp_path / "out", format="tar", split={"a": 0.2, "b": 0.2}, max_bad=0.9)
    assert [split.rows for split in report.splits.values()] == [1, 1]
    assert report.rows_left_out > 10
    assert report.rows_in == 40


UNUSABLE = ["a.b", "", "__x", "x/../y", "x" * 300]


@settings(deadline=None, max_examples=25)
@given(
    keys=st.lists(st.one_of(st.integers(0, 30).map("k{}".format), st.sampled_from(UNUSABLE)), min_size=1, max_size=60),
    chunk=st.sampled_from([1, 7, 40, 10**6]),
    shard=st.sampled_from([14_000, 30_000, 10**6]),
    shuffle=st.sampled_from([None, 1, 2]),
)
def test_no_shard_ever_has_a_name_twice(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], chunk: int, shard: int, shuffle: int | None
) -> None:
    """Wherever shards and chunks end, every row is written or set aside, one row of each usable name is written, and no other; shuffled too."""
    assume(set(keys) - set(UNUSABLE))
    folder = tmp_path_factory.mktemp("names")
    source = table(folder, keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.ingest.sources_text.CHUNK_BYTES", chunk)
        patch.setattr("penstock.ingest.permuted.CHUNK_BYTES", chunk)
        report = run(source, folder / "out", format="tar", shard_size=shard, max_bad="100%", shuffle=shuffle)
    assert report.rows_in == len(keys)
    values = [row["v"] for row in rows_of(folder / "out")]
    assert len(set(values)) == len(values) == report.rows_out
    assert {keys[value] for value in values} == set(keys) - set(UNUSABLE)
    if report.rows_set_aside:
        aside = [int(line["row"]) - 2 for line in quarantine(folder / "out")]
        assert sorted(values + aside) == list(range(len(keys)))
    if shuffle is None:
        assert values == sorted(values)
        assert set(values) >= {first for first in np.unique(keys, return_index=True)[1].tolist() if keys[first] not in UNUSABLE}
    for path in (folder / "out" / "data").glob("*.tar"):
        with tarfile.open(path) as file:
            names = file.getnames()
        assert names
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_name_found_behind_a_shuffle(tmp_path: Path, workers: int) -> None:
    """Of rows that only a shuffle brings together one is set aside, if that is allowed, naming both; the finished work is kept for `--resume`."""
    source, out = table(tmp_path, ["k1", "k2", "k1"]), tmp_path / "out"
    reason = r"k\.csv, row (2|4): __key__ 'k1' is also that of k\.csv#(4|2): .*make the keys differ, or leave __key__ out"
    with pytest.raises(BadData, match=rf"1 of 3 rows cannot be read \(1 by their values\)[^$]*{reason}") as caught:
        convert(source, out, format="tar", shuffle=1, workers=workers)
    assert caught.value.path == str(source)
    assert "--resume --max-bad 1" in str(caught.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SecondStage, "do", None)  # what was written is not written again
        report = convert(source, out, format="tar", shuffle=1, workers=0, max_bad=1, resume=True)
    assert (report.rows_in, report.rows_out, report.rows_set_aside, report.quarantine is None) == (3, 2, 1, False)
    (line,) = quarantine(out)
    assert (line["source"], line["key"]) == ("k.csv", f"k.csv#{line['row']}")
    assert {row["v"] for row in rows_of(out)} == {0, 1, 2} - {line["row"] - 2}
    whole = convert(source, tmp_path / "whole", format="tar", shuffle=1, workers=0, max_bad=1)
    assert replace(whole, path="", quarantine=None, splits={}) == replace(report, path="", quarantine=None, splits={})
    assert [path.read_bytes() for path in sorted(out.glob("data/*"))] == [path.read_bytes() for path in sorted((tmp_path / "whole").glob("data/*"))]


def test_both_stages_set_rows_aside_in_one_quarantine(tmp_path: Path) -> None:
    """A value that cannot be read and a name that a shuffle finds twice stand in one file, and both count."""
    lines = [{"__key__": "k1", "v": 0}, {"__key__": "k2", "v": None}, {"__key__": "k1", "v": 2}, {"__key__": "k3", "v": 3}]
    (tmp_path / "k.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadData, match="2 of 4 rows cannot be read"):
        run(tmp_path / "k.jsonl", tmp_path / "out", format="tar", shuffle=1, max_bad=1)
    report = run(tmp_path / "k.jsonl", tmp_path / "out", format="tar", shuffle=1, max_bad=2, resume=True)
    assert (report.rows_in, report.rows_out, report.rows_set_aside) == (4, 2, 2)
    first, second = quarantine(tmp_path / "out")
    assert "null" in first["reason"]
    assert "is also that of k.jsonl#" in second["reason"]


@pytest.mark.parametrize("options", [{}, {"shuffle": 1}, SPLIT], ids=str)
@pytest.mark.parametrize("key", UNUSABLE)
def test_key_that_cannot_name_files_is_set_aside(tmp_path: Path, key: str, options: dict[str, Any]) -> None:
    """A row whose key a tar does not take is a bad row like any other, with the writer's reason; Arrow takes it."""
    source, out = table(tmp_path, ["k1", key, "k3"]), tmp_path / "out"
    with pytest.raises(BadData, match="1 of 3 rows cannot be read"):
        run(source, out, format="tar", **options)
    report = run(source, out, format="tar", max_bad=1, resume=True, **options)
    assert (report.rows_out, report.rows_set_aside) == (2, 1)
    (line,) = quarantine(out)
    assert (line["key"], line["row"]) == ("k.csv#3", 3)
    said = "use shorter keys" if len(key) > 100 else "cannot name files: no '.' in its last part, no '..', no '__' in front; or leave __key__ out"
    assert said in line["reason"]
    roots = [out / name for name in options.get("split", {"": 1})]
    assert sorted(row["v"] for root in roots for row in rows_of(root)) == [0, 2]
    assert not [problem for root in roots for problem in verify(str(root))]
    assert run(source, tmp_path / "arrow").rows_out == 3


def test_no_origin_is_left_in_the_result(tmp_path: Path) -> None:
    """Where rows came from is a column of staged rows alone."""
    run(table(tmp_path, ["k1", "k2"]), tmp_path / "out", format="tar", shuffle=1)
    assert list(ps.Dataset(str(tmp_path / "out")).fields) == ["__key__", "v"]
    for path in tmp_path.rglob("*.tar"):
        with tarfile.open(path) as file:
            assert sorted(file.getnames()) == ["k1.v.cls", "k2.v.cls"]
