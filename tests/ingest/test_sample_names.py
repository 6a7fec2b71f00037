"""Keys that stand twice: no row is lost, one key is in one split, and two rows never become one sample of a tar."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.raw import quarantine, rows_of, run
from contracts.tars import write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData

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


@settings(deadline=None, max_examples=15)
@given(
    keys=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    chunk=st.sampled_from([1, 7, 40, 10**6]),
    shard=st.sampled_from([14_000, 30_000, 10**6]),
)
def test_no_shard_ever_has_a_name_twice(tmp_path_factory: pytest.TempPathFactory, keys: list[int], chunk: int, shard: int) -> None:
    """Wherever shards and chunks end, every row is written or set aside, and the first row of each name is written."""
    folder = tmp_path_factory.mktemp("names")
    source = table(folder, [f"k{key}" for key in keys])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.ingest.sources_text.CHUNK_BYTES", chunk)
        report = run(source, folder / "out", format="tar", shard_size=shard, max_bad="100%")
    assert report.rows_in == len(keys)
    values = [row["v"] for row in rows_of(folder / "out")]
    assert values == sorted(values)
    assert set(values) >= set(np.unique(keys, return_index=True)[1].tolist())
    for path in (folder / "out" / "data").glob("*.tar"):
        with tarfile.open(path) as file:
            names = file.getnames()
        assert len(set(names)) == len(names)


def test_repeated_name_found_behind_a_shuffle(tmp_path: Path) -> None:
    """Rows that only a shuffle brings together are refused by name, with the source and what to do."""
    with pytest.raises(BadData, match=r"key 'k1' stands in this shard already; keys must differ; or leave __key__ out with columns=") as caught:
        run(table(tmp_path, ["k1", "k2", "k1"]), tmp_path / "out", format="tar", shuffle=1)
    assert caught.value.path == str(tmp_path / "k.csv")
