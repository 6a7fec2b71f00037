"""Dataset: rows by every kind of index, columns and versions, errors that name the row, and the cost of opening."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts.shard_formats import MIXED, NUMBERS, mixed, numbers, same
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadData, BadRequest, NotADataset, StorageError
from penstock.fields import Bytes, Scalar, Text
from penstock.shards import commits, dataset, readers
from penstock.shards.dataset import Dataset
from penstock.shards.writer import Writer

SCHEMA = {**NUMBERS, **MIXED}
ROWS = [{**a, **b} for a, b in zip(numbers(60), mixed(60), strict=True)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of several shards of several rows."""
    path = tmp_path_factory.mktemp("dataset") / "ds"
    with Writer(path, SCHEMA, shard_size=1500, metadata={"class_names": {"label": ["cat", "dog"]}}) as writer:
        for row in ROWS:
            writer.write(row)
    assert len(commits.load(path).shards) > 5
    return path


def equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether rows are equal, dtype and shape included."""
    return len(found) == len(expected) and all(
        list(a) == list(b) and all(same(a[name], b[name]) for name in b) for a, b in zip(found, expected, strict=True)
    )


def test_every_kind_of_index(root: Path) -> None:
    """Numbers, negative numbers, numpy numbers, slices, lists, arrays, ranges and iteration agree with a list of the rows."""
    ds = Dataset(root)
    assert len(ds) == 60
    assert equal([ds[i] for i in range(60)], ROWS)
    assert equal([ds[-1], ds[np.int32(5)], ds[np.uint8(7)]], [ROWS[-1], ROWS[5], ROWS[7]])
    assert equal(ds[3:9], ROWS[3:9])
    assert equal(ds[::-7], ROWS[::-7])
    assert ds[70:80] == []
    assert ds[[]] == []
    assert equal(ds[[5, 5, -1, 0]], [ROWS[5], ROWS[5], ROWS[-1], ROWS[0]])
    assert equal(ds[np.array([59, 0], np.uint16)], [ROWS[59], ROWS[0]])
    assert equal(ds[range(4)], ROWS[:4])
    assert equal(ds.__getitems__([2, 1]), [ROWS[2], ROWS[1]])
    assert equal(list(ds), ROWS)
    ds.close()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_getitems_equals_one_by_one(root: Path, data: st.DataObject) -> None:
    """Any list of rows, in any order and with repeats, is what the single rows are."""
    indices = data.draw(st.lists(st.integers(-60, 59), max_size=40))
    with Dataset(root) as ds:
        assert equal(ds.__getitems__(indices), [ROWS[i] for i in indices])


def test_a_row_outside_is_an_index_error(root: Path) -> None:
    """As for a list, with the number of rows there are."""
    ds = Dataset(root)
    for index in (60, -61, 10**12):
        with pytest.raises(IndexError, match="which has 60 rows"):
            ds[index]
        with pytest.raises(IndexError, match=str(index)):
            ds[[0, index]]
    numbers_wrong: tuple[Any, ...] = ("a", 1.0, None, True)
    for wrong in numbers_wrong:
        with pytest.raises(BadRequest, match="int"):
            ds[wrong]
    lists_wrong: tuple[Any, ...] = ([1.5], ["a"], [[1]], np.array([True]))
    for wrong in lists_wrong:
        with pytest.raises(BadRequest, match="whole numbers"):
            ds[wrong]


def test_a_number_beyond_64_bits_signed_is_an_index_error(root: Path) -> None:
    """It does not wrap round to a row from the end."""
    ds = Dataset(root)
    for rows in (np.array([2**64 - 1], np.uint64), np.array([0, 2**63], np.uint64), [2**64 - 1]):
        with pytest.raises(IndexError, match=r"row (18446744073709551615|9223372036854775808) of"):
            ds[rows]
    assert equal(ds[np.array([3], np.uint64)], [ROWS[3]])


def test_tensors_are_lists_of_numbers(root: Path) -> None:
    """A torch tensor of whole numbers works as a list, one of a single number as a number; others are refused in words."""
    torch = pytest.importorskip("torch")
    ds = Dataset(root)
    assert equal(ds[torch.tensor([3, -1])], [ROWS[3], ROWS[-1]])
    assert equal(ds.__getitems__(torch.tensor([2])), [ROWS[2]])
    assert equal([ds[torch.tensor(3)], ds[np.array(4)]], [ROWS[3], ROWS[4]])  # type: ignore[list-item]
    for wrong in (torch.tensor([True]), torch.tensor(1.5), torch.tensor([1.0], requires_grad=True), torch.tensor([[1]]), [[1], [1, 2]]):
        with pytest.raises(BadRequest, match="list of whole numbers"):
            ds[wrong]  # type: ignore[index]


@pytest.mark.parametrize("version", [True, False, 1.0, "1"])
def test_a_version_is_a_whole_number(root: Path, version: Any) -> None:
    """A truth value is no version, nor is a float or text; numpy's numbers are."""
    with pytest.raises(BadRequest, match=r"version: .* is not a whole number"):
        Dataset(root, version=version)
    assert len(Dataset(root, version=np.int64(1))) == 60


