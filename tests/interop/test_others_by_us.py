"""We read what others wrote, without rewriting it: webdataset, pyarrow, polars, DuckDB, and datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contracts.interop import ROWS, as_stored, jpeg, plain
from pyarrow import feather

from penstock.errors import BadData
from penstock.fields import Array, Bytes, Image, Json, Scalar, Text, Tokens
from penstock.shards.adopt import adopt
from penstock.shards.dataset import Dataset
from penstock.shards.verify import verify

EXPECTED = [as_stored(number) for number in range(ROWS)]
TYPES = pa.schema(
    [
        ("image", pa.binary()),
        ("label", pa.int64()),
        ("weight", pa.float32()),
        ("on", pa.bool_()),
        ("vector", pa.list_(pa.float32(), 4)),
        ("grid", pa.list_(pa.list_(pa.float32(), 3), 2)),
        ("tokens", pa.list_(pa.int32())),
        ("caption", pa.string()),
        ("note", pa.string()),
        ("raw", pa.binary()),
    ]
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def table() -> pa.Table:
    """Return the rows as a table of pyarrow's own making."""
    return pa.Table.from_pylist(EXPECTED, TYPES)


def check(source: Path | str, columns: list[str] | None = None) -> Dataset:
    """Open a source, compare every row, and see that nothing is found wrong with it; return it."""
    dataset = Dataset(str(source), columns)
    wanted = columns or list(EXPECTED[0])
    found = [{name: plain(value) for name, value in each.items()} for each in dataset]
    assert found == [{name: each[name] for name in wanted} for each in EXPECTED]
    assert plain(dataset[-1][wanted[0]]) == EXPECTED[-1][wanted[0]]
    if columns is None:
        assert list(verify(str(source))) == []
    return dataset


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_arrow_written_by_pyarrow(tmp_path: Path, compression: str, chunk: int) -> None:
    """IPC files with even or one record batch, compressed or not."""
    feather.write_feather(table(), tmp_path / "a.arrow", compression=compression, chunksize=chunk)
    dataset = check(tmp_path / "a.arrow")
    assert dataset.schema["vector"] == Array((4,), "float32")
    assert dataset.schema["tokens"] == Tokens("int32")


def test_arrow_streams_written_by_pyarrow(tmp_path: Path) -> None:
    """The stream format, which has no footer."""
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), TYPES) as writer:
        writer.write_table(table(), max_chunksize=7)
    check(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"compat_level": "oldest"}])
def test_arrow_written_by_polars(tmp_path: Path, options: dict[str, Any]) -> None:
    """Polars' files, which use view types unless told otherwise."""
    import polars as pl

    frame = pl.from_arrow(table())
    assert isinstance(frame, pl.DataFrame)
    if "compat_level" in options:
        options = {"compat_level": pl.CompatLevel.oldest()}
    frame.write_ipc(tmp_path / "a.arrow", **options)
    dataset = check(tmp_path / "a.arrow")
    assert dataset.schema["caption"] == Text()
    assert dataset.schema["image"] == Bytes()


def test_parquet_written_by_duckdb(tmp_path: Path) -> None:
    """DuckDB's Parquet: its fixed arrays are lists there, which are runs here (and lists in lists, without a shape, have no field)."""
    import duckdb

    connection = duckdb.connect()
    connection.register("rows", table().drop(["grid"]))
    connection.sql(f"copy (select * from rows) to '{tmp_path / 'a.parquet'}' (format parquet, row_group_size 2048)")
    connection.close()
    dataset = check(tmp_path / "a.parquet", [name for name in EXPECTED[0] if name != "grid"])
    assert dataset.schema["vector"] == Tokens("float32")
    assert list(verify(str(tmp_path / "a.parquet"))) == []
    published = adopt(str(tmp_path), hash=True, publish=True)
    assert published.rows == ROWS
    assert Dataset(str(tmp_path)).version == 1


def test_parquet_of_many_row_groups_written_by_duckdb(tmp_path: Path) -> None:
    """Rows are found across row groups, and several files are one dataset."""
    import duckdb

    connection = duckdb.connect()
    for part in range(2):
        query = f"select i::bigint as n, 'row ' || i as t from range({part * 5000}, {part * 5000 + 5000}) r(i)"
        connection.sql(f"copy ({query}) to '{tmp_path / f'p{part}.parquet'}' (format parquet, row_group_size 2048)")
    connection.close()
    dataset = Dataset(str(tmp_path / "p{0..1}.parquet"))
    assert len(dataset) == 10_000
    assert [dataset[i] for i in (0, 2047, 2048, 4999, 5000, 9999)] == [{"n": i, "t": f"row {i}"} for i in (0, 2047, 2048, 4999, 5000, 9999)]


