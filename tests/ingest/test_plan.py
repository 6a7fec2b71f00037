"""A plan: the source described, cut and judged before anything is written, and what the dataset appended to makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contracts.raw import image_folder, rows_of, run
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock as ps
from penstock.errors import BadData, BadRequest
from penstock.ingest.locate import locate
from penstock.ingest.plan import check_source, make_plan
from penstock.ingest.settings import ImageRule, Settings


def planned(src: Path, **options: Any) -> Any:
    """Return the plan of a conversion into a new dataset."""
    found = locate(str(src))
    return make_plan(Settings(source=str(src), kind=found.kind, **options), found.files, "create", [None])


@settings(deadline=None, max_examples=15)
@given(rows=st.integers(1, 3000), shard_kb=st.integers(1, 2000))
def test_parts_cover_the_source_once(tmp_path_factory: pytest.TempPathFactory, rows: int, shard_kb: int) -> None:
    """Whatever the shard size, the parts' runs are the rows from first to last, and their bytes are those of the source."""
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.zeros((rows, 200)))
    made = planned(path, shard_bytes=shard_kb * 1000)
    assert [place for part in made.parts for _, low, high, _ in part.to_json() for place in range(low, high)] == list(range(rows))
    assert sum(made.part_bytes) == rows * 1600
    assert len(made.parts) == len(made.part_bytes)
    assert made.bases == (0,)


def test_plan_does_not_know_the_workers(tmp_path: Path) -> None:
    """Two plans of one source are equal as JSON: nothing of the machine or the moment enters."""
    image_folder(tmp_path / "raw")
    plans = [planned(tmp_path / "raw") for _ in range(2)]
    told = [json.dumps([[span.to_json() for span in plan.parts], plan.part_bytes, plan.described.details], default=str) for plan in plans]
    assert told[0] == told[1]


def test_reencoding_enters_the_schema(tmp_path: Path) -> None:
    """When every image is written anew the column says in which encoding; scaling alone keeps it open."""
    image_folder(tmp_path / "raw")
    assert planned(tmp_path / "raw", image=ImageRule(encoding="webp")).described.schema["image"] == ps.Image("webp")
    assert planned(tmp_path / "raw", image=ImageRule(resize_short=8)).described.schema["image"] == ps.Image()


@pytest.mark.parametrize("rule", [{"resize_short": 8}, {"max_pixels": 8}, {"encoding": "jpeg"}])
def test_image_options_need_images(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Each option for images is refused for a source without any, with the columns it has."""
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(BadRequest, match=r"resize_short, max_pixels and reencode need a column of images; the source has data \(Scalar"):
        planned(tmp_path / "a.npy", image=ImageRule(**rule))


def table(path: Path) -> None:
    """Write a Parquet file with columns of several kinds."""
    columns = {"id": [1], "name": ["a"], "blob": [b"x"], "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), "runs": [[1]]}
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("key", ["vector", "runs", "nowhere"])
def test_split_key_must_be_a_plain_column(tmp_path: Path, key: str) -> None:
    """A key that is an array, a run or no column is refused with the columns that can be one."""
    table(tmp_path / "t.parquet")
    with pytest.raises(BadRequest, match=rf"split_key: '{key}' is not a column of numbers, text or bytes; those are \['id', 'name', 'blob'\]"):
        planned(tmp_path / "t.parquet", splits={"a": 1.0}, split_key=key)


@pytest.mark.parametrize("key", ["id", "name", "blob"])
def test_split_key_of_each_plain_kind(tmp_path: Path, key: str) -> None:
    """Numbers, text and bytes can each choose the split, and equal values are never parted."""
    values = np.arange(400) % 40
    columns = {"id": values, "name": [f"é{v}" for v in values], "blob": [bytes([v, 0]) for v in values]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=50)
    run(tmp_path / "t.parquet", tmp_path / "out", split={"a": 0.5, "b": 0.5}, split_key=key)
    sides = [{row[key] for row in rows_of(tmp_path / "out" / name)} for name in "ab"]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    assert all(sides)


@pytest.mark.parametrize("name", ["__key__", "_x", ".x", "x.", "a/b"])
def test_column_that_no_tar_can_hold(tmp_path: Path, name: str) -> None:
    """A name that cannot be a file's suffix is refused by the plan, before the destination is touched; Arrow takes it."""
    (tmp_path / "t.csv").write_text(f"{name},y\n1,2\n")
    with pytest.raises(BadRequest, match=r"cannot be a file's suffix in a tar.*format='arrow'"):
        run(tmp_path / "t.csv", tmp_path / "out", format="tar")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "t.csv", tmp_path / "out").rows_out == 1


def test_columns_that_a_tar_cannot_tell_apart(tmp_path: Path) -> None:
    """Names that differ in case alone would be one file: refused by the plan."""
    (tmp_path / "t.csv").write_text("Name,name\na,b\n")
    with pytest.raises(BadRequest, match=r"\['Name', 'name'\] cannot be told apart as files in a tar"):
        run(tmp_path / "t.csv", tmp_path / "out", format="tar")
    assert not (tmp_path / "out").exists()


def test_key_column_of_text_names_the_samples(tmp_path: Path) -> None:
    """A `__key__` of text is no suffix but the samples' name, and stays allowed."""
    (tmp_path / "t.csv").write_text("__key__,y\nfirst,1\nsecond,2\n")
    run(tmp_path / "t.csv", tmp_path / "out", format="tar")
    assert [row["__key__"] for row in rows_of(tmp_path / "out")] == ["first", "second"]


@pytest.mark.parametrize(("name", "text"), [("t.csv", "a,b\n"), ("t.jsonl", "\n \n"), ("e.npy", "")])
def test_source_without_rows(tmp_path: Path, name: str, text: str) -> None:
    """A source with nothing in it is refused by its path, and no destination is made."""
    if name == "e.npy":
        np.save(tmp_path / name, np.zeros((0, 3)))
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=rf"{name}: .*holds no r"):
        run(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_check_source_counts_what_there_was(tmp_path: Path) -> None:
    """The refusal says how many files and bytes were looked at."""
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(BadData, match="the source holds no rows: 1 files, 4 bytes"):
        check_source(planned(tmp_path / "t.csv"))


def test_append_under_other_class_names(tmp_path: Path) -> None:
    """Class names that a table brings and the dataset does not have are refused: a label would change its meaning."""
    datasets = pytest.importorskip("datasets")
    for name, classes in (("one", ["cat", "dog"]), ("two", ["dog", "cat"])):
        features = datasets.Features({"label": datasets.ClassLabel(names=classes)})
        datasets.Dataset.from_dict({"label": [0, 1]}, features=features).save_to_disk(str(tmp_path / name))
    run(tmp_path / "one", tmp_path / "out")
    with pytest.raises(BadRequest, match=r"append: the class names .*'dog', 'cat'.* are not those of the dataset, .*'cat', 'dog'"):
        run(tmp_path / "two", tmp_path / "out", append=True)
    assert run(tmp_path / "one", tmp_path / "out", append=True).rows_out == 2