def test_columns_are_chosen_by_name(root: Path) -> None:
    """Only what was asked for is read, in the order of the dataset; a name that is not there lists those that are."""
    ds = Dataset(root, columns=["tokens", "x"])
    assert ds.columns == ("x", "tokens")
    assert list(ds.fields) == list(ds.schema) == ["x", "tokens"]
    assert equal(ds[2:4], [{"x": row["x"], "tokens": row["tokens"]} for row in ROWS[2:4]])
    with pytest.raises(BadRequest, match=r"no 'nope'; there are x, label, even"):
        Dataset(root, columns=["nope"])
    for wrong in ("x", [], ["x", "x"]):
        with pytest.raises(BadRequest, match="columns"):
            Dataset(root, columns=wrong)


def test_versions_are_pinned(tmp_path: Path) -> None:
    """An open dataset stays as it is when another version lands, and an older one can be asked for by number."""
    with Writer(tmp_path / "ds") as writer:
        writer.write({"n": 1})
    first = Dataset(tmp_path / "ds")
    with Writer(tmp_path / "ds", mode="append") as writer:
        writer.write({"n": 2})
    assert (len(first), first.version) == (1, 1)
    assert [row["n"] for row in Dataset(tmp_path / "ds")] == [1, 2]
    again = Dataset(tmp_path / "ds", version=1)
    assert again.digest == first.digest != Dataset(tmp_path / "ds").digest
    with pytest.raises(BadRequest, match="it has 1, 2"):
        Dataset(tmp_path / "ds", version=3)
    with pytest.raises(NotADataset):
        Dataset(tmp_path / "nothing", version=1)


def test_it_says_what_it_is(root: Path) -> None:
    """Its text, its read-only fields and its metadata are for people."""
    ds = Dataset(root)
    assert f"Dataset({str(root)!r}, version=1, rows=60" in repr(ds)
    assert "label: Scalar(dtype='int64')" in repr(ds)
    assert ds.metadata["class_names"] == {"label": ["cat", "dog"]}
    assert ds.path == str(root)
    with pytest.raises(TypeError):
        ds.fields["x"] = Text()  # type: ignore[index]


def test_a_pickled_dataset_opens_itself_again(root: Path) -> None:
    """It carries path, columns and version, and no data; its copy gives the same rows."""
    ds = Dataset(root, columns=["label"])
    _ = ds[0]
    data = pickle.dumps(ds)
    assert len(data) < 500
    copy = pickle.loads(data)
    assert (copy.digest, copy.version, copy.columns) == (ds.digest, ds.version, ds.columns)
    assert copy[5] == ds[5]


def test_opening_reads_no_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset whose shards are unreachable opens, knows its length, and fails at the first row with the shard's name."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(dataset, "open_reader", refuse)
    ds = Dataset(root)
    assert (len(ds), len(ds.digest)) == (60, 32)
    assert ds.locate(np.array([0, 59]))[0].tolist() == [0, len(ds.manifest.shards) - 1]
    with pytest.raises(AssertionError):
        ds[0]


def test_locate_finds_every_row(root: Path) -> None:
    """Shard and row in the shard add up to the row, also past shards that are empty."""
    ds = Dataset(root)
    rows = np.arange(60)
    shards, inner = ds.locate(rows)
    assert (ds.manifest.starts[shards] + inner == rows).all()
    counts = np.array([shard.rows for shard in ds.manifest.shards])
    assert (inner < counts[shards]).all()
    assert (inner >= 0).all()