def test_nulls_of_duckdb_are_named(tmp_path: Path) -> None:
    """A null that another tool wrote is named with its row, and the rows of other columns are read."""
    import duckdb

    duckdb.sql(f"copy (select i as n, case when i = 3 then null else 'x' end as t from range(5) r(i)) to '{tmp_path / 'a.parquet'}' (format parquet)")
    with pytest.raises(BadData, match="null") as caught:
        _ = Dataset(str(tmp_path))[0]
    assert (caught.value.row, caught.value.field) == (3, "t")
    assert Dataset(str(tmp_path), ["n"])[3] == {"n": 3}


def test_tars_written_by_webdataset(tmp_path: Path) -> None:
    """ShardWriter's tars, with its own encoders, opened by a brace pattern and indexed once."""
    import webdataset

    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=12, verbose=0) as sink:
        for number, each in enumerate(EXPECTED):
            sample = {
                "__key__": f"sample{number:05d}",
                "jpg": each["image"],
                "cls": each["label"],
                "txt": each["caption"],
                "json": json.loads(each["note"]),
                "vector.npy": np.array(each["vector"], np.float32),
                "tokens.npy": np.array(each["tokens"], np.int32),
                "odd.pyd": {"never": "unpickled"},
            }
            sink.write(sample)
    dataset = Dataset(str(tmp_path / "train-{000000..000002}.tar"))
    assert dataset.schema == {
        "cls": Scalar("int64"),
        "jpg": Image("jpeg"),
        "json": Json(),
        "odd.pyd": Bytes(),
        "tokens": Tokens("int32"),
        "txt": Text(),
        "vector": Array((4,), "float32"),
    }
    names = {"jpg": "image", "cls": "label", "txt": "caption", "tokens": "tokens", "vector": "vector"}
    for number, found in enumerate(dataset):
        assert {new: plain(found[old]) for old, new in names.items()} == {new: EXPECTED[number][new] for new in names.values()}
        assert found["json"] == {"n": number}
    assert sorted(path.name for path in tmp_path.glob("*.idx")) == [f"train-{n:06d}.tar.idx" for n in range(3)]
    assert list(verify(str(tmp_path / "train-{000000..000002}.tar"))) == []


@pytest.fixture
def hugging() -> Any:
    """Return HF datasets, quiet and offline, and a data set with an image and classes."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "ids": datasets.Sequence(datasets.Value("int32")),
            "grid": datasets.Array2D((2, 3), "float32"),
            "text": datasets.Value("string"),
        }
    )
    columns = {
        "image": [{"bytes": jpeg(n), "path": None} for n in range(10)],
        "label": [n % 2 for n in range(10)],
        "ids": [[n] * (n % 3) for n in range(10)],
        "grid": [[[n, 1, 2], [3, 4, 5]] for n in range(10)],
        "text": [f"t{n}" for n in range(10)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


HUGGED = {"image": Image("any"), "label": Scalar("int64"), "ids": Tokens("int32"), "grid": Array((2, 3), "float32"), "text": Text()}


def check_hugged(dataset: Dataset) -> None:
    """The data set of the fixture came over whole."""
    assert dataset.schema == HUGGED
    assert dataset.metadata == {"class_names": {"label": ["cat", "dog"]}}
    assert len(dataset) == 10
    assert dataset[7]["grid"].tolist() == [[7, 1, 2], [3, 4, 5]]
    assert dataset[7]["image"] == jpeg(7)
    assert (dataset[7]["label"], dataset[7]["ids"].tolist(), dataset[7]["text"]) == (1, [7], "t7")


def test_a_folder_saved_by_datasets(tmp_path: Path, hugging: Any) -> None:
    """`save_to_disk`: two streams with images as structs and class names in the metadata."""
    hugging.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    check_hugged(Dataset(str(tmp_path / "saved")))
    assert list(verify(str(tmp_path / "saved"))) == []


def test_parquet_written_by_datasets(tmp_path: Path, hugging: Any) -> None:
    """`to_parquet`: what the hub holds."""
    hugging.to_parquet(str(tmp_path / "a.parquet"))
    check_hugged(Dataset(str(tmp_path / "a.parquet")))


def test_a_selection_saved_by_datasets(tmp_path: Path, hugging: Any) -> None:
    """A selected and shuffled data set is saved flat, so its rows are those that were selected."""
    hugging.shuffle(seed=1).select(range(4)).save_to_disk(str(tmp_path / "saved"))
    expected = [each["text"] for each in hugging.shuffle(seed=1).select(range(4))]
    assert [each["text"] for each in Dataset(str(tmp_path / "saved"))] == expected


def test_splits_saved_by_datasets_are_told_apart(tmp_path: Path, hugging: Any) -> None:
    """A folder of splits is no data set itself; the error names them."""
    import datasets

    datasets.DatasetDict({"train": hugging, "test": hugging}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(FileNotFoundError, match="its folders are test, train"):
        Dataset(str(tmp_path / "saved"))
    check_hugged(Dataset(str(tmp_path / "saved" / "train")))