def test_few_shards_stay_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers used last stay, older ones are let go of, rows stay right, and after close everything opens again."""
    monkeypatch.setattr(readers, "MOST_OPEN", 2)
    before = len(list(Path("/proc/self/fd").iterdir()))
    ds = Dataset(root)
    assert equal(list(ds), ROWS)
    assert equal(ds[::-1], ROWS[::-1])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert ds.reader(0) is ds.reader(0)
    kept = ds.reader(0)
    assert ds.reader(1) is not None
    assert ds.reader(2) is not None
    assert ds.reader(0) is not kept
    assert len(kept.block(0)["label"].row(0).shape) == 0  # whoever was given the reader before goes on with it
    ds.close()
    ds.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert equal([ds[3]], [ROWS[3]])
    ds.close()


def test_rows_do_not_hold_the_shard_and_may_be_written(root: Path) -> None:
    """A row's arrays are the caller's own."""
    with Dataset(root) as ds:
        row = ds[1]
        row["x"][:] = 7
        assert same(ds[1]["x"], ROWS[1]["x"])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a dataset of two shards of three rows."""
    with Writer(tmp_path / "ds", {"b": Bytes(), "t": Text(), "n": Scalar()}, shard_size=60) as writer:
        for i in range(6):
            writer.write({"b": b"xyz%d" % i, "t": f"te\u00e4t{i}", "n": i})
    assert [shard.rows for shard in commits.load(tmp_path / "ds").shards] == [3, 3]
    return tmp_path / "ds"


def test_a_damaged_value_names_shard_and_row(small: Path) -> None:
    """The row is counted in its shard, and other rows are still read."""
    ds = Dataset(small)
    shard = ds.manifest.shards[1]
    data = (small / shard.path).read_bytes()
    (small / shard.path).write_bytes(data.replace("te\u00e4t4".encode(), b"te\xff\xfft4"))
    with pytest.raises(BadData, match="UTF-8") as caught:
        ds[4]
    assert (caught.value.path, caught.value.shard, caught.value.row, caught.value.field) == (str(small), shard.path, 1, "t")
    assert ds[3]["n"] == 3
    with pytest.raises(BadData):
        ds[[3, 4]]
    ds.close()


def test_a_cut_or_missing_shard_is_named(small: Path) -> None:
    """The other shard is still read."""
    ds = Dataset(small)
    path = small / ds.manifest.shards[0].path
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(BadData, match="cut or replaced") as caught:
        ds[0]
    assert caught.value.shard == ds.manifest.shards[0].path
    path.unlink()
    with pytest.raises(StorageError, match="does not exist") as gone:
        ds[0]
    assert gone.value.url == str(path)
    assert ds[5]["n"] == 5
    ds.close()


def test_a_shard_swapped_for_a_link_out_is_refused(small: Path, tmp_path: Path) -> None:
    """A link that appears later leads nowhere either."""
    ds = Dataset(small)
    path = small / ds.manifest.shards[0].path
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadData, match="symbolic link"):
        ds[0]


def test_torch_reads_it_as_a_map_style_dataset(root: Path) -> None:
    """It has what torch's own DataLoader asks of a dataset."""
    torch = pytest.importorskip("torch.utils.data")
    loader = torch.DataLoader(Dataset(root, columns=["x", "label"]), batch_size=7, shuffle=False)
    labels = [int(label) for batch in loader for label in batch["label"]]
    assert labels == [row["label"] for row in ROWS]


def test_writing_and_reading_arrow_does_not_bring_pandas(tmp_path: Path) -> None:
    """Some of pyarrow's conveniences import pandas where it is installed, which costs each worker 0.6 s; none of them is used on the way."""
    code = """
import sys, numpy as np
from pathlib import Path
from penstock.fields import Array, Scalar, Text, Tokens
from penstock.shards import arrow
from penstock.shards.writer import Writer
folder = Path(sys.argv[1])
with Writer(folder / "ds", {"x": Array((2, 2)), "b": Scalar("bool"), "k": Tokens(), "t": Text()}) as writer:
    writer.write({"x": np.zeros((2, 2)), "b": True, "k": np.arange(3), "t": "text"})
shard = writer.manifest.shards[0]
row = arrow.open_shard(folder / "ds" / shard.path, shard, writer.manifest.schema).row(0)
print(list(row), {"pandas", "torch", "numba"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "['x', 'b', 'k', 't'] set()\n"
